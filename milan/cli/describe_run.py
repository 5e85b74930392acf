"""Prepare a run of describe.py and execute it."""

import json
import platform
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from milan.cli.defaults import DEFAULT_PROBE
from milan.console.command_line import get_recorded_warnings
from milan.describers import Describer, sources_of
from milan.describers._shared.describer_specs import ResolvedDescriber, resolve_describer
from milan.describers._shared.runner import describe_units
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.distributed import Shard, get_shard
from milan.dissection.rounding import Rounding, measure_rounding
from milan.errors import BadInput, MilanNotice, MilanWarning
from milan.probes import Probe, load_probe
from milan.results.catalogue import OK, Catalogue, Entry
from milan.results.neighbours import UnitNeighbours, find_neighbours, standardize_activations
from milan.results.page import write_exemplar_views, write_page
from milan.results.page.exemplar_views import ExemplarView
from milan.results.unit_map import write_unit_map
from milan.storage.files import lock_folder, write_text
from milan.storage.provenance import simulated_note
from milan.storage.software_versions import collect_versions
from milan.targets.generator_target import GeneratorTarget
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.targets.unit_selection import select_units
from milan.units import Unit


@dataclass
class DescribeRun:
    """Everything that a run needs, loaded and checked before it starts."""

    target: Target
    probe: Probe
    describer: Describer
    units: dict[str, list[int]]  # of each layer, in the target's order
    out: Path
    dissection_options: dict[str, Any] = field(default_factory=dict)  # k, quantile, batch_size, memory, workers
    options: dict[str, Any] = field(
        default_factory=dict
    )  # what config.yaml keeps; empty if the run cannot be written as options
    seconds: dict[str, float] = field(default_factory=dict)
    neighbours: bool = True  # whether the page has nearest units and a map
    reason: str = ""  # why this describer, if ``auto`` has chosen it
    rounding: Rounding | None = None  # how far 16 bits change the results, if the target runs in them

    @property
    def layers(self) -> list[str]:
        """Names of the described layers, in their order."""
        return list(self.units)


def prepare_run(
    target: str | Target | nn.Module,
    probe: str | Probe,
    describer: str | Describer,
    *,
    layers: Sequence[str] = (),
    units: str | Iterable[Unit] = "",
    out: str | Path | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> DescribeRun:
    """Load target, probe and describer, and check all options before the first image is read.

    Args:
        options: ``neighbours`` (whether the page lists the nearest units of each unit, with a map of all units), and
            options of ``dissect``, such as ``k`` and ``quantile``.

    Raises:
        MilanError: an option, a model or evidence cannot be used or is missing.
    """
    if not isinstance(target, Target):
        target = load_target(target, device=device) if isinstance(target, str) else Target(target, device=device)
    neighbours = options.pop("neighbours", True)
    chosen = select_units(target, layers, units)
    if not isinstance(probe, Probe):
        probe = load_probe_for(target, probe)
    name = describer if isinstance(describer, str) else ""
    reason, label = "", ""
    if isinstance(describer, str):
        found = resolve_describer(describer, target, probe, settings=settings, device=device)
        describer, label, reason = found.describer, found.label, found.reason
        _warn_of_dissection_options(name, found, options)
    elif settings:
        raise BadInput("settings are for a describer given by name; pass them to the constructor of yours")
    place = Path(out) if out else Path("runs") / f"{target.slug}-{label if '=' in label else describer.name}"
    plan = DescribeRun(target, probe, describer, chosen, place, options, reason=reason, neighbours=neighbours)
    if name:
        plan.options = _collect_options(plan, units, device, {"describer": name, "settings": dict(settings or {})})
    return plan


def _warn_of_dissection_options(spec: str, found: ResolvedDescriber, options: Mapping[str, Any]) -> None:
    for name, value in found.dissection.items():
        if options.get(name, value) != value:
            text = f"{spec} states {name} {value}, but this run dissects with {options[name]}; give --{name} {value}"
            warnings.warn(text, MilanWarning, stacklevel=3)


def load_probe_for(target: Target, spec: str, limit: int | None = None) -> Probe:
    """Load a probe with the preprocessing of a target; for a generator its own pictures, unless others are named."""
    if spec == DEFAULT_PROBE and isinstance(target, GeneratorTarget):
        return Probe.from_generator(target, spec=target.generated_probe_spec, limit=limit)
    return load_probe(spec, target=target, limit=limit)


def execute_run(plan: DescribeRun) -> Catalogue:
    """Dissect, describe and write the results; what an earlier run into the same folder has finished is kept."""
    shard = get_shard()
    if plan.reason:
        warnings.warn(f"auto chose {plan.describer.name}: {plan.reason}", MilanNotice, stacklevel=2)
    _ = plan.describer.key  # loads the weights, so that errors in them come before the long work
    with lock_folder(plan.out) if shard.rank == 0 else nullcontext():
        if shard.rank == 0 and plan.target.precision == "bf16":
            _report_precision(plan)
        if shard.rank == 0 and plan.options:
            write_text(plan.out / "config.yaml", yaml.safe_dump(plan.options, sort_keys=False, allow_unicode=True))
        with _record_seconds(plan, "dissecting"):
            dissections = dissect(
                plan.target, plan.probe, plan.layers, plan.out / "dissection", **plan.dissection_options
            )
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in plan.units.items()}
        with _record_seconds(plan, "describing"):
            entries = describe_units(plan.describer, dissections, wanted, plan.out, shard)
        return _write_results(plan, dissections, entries, shard)


