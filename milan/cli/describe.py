"""From a network and some images to a table and a page of described units."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milan.console.command_line import program, record_warnings
from milan.targets.preprocessing import TargetOptions

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from torch import nn

    from milan.describers import Describer
    from milan.probes import Probe
    from milan.results.catalogue import Catalogue
    from milan.targets.target import Target
    from milan.units import Unit

DEFAULT_TARGET, DEFAULT_PROBE = "diorama:resnet-objects", "diorama:objects"


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
    **dissection_options: Any,
) -> "Catalogue":
    """Dissects a network, describes its units, and writes the table and the page to ``out``; run again, it goes on
    where it was.

    Args:
        target: the network: a spec (see ``load_target``), a ``Target``, or a module, of which 224-pixel images are
            assumed, with a warning.
        probe: its images: a spec (see ``load_probe``) or a ``Probe``.
        describer: the name of one of the package's, or one of yours.
        layers: dotted paths; for Diorama's networks all annotated layers, if none are given.
        units: which: "0-99", "3,17", "layer4:0-9,layer1:5", or units; all, if empty.
        out: folder for everything that is made; ``runs/TARGET-DESCRIBER`` if not given.
        device: where the target and the describer run.
        settings: of the describer, by the names of its constructor.
        dissection_options: ``k``, ``quantile``, ``batch_size``, ``memory``, ``workers`` of ``dissect``.

    Raises:
        MilanError: something given cannot be used as it is; the text says what to do.
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
                dissection_options=dissection_options,
            )
        )


def run_describe(
    target: str = DEFAULT_TARGET,
    weights: str | None = None,
    target_options: TargetOptions = TargetOptions(),  # noqa: B008 (frozen)
    probe: str = DEFAULT_PROBE,
    limit: int | None = None,
    layers: list[str] | None = None,
    units: str = "",
    describer: str = "milan",
    settings: dict[str, Any] | None = None,
    out: Path | None = None,
    k: int = 15,
    quantile: float = 0.99,
    batch_size: int = 16,
    memory: str = "4GiB",
    workers: int = 0,
    device: str = "cpu",
    dry_run: bool = False,
    list_layers: bool = False,
) -> None:
    """Describes the units of a network in words.

    Args:
        target: the network: torchvision:NAME, timm:NAME, hf:ID_OR_PATH, PATH/FILE.py:FUNCTION or diorama:NAME
        weights: a safetensors file or a saved state dict, or random; else those of the library
        target_options: what is said of the target besides
        probe: the images: FOLDER, FILE.parquet, hf:ID_OR_PATH or diorama:NAME; of a generator its own pictures,
            latents:TARGET
        limit: only the first so many images
        layers: dotted paths of the layers; --list_layers prints those there are
        units: of each layer, as 0-99 or 3,17 or layer4:0-9,layer1:5; all by default
        describer: the method, by the name of its file in milan/describers
        settings: of the describer, one by one: --settings.KEY VALUE
        out: the folder to write to; runs/TARGET-DESCRIBER by default
        k: exemplars of a unit
        quantile: of a unit's activations, above which a place belongs to its mask
        batch_size: images that are decoded at a time; changes no result
        memory: for the statistics, as 4GiB
        workers: further threads that decode images
        device: where network and describer run, as cpu or cuda
        dry_run: tell what would be done and how large it is, and end
        list_layers: print the layers that can be dissected, and end
    """
    from milan.cli.describe_output import print_plan, print_result
    from milan.cli.describe_run import execute_run, load_probe_for, prepare_run
    from milan.describers import parse_settings
    from milan.targets.layers import format_layers
    from milan.targets.loading import load_target

    if not list_layers:
        # Faulty settings, and that images are sent elsewhere, are reported before anything is loaded.
        parse_settings(describer, settings or {}, device)
    network = load_target(target, weights=weights, device=device, **target_options.given)
    if list_layers:
        print(format_layers(network))
        return
    images = load_probe_for(network, probe, limit)
    dissecting = {"k": k, "quantile": quantile, "batch_size": batch_size, "memory": memory, "workers": workers}
    plan = prepare_run(
        network,
        images,
        describer,
        layers=layers or (),
        units=units,
        out=out,
        device=device,
        settings=settings,
        dissection_options=dissecting,
    )
    if dry_run:
        print_plan(plan)
        return
    catalogue = execute_run(plan)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        print_result(catalogue, plan.out)


def main(args: Sequence[str] | None = None) -> int:
    """The program: reads the options, runs, and gives the exit status."""
    return program("describe.py", "Describes the units of a network in words.", run_describe, args)


if __name__ == "__main__":
    sys.exit(main())
