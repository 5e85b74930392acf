"""Describe the units of a network in words: from a network and images to a table and a page."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from milan.cli.defaults import DEFAULT_PROBE, DEFAULT_TARGET
from milan.console.command_line import program, record_warnings
from milan.console.processes import is_first_process
from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from torch import nn

    from milan.describers import Describer
    from milan.probes import Probe
    from milan.results.catalogue import Catalogue
    from milan.targets.target import Target
    from milan.units import Unit


def describe(
    target: "str | Target | nn.Module" = DEFAULT_TARGET,
    probe: "str | Probe" = DEFAULT_PROBE,
    describer: "str | Describer" = "milan",
    *,
    layers: Sequence[str] = (),
    units: "str | Iterable[Unit]" = "",
    out: str | Path | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> "Catalogue":
    """Dissect a network, describe its units, and write the table and the page to ``out``. Runs are resumable.

    Args:
        target: network under study: a spec (see ``load_target``), a ``Target``, or a module (which is assumed, with a
            warning, to take 224-pixel images).
        probe: images to run it on: a spec (see ``load_probe``) or a ``Probe``.
        describer: a name, ``NAME:KEY=VALUE,...``, a YAML file as in ``configs/describe``, ``auto``, or a ``Describer``.
        layers: dotted paths; if empty, all annotated layers of Diorama's networks.
        units: "0-99", "3,17", "layer4:0-9,layer1:5", or ``Unit`` objects; all units if empty.
        out: output folder; ``runs/TARGET-DESCRIBER`` by default.
        device: device of the target and the describer.
        settings: settings of the describer, by the names of its constructor's arguments.
        options: ``neighbours`` (whether the page lists the nearest units of each unit, with a map of all; True by
            default), and ``k``, ``quantile``, ``rank_by``, ``batch_size``, ``memory``, ``workers`` of ``dissect``.

    Raises:
        MilanError: an argument cannot be used, or a model or evidence is missing; the text says what to do.
    """
    from milan.cli.describe_run import execute_run, prepare_run

    with record_warnings():
        return execute_run(
            prepare_run(
                target,
                probe,
                describer,
                layers=layers,
                units=units,
                out=out,
                device=device,
                settings=settings,
                **options,
            )
        )


@dataclass(frozen=True)
class DescribeConfig:
    """Options of ``describe.py`` beside those of the target.

    Attributes:
        target: network under study: torchvision:NAME, timm:NAME, hf:ID_OR_PATH, PATH/FILE.py:FUNCTION or diorama:NAME
        weights: safetensors file or saved state dict, or random; by default the library's weights
        probe: images to run it on: FOLDER, FILE.parquet, hf:ID_OR_PATH or diorama:NAME; latents:TARGET for the pictures
            of a generator
        limit: number of images to use, from the first
        layers: dotted paths of the layers; --list_layers prints them
        units: units of each layer, as 0-99 or 3,17 or layer4:0-9,layer1:5; all by default
        describer: method by its name, NAME:KEY=VALUE,..., a YAML file as in configs/describe, or auto for the best one
            that can run with the models and labels at hand
        settings: settings of the describer, one by one: --settings.KEY VALUE
        out: output folder; runs/TARGET-DESCRIBER by default
        k: number of exemplars (top-activating images) per unit
        quantile: activation quantile used as the mask threshold
        rank_by: activation by which images are ranked as exemplars: the maximum or mean over the image's places, or the
            class token
        batch_size: images decoded at a time; changes no result
        memory: memory for the statistics, as 4GiB
        workers: number of additional threads that decode images
        device: device of network and describer, as cpu or cuda
        neighbours: list the nearest units of each unit on the page, and draw a map of all units (map.html); takes
            seconds for hundreds of units and minutes for tens of thousands
        offline: download nothing and ask no hub; what is in the cache is used
        dry_run: print the plan and its estimated cost, then exit
        list_layers: print the layers that can be dissected, then exit
    """

    # On the command line its fields are options without a prefix.
    flat: ClassVar[bool] = True

    target: str = DEFAULT_TARGET
    weights: str | None = None
    probe: str = DEFAULT_PROBE
    limit: int | None = None
    layers: list[str] | None = None
    units: str = ""
    describer: str = "milan"
    settings: dict[str, Any] | None = None
    out: Path | None = None
    k: int = 15
    quantile: float = 0.99
    rank_by: Literal["max", "mean", "cls"] = "max"
    batch_size: int = 16
    memory: str = "4GiB"
    workers: int = 0
    device: str = "cpu"
    neighbours: bool = True
    offline: bool = False
    dry_run: bool = False
    list_layers: bool = False


def run_describe(
    config: DescribeConfig = DescribeConfig(),
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
) -> None:
    """Describe the units of a network in words, as ``describe.py`` does.

    Args:
        config: what is described, and how.
        target_options: how the target's input is made and its output is read.
    """
    from milan.experiments.core.early_checks import check_options

    check_options(config, target_options)
    if config.offline:
        from milan.storage.hub_access import go_offline

        go_offline()
    from milan.targets.loading import load_target
    from milan.targets.module_access import parse_device

    parse_device(config.device)
    if not config.list_layers:
        _check_settings(config)
    network = load_target(config.target, weights=config.weights, device=config.device, **target_options.given)
    if config.list_layers:
        from milan.targets.layers import format_layers

        print(format_layers(network.layers()))
        return
    from milan.cli.describe_output import print_plan, print_result
    from milan.cli.describe_run import execute_run, load_probe_for, prepare_run

    images = load_probe_for(network, config.probe, config.limit)
    plan = prepare_run(
        network,
        images,
        config.describer,
        layers=config.layers or (),
        units=config.units,
        out=config.out,
        device=config.device,
        settings=config.settings,
        neighbours=config.neighbours,
        k=config.k,
        quantile=config.quantile,
        rank_by=config.rank_by,
        batch_size=config.batch_size,
        memory=config.memory,
        workers=config.workers,
    )
    if config.dry_run:
        print_plan(plan)
        return
    catalogue = execute_run(plan)
    if is_first_process():
        print_result(catalogue, plan.out)


def _check_settings(config: DescribeConfig) -> None:
    """Report faulty settings of one of the package's describers before a network is loaded."""
    from milan.describers import list_describers
    from milan.describers._shared.describer_specs import parse_spec, resolve_settings

    spec = parse_spec(config.describer)
    if spec.name in list_describers():
        given = {**spec.settings, **(config.settings or {})}
        resolve_settings(spec.name, given, (config.target, config.probe), config.device)


def main(args: Sequence[str] | None = None) -> int:
    """Run the program with command-line arguments and return its exit status."""
    return program("describe.py", "Describe the units of a network in words.", run_describe, args)


if __name__ == "__main__":
    sys.exit(main())
