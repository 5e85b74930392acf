"""What a run of describe.py is to do, and doing it."""

import json
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from milan.catalogue import OK, Catalogue, Entry
from milan.command import warnings_so_far
from milan.describers import Describer, load_describer, sources_of, typed_settings
from milan.describers.resuming import describe_units
from milan.dissection.dissect import dissect
from milan.dissection.shards import Shard, shard_here
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.page import write_page, write_sheets
from milan.probes import Probe, load_probe
from milan.programs.describe import PROBE
from milan.provenance import simulated_note
from milan.storage import locked, versions, write_text
from milan.targets import GeneratorTarget, Target, load_target
from milan.targets.choosing import units_of
from milan.units import Unit


@dataclass
class Plan:
    """Everything that a run needs, found and checked before it starts."""

    target: Target
    probe: Probe
    describer: Describer
    units: dict[str, list[int]]  # of each layer, in the target's order
    out: Path
    dissecting: dict[str, Any] = field(default_factory=dict)  # k, quantile, batch_size, memory, workers
    options: dict[str, Any] = field(default_factory=dict)  # what config.yaml keeps; empty if the run cannot be written as options
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        return list(self.units)


def make_plan(
    target: str | Target | nn.Module,
    probe: str | Probe,
    describer: str | Describer,
    *,
    layers: Sequence[str] = (),
    units: str | Iterable[Unit] = "",
    out: str | Path | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    dissecting: Mapping[str, Any] | None = None,
) -> Plan:
    """Finds all that is named; whatever is wrong with an option is told here, before the first image is read."""
    if not isinstance(target, Target):
        target = load_target(target, device=device) if isinstance(target, str) else Target(target, device=device)
    chosen = units_of(target, layers, units)
    if not isinstance(probe, Probe):
        probe = chosen_probe(target, probe)
    name = describer if isinstance(describer, str) else ""
    if isinstance(describer, str):
        describer = load_describer(describer, **typed_settings(describer, settings or {}, device))
    elif settings:
        raise BadInput("settings are for a describer given by name; set them where you make yours")
    place = Path(out) if out else Path("runs") / f"{target.slug}-{describer.name}"
    plan = Plan(target, probe, describer, chosen, place, dict(dissecting or {}))
    if name:
        plan.options = _options(plan, units, device, {"describer": name, "settings": dict(settings or {})})
    return plan


def chosen_probe(target: Target, spec: str, limit: int | None = None) -> Probe:
    """The probe that ``spec`` names, as the target is to see it; for a generator its own pictures, unless others are named."""
    if spec == PROBE and isinstance(target, GeneratorTarget):
        return Probe.made_by(target, spec=target.own_probe, limit=limit)
    return load_probe(spec, target=target, limit=limit)


def perform(plan: Plan) -> Catalogue:
    """Dissects, describes and writes; what an earlier run into the same folder has finished is not done again."""
    shard = shard_here(plan.target.device)
    _ = plan.describer.key  # weights that are not to be had are told before the long work, not after it
    with locked(plan.out) if shard.rank == 0 else nullcontext():
        if shard.rank == 0 and plan.options:
            write_text(plan.out / "config.yaml", yaml.safe_dump(plan.options, sort_keys=False, allow_unicode=True))
        with _timed(plan, "dissecting"):
            dissections = dissect(plan.target, plan.probe, plan.layers, plan.out / "dissection", **plan.dissecting)
        wanted = {layer: [Unit(layer, index) for index in indices] for layer, indices in plan.units.items()}
        with _timed(plan, "describing"):
            entries = describe_units(plan.describer, dissections, wanted, plan.out, shard)
        return _write(plan, dissections, entries, shard)


def _options(plan: Plan, units: str | Iterable[Unit], device: str, describer: dict[str, Any]) -> dict[str, Any]:
    """The run as options of describe.py; empty if something in it was made in Python."""
    target, probe = plan.target.settings, plan.probe.settings
    if not target or not probe["spec"] or not all(map(_plain, describer["settings"].values())):
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
        **plan.dissecting,
    }


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    return isinstance(value, str | int | float | bool | None)


def _write(plan: Plan, dissections: dict[str, Dissection], entries: list[Entry], shard: Shard) -> Catalogue:
    """Writes table, page and ``run.json``; of several processes only the first."""
    if shard.rank:
        return Catalogue(tuple(entries), _facts(plan, dissections, entries))
    with _timed(plan, "page"):
        shown = [entry.unit for entry in entries if entry.status in (OK, "failed", "sparse")]
        sheets = write_sheets(dissections, shown, plan.out / "page")
        catalogue = Catalogue(tuple(entries), _facts(plan, dissections, entries))  # now all warnings are known
        write_page(catalogue, dissections, plan.out / "page", sheets)
    catalogue.write(plan.out)
    made = {"seconds": plan.seconds, "made": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(plan.out / "run.json", json.dumps({**catalogue.facts, **made}, indent=1) + "\n")
    return catalogue


def _facts(plan: Plan, dissections: dict[str, Dissection], entries: list[Entry]) -> dict[str, Any]:
    """What ``run.json`` says of the run, and the page at its foot."""
    first = next(iter(dissections.values()))
    sources = sources_of(dissections.values(), {plan.describer.name: plan.describer})
    if plan.target.weights:
        sources["weights of the target"] = str(plan.target.weights)
    skipped = sorted({index for dissection in dissections.values() for index in getattr(dissection, "facts", {}).get("skipped", [])})
    failed = [entry for entry in entries if entry.status == "failed"]
    told = (
        [f"{len(failed)} units could not be described ({failed[0].unit}: {failed[0].reason}); run again to try them again"]
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
        "describer": plan.describer.name,
        "settings": {name: value if _plain(value) else str(value) for name, value in plan.describer.settings.items()},
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
        "versions": versions(),
        "warnings": [*warnings_so_far(), *told],
    }


@contextmanager
def _timed(plan: Plan, part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    plan.seconds[part] = round(time.monotonic() - start, 2)