def _report_precision(plan: DescribeRun) -> None:
    """Print how far 16 bits change the first images' exemplars and masks, and keep it for ``run.json``."""
    settings = {name: plan.dissection_options[name] for name in ("k", "quantile") if name in plan.dissection_options}
    plan.rounding = measure_rounding(plan.target, plan.probe, plan.layers, **settings)
    if plan.rounding:
        warnings.warn(f"bf16 relative to fp32: {plan.rounding}", MilanNotice, stacklevel=3)


def _collect_options(
    plan: DescribeRun, units: str | Iterable[Unit], device: str, describer: dict[str, Any]
) -> dict[str, Any]:
    """Return the run as options of describe.py; empty if the target, the probe or a setting is a Python object."""
    target, probe = plan.target.settings, plan.probe.settings
    if not target or not probe["spec"] or not all(map(_is_plain, describer["settings"].values())):
        return {}
    return {
        "target": target["spec"],
        **{name: value for name, value in target.items() if name != "spec"},
        "probe": probe["spec"],
        "limit": probe["limit"],
        "layers": plan.layers,
        "units": units if isinstance(units, str) else ",".join(str(unit) for unit in sorted(units)),
        **describer,
        "device": device,
        "out": str(plan.out),
        **plan.dissection_options,
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return isinstance(value, str | int | float | bool | None)


def _write_results(
    plan: DescribeRun, dissections: dict[str, Dissection], entries: list[Entry], shard: Shard
) -> Catalogue:
    """Write table, page and ``run.json``; of several processes only the first does."""
    if shard.rank:
        return Catalogue(tuple(entries), _collect_facts(plan, dissections, entries))
    with _record_seconds(plan, "page"):
        shown = [entry.unit for entry in entries if entry.status in (OK, "failed", "sparse")]
        views = write_exemplar_views(dissections, shown, plan.out / "page")
        # After the images, since the facts hold all warnings.
        catalogue = Catalogue(tuple(entries), _collect_facts(plan, dissections, entries), plan.out)
        nearest = _relate_units(catalogue, dissections, views, plan.out / "page") if plan.neighbours else {}
        write_page(catalogue, dissections, plan.out / "page", views, nearest)
    catalogue.write(plan.out)
    made = {"seconds": plan.seconds, "made": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(plan.out / "run.json", json.dumps({**catalogue.facts, **made}, indent=1) + "\n")
    return catalogue


def _relate_units(
    catalogue: Catalogue,
    dissections: Mapping[str, Dissection],
    views: Mapping[Unit, ExemplarView],
    page: Path,
) -> dict[Unit, UnitNeighbours]:
    """Write the map of units beside the page, and return the neighbours of each."""
    activations = standardize_activations(dissections, [entry.unit for entry in catalogue.entries])
    write_unit_map(catalogue, activations, page)
    return find_neighbours(activations, {unit: view.names for unit, view in views.items()})


def _collect_facts(plan: DescribeRun, dissections: dict[str, Dissection], entries: list[Entry]) -> dict[str, Any]:
    """Return the facts about the run that ``run.json`` and the foot of the page state."""
    first = next(iter(dissections.values()))
    sources = sources_of(dissections.values(), {plan.describer.name: plan.describer})
    if plan.target.weights:
        sources["weights of the target"] = str(plan.target.weights)
    skipped = sorted(
        {index for dissection in dissections.values() for index in getattr(dissection, "facts", {}).get("skipped", [])}
    )
    failed = [entry for entry in entries if entry.status == "failed"]
    describer_facts = (
        [
            f"{len(failed)} units could not be described ({failed[0].unit}: {failed[0].reason}); run again to try them"
            " again"
        ]
        if failed
        else []
    )
    return {
        "target": plan.target.name,
        "weights": plan.target.weights,
        "probe": plan.probe.spec or plan.probe.name,
        "images": len(plan.probe),
        "preprocessing": "" if isinstance(plan.target, GeneratorTarget) else str(plan.target.preprocessing),
        "skipped": skipped,
        "layers": plan.layers,
        "k": first.k,
        "quantile": first.quantile,
        **({} if first.rank_by == "max" else {"rank_by": first.rank_by}),
        "describer": plan.describer.name,
        **({"chosen": plan.reason} if plan.reason else {}),
        **({"precision": {"target": "bf16", **vars(plan.rounding)}} if plan.rounding else {}),
        "settings": {
            name: value if _is_plain(value) else str(value) for name, value in plan.describer.settings.items()
        },
        "sources": sources,
        "simulated": simulated_note(sources),
        "seed": plan.describer.settings.get("seed"),
        "device": str(plan.target.device),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "hashes": {
            "target": plan.target.fingerprint,
            "probe": plan.probe.fingerprint,
            "describer": plan.describer.key,
            **{layer: dissection.key for layer, dissection in dissections.items()},
        },
        "versions": collect_versions(),
        "warnings": [*get_recorded_warnings(), *describer_facts],
    }


@contextmanager
def _record_seconds(plan: DescribeRun, part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    plan.seconds[part] = round(time.monotonic() - start, 2)
