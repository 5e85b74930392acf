"""Dissecting a target: one pass over a probe that finds, of every unit of some layers, exemplars, threshold and activations."""

import json
import math
import re
import shutil
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from milan.dissection.determinism import examine
from milan.dissection.images import keep_images, kept_images
from milan.dissection.passes import block_length
from milan.dissection.record import LayerPlan, LayerRecord, pooled_name
from milan.dissection.running import Run
from milan.dissection.shards import Shard, shard_here
from milan.dissection.store import (
    EXEMPLARS,
    FACTS,
    FORMAT,
    STATISTICS,
    Dissection,
    StoredDissection,
    facts_or_fault,
    layer_folder,
    read_facts,
)
from milan.errors import BadInput, MilanNotice, MilanWarning, warn_again
from milan.integrity import checksums, damage, read_sealed, sealed
from milan.preprocessing import pixel_count
from milan.probes import Probe
from milan.storage import atomic, content_key, locked
from milan.targets import GeneratorTarget, Target

WORK = ".work"  # what a run that has not ended keeps, to go on after a kill
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SPARED = 64 * 2**20  # disk space to leave for what is small


def dissect(
    target: Target,
    probe: Probe,
    layers: Sequence[str],
    out: str | Path,
    *,
    k: int = 15,
    quantile: float = 0.99,
    batch_size: int = 16,
    memory: str | int = "4GiB",
    workers: int = 0,
    units: Mapping[str, Sequence[int]] | None = None,
    allow_nondeterministic: bool = False,
) -> dict[str, Dissection]:
    """Finds what activates each unit of the layers, in one pass of the target over the probe that stops after the last of them.

    What was found before for the same weights, layer, probe and settings is read instead. A run that was killed goes on where it was,
    with the same result byte for byte. Nothing of it depends on ``batch_size``, ``workers``, the number of threads or, under
    ``torchrun``, of processes, which must all see ``out`` (a shared folder where they are on several machines).

    Args:
        layers: dotted paths, as ``python describe.py --list_layers`` prints them.
        out: folder for the results, one folder of it per layer.
        k: exemplars per unit.
        quantile: of all activations of a unit over all places and images; masks are what exceeds it.
        batch_size: images decoded at a time.
        memory: for the statistics, such as ``4GiB``; where thresholds do not fit exactly they are taken of a sample, with a warning
            that says how far their rank may be off.
        workers: further threads that decode.
        units: for some layers the indices of the units to look at, in place of all.
        allow_nondeterministic: go on, with a warning, where an image's values change from one pass to the next or with
            the other images of the batch. Needless for a target that was made with this option.

    Raises:
        BadInput: a layer's values are no function of the image; settings that cannot be; a folder that cannot be
            written, is too small, or is in use by another process.
        UnknownName: a layer that the target does not have.
    """
    out = Path(out)
    _check(k, quantile, batch_size)
    if allow_nondeterministic:
        target = target.allowing_nondeterminism()
    check_probe(target, probe)
    shard = shard_here(target.device)
    plans = _plans(target, probe, layers, dict(units or {}), k, quantile)
    once, network = shard.agree(_once(target)), target.fingerprint
    plans = [_with_key(plan, target, network, probe, once) for plan in _within(plans, _bytes(memory))]
    missing = _missing(out, plans)
    complete = not missing and _images_found(out, probe, plans) and not (out / WORK).exists()
    shard.wait()  # nobody writes before all have looked
    if not complete:
        with locked(out) if shard.rank == 0 else nullcontext():
            _find(target, probe, missing, out, shard, batch_size, workers, _bytes(memory) // 4)
        shard.wait()
    _warn_of(plans, out, {plan.layer.name for plan in missing})
    return {plan.layer.name: StoredDissection(layer_folder(out, plan.layer.name), probe, target) for plan in plans}


def _find(
    target: Target, probe: Probe, plans: list[LayerPlan], out: Path, shard: Shard, batch_size: int, workers: int, pixels: int
) -> None:
    """Finds what is missing, all processes together; the first of them writes it."""
    work = out / WORK
    if shard.rank == 0:
        _check_space(out, plans, probe)
        work.mkdir(exist_ok=True)
        for leftover in out.glob(f"*/{_pending(FACTS)}"):
            leftover.unlink()
    shard.wait()
    if not work.is_dir():
        raise BadInput(f"process {shard.rank} does not see {work}: all processes need the same folder, shared between machines")
    run = Run(target, probe, plans, work, shard, pixels)
    if plans:
        run.look(batch_size, workers)
    shard.wait()
    if shard.rank == 0:
        if plans:
            run.gather()
        for record in run.records.values():
            _write(record, run, out, target, probe)
        _keep_images(out, probe, run.images)
        for record in run.records.values():
            _commit(layer_folder(out, record.plan.layer.name))
        shutil.rmtree(work)


def check_probe(target: Target, probe: Probe) -> None:
    """Refuses a probe that the target cannot look at; warns of one whose images are not made as the target's own are.

    Raises:
        BadInput: its images are of another size, or they are not what a generator makes.
    """
    if isinstance(target, GeneratorTarget):
        target.expects(probe.image(0))
        return
    target.check_size(probe.size)
    target.check_channels(probe.channels)
    if not probe.source.drawn and probe.preprocessing.geometry != target.preprocessing.geometry:
        ways = f"are {probe.preprocessing.geometry_text}, those of {target.name} {target.preprocessing.geometry_text}"
        how = "load_probe(..., target=target) takes the target's"
        warnings.warn(f"the images of {probe.name} {ways}; {how}", MilanWarning, stacklevel=3)


def _check(k: int, quantile: float, batch_size: int) -> None:
    if k < 1:
        raise BadInput(f"k is {k}; a unit needs at least 1 exemplar")
    if not 0 <= quantile <= 1:
        raise BadInput(f"quantile is {quantile}; it lies between 0 and 1, as 0.99")
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; at least 1")


def _plans(target: Target, probe: Probe, names: Sequence[str], units: dict[str, Sequence[int]], k: int, quantile: float) -> list[LayerPlan]:
    layers = target.select(names)
    if not layers:
        raise BadInput("no layers to dissect were named; python describe.py --list_layers prints them")
    if k > len(probe):
        warnings.warn(f"k is {k}, but {probe.name} has only {len(probe)} images: took k = {len(probe)}", MilanWarning, stacklevel=3)
    wanted = {target.layer(name).name: _indices(name, indices, target.layer(name).units) for name, indices in units.items()}
    found = examine(target, [layer.name for layer in layers], probe.size)
    every = {layer.name: tuple(range(layer.units)) for layer in layers}
    return [
        LayerPlan(
            layer,
            found.grids[layer.name],
            wanted.get(layer.name, every[layer.name]),
            len(probe),
            min(k, len(probe)),
            quantile,
            nondeterministic=found.faults.get(layer.name, ""),
        )
        for layer in layers
    ]


def _indices(layer: str, indices: Iterable[int], units: int) -> tuple[int, ...]:
    found = tuple(sorted({int(index) for index in indices}))
    wrong = [index for index in found if not 0 <= index < units]
    if wrong or not found:
        raise BadInput(f"units of {layer} lie between 0 and {units - 1}; {f'there is no {wrong[0]}' if wrong else 'none was given'}")
    return found


def _within(plans: list[LayerPlan], memory: int) -> list[LayerPlan]:
    """The plans with quantiles sampled as far as needed to fit the memory.

    Raises:
        BadInput: the exemplars' maps alone do not.
    """
    left = memory - sum(plan.map_bytes for plan in plans)
    if left < memory // 4:
        needed = sum(plan.map_bytes for plan in plans)
        text = f"the exemplars' activation maps alone take {needed / 2**30:.2f} GiB of the {memory / 2**30:.2f} GiB of memory"
        raise BadInput(f"{text}; raise it, or ask for fewer layers, units or exemplars (k)")
    share = left // 3  # the buffers, and as much again while they are read out or merged
    waiting = sorted(plans, key=lambda plan: plan.buffer_bytes)
    rates = {}
    for done, plan in enumerate(waiting):
        fair = share // (len(waiting) - done)  # what small layers leave goes to the large ones
        rates[plan.layer.name] = _rate(plan, fair)
        share -= replace(plan, rate=rates[plan.layer.name]).buffer_bytes
    return [replace(plan, rate=rates[plan.layer.name]) for plan in plans]


def _rate(plan: LayerPlan, room: int) -> float:
    """The largest share of a layer's values, of those tried, whose quantile fits."""
    rate = 1.0
    while replace(plan, rate=rate).buffer_bytes > room and rate > 1e-6:
        rate /= 2
    return rate


def _with_key(plan: LayerPlan, target: Target, network: str, probe: Probe, once: str) -> LayerPlan:
    length = block_length(probe.size, target.device)
    settings = {"k": plan.k, "quantile": plan.quantile, "units": plan.units, "rate": plan.rate, "block": length}
    made_by = {"format": FORMAT, "torch": torch.__version__, "device": target.device.type, "once": once}
    if plan.layer.order:
        settings["order"] = plan.layer.order
    images = probe.fingerprint
    key = content_key(target=network, layer=plan.layer.name, probe=images, settings=settings, made_by=made_by)
    return replace(plan, key=key)


def _once(target: Target) -> str:
    """Nothing, or for a network whose behaviour is changed by hooks (as within ``ablated``) what no other run has: hooks have no
    fingerprint, so what was found with them is never taken for anything else."""
    hooks = [hook for module in target.core.modules() for hook in [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]]
    foreign = [hook for hook in hooks if not getattr(hook, "__module__", "").startswith("torch.")]  # weight_norm's belong to the weights
    return uuid.uuid4().hex if foreign else ""


def _missing(out: Path, plans: list[LayerPlan]) -> list[LayerPlan]:
    """Return the layers without a sound dissection of the same key; say why results that are there cannot be used."""
    missing: list[LayerPlan] = []
    faults: dict[str, list[str]] = {}
    for plan in plans:
        folder = layer_folder(out, plan.layer.name)
        facts, fault = facts_or_fault(folder)
        same = facts.get("key") == plan.key
        fault = fault or (damage(folder, facts["files"]) if same else "")
        if fault or not same:
            missing.append(plan)
        if fault and (folder / FACTS).exists():
            faults.setdefault(fault, []).append(plan.layer.name)
    for fault, layers in faults.items():
        warnings.warn(f"{out}: dissecting {', '.join(layers)} again, since {fault}", MilanNotice, stacklevel=3)
    return missing


def _images_found(out: Path, probe: Probe, plans: list[LayerPlan]) -> bool:
    kept = kept_images(out, probe.fingerprint)
    return kept is not None and all(kept.holds(_exemplar_ids(layer_folder(out, plan.layer.name))) for plan in plans)


def _exemplar_ids(folder: Path) -> set[int]:
    return set(read_facts(folder)["exemplars"])


def _keep_images(out: Path, probe: Probe, seen: dict[int, Tensor]) -> None:
    """Keeps the exemplars' images of all layers here that were dissected on this probe."""
    ids: set[int] = set()
    for file in [*out.glob(f"*/{FACTS}"), *out.glob(f"*/{_pending(FACTS)}")]:
        # A dissection may be damaged or of another format.
        with suppress(BadInput, KeyError):
            facts = read_sealed(file)
            if facts["format"] == FORMAT and facts["probe"]["fingerprint"] == probe.fingerprint:
                ids |= set(facts["exemplars"])
    before = kept_images(out, probe.fingerprint)

    def image(id: int) -> Tensor:
        if id in seen:
            return seen[id]
        return before[torch.tensor([id])][0] if before and id in before else probe.image(id)

    keep_images(out, probe.fingerprint, ids, image)


def _write(record: LayerRecord, run: Run, out: Path, target: Target, probe: Probe) -> None:
    """Writes a layer's files, the facts under another name: without them nothing is found."""
    folder = layer_folder(out, record.plan.layer.name)
    folder.mkdir(exist_ok=True)
    (folder / FACTS).unlink(missing_ok=True)
    k = min(record.plan.k, run.good)
    peaks, ids, maps = (tensor[:, :k].contiguous() for tensor in record.topk.ranked())
    with atomic(folder / EXEMPLARS) as partial:
        save_file({"activations": peaks, "ids": ids, "maps": maps}, partial)
    ranges = {f"range.{name}": tensor for name, tensor in record.range.state().items()}
    with atomic(folder / STATISTICS) as partial:
        save_file({"thresholds": record.thresholds().float(), "units": torch.tensor(record.plan.units), **ranges}, partial)
    run.move_pooled(record, folder)
    files = checksums(folder, [EXEMPLARS, STATISTICS, *map(pooled_name, record.plan.poolings)])
    with atomic(folder / _pending(FACTS)) as partial:
        partial.write_text(json.dumps(sealed(_facts(record, run, target, probe, k) | {"files": files}), indent=1))


def _facts(record: LayerRecord, run: Run, target: Target, probe: Probe, k: int) -> dict[str, object]:
    plan, words = record.plan, record.status(k)
    return {
        "format": FORMAT,
        "key": plan.key,
        "layer": plan.layer.name,
        "layout": plan.layer.layout,
        "grid": plan.grid,
        "units": plan.units,
        "k": k,
        "quantile": plan.quantile,
        "target": {"name": target.spec or target.name, "settings": target.settings, "fingerprint": target.fingerprint},
        "probe": {"spec": probe.spec, "settings": probe.settings, "fingerprint": probe.fingerprint},
        "image_size": probe.size,
        "images": plan.images,
        "skipped": run.skipped,
        "status": {word: _listed(plan, [found == word for found in words]) for word in ("dead", "sparse", "invalid")},
        "not_finite": _listed(plan, record.range.odd.bool().tolist()),
        "nondeterministic": plan.nondeterministic,
        "sampled": plan.rate,
        "rank_error": record.rank_error(),
        "exemplars": sorted(record.topk.members()),
        "warnings": list(run.warnings),
    }


def _listed(plan: LayerPlan, chosen: list[bool]) -> list[int]:
    return [index for index, is_so in zip(plan.units, chosen, strict=True) if is_so]


def _pending(name: str) -> str:
    return f"{name}.pending"


def _commit(folder: Path) -> None:
    (folder / _pending(FACTS)).replace(folder / FACTS)


def _warn_of(plans: list[LayerPlan], out: Path, new: set[str]) -> None:
    """Warns of what a reader of the result should know, also where it was found before."""
    for plan in plans:
        facts = read_facts(layer_folder(out, plan.layer.name))
        if plan.layer.name not in new:
            warn_again(facts.get("warnings", []))
        if facts["not_finite"]:
            units, more = facts["not_finite"][:10], len(facts["not_finite"]) - 10
            text = f"{plan.layer.name}: NaN or infinite activations in units {', '.join(map(str, units))}{f' and {more} more' * (more > 0)}"
            warnings.warn(f"{text}; they count as the lowest", MilanWarning, stacklevel=3)
        if facts.get("nondeterministic"):
            text = f"{facts['nondeterministic']}; another run may find other exemplars"
            warnings.warn(text, MilanWarning, stacklevel=3)
        if facts["rank_error"]:
            text = f"{plan.layer.name}: thresholds are of a sample of 1 in {1 / facts['sampled']:.0f} values, to fit the memory"
            error = f"the quantile {plan.quantile} may be off by {facts['rank_error']:.2g} in rank"
            warnings.warn(f"{text}; {error}; raise memory for exact ones", MilanWarning, stacklevel=3)


def _check_space(out: Path, plans: list[LayerPlan], probe: Probe) -> None:
    pixels = min(len(probe), sum(len(plan.units) * plan.k for plan in plans)) * 3 * pixel_count(probe.size)
    needed = _SPARED + pixels + sum(plan.pooled_bytes + 2 * (plan.map_bytes + plan.buffer_bytes) for plan in plans)
    needed -= sum(file.stat().st_size for file in (out / WORK).rglob("*") if file.is_file())  # what a killed run has taken already
    free = shutil.disk_usage(out).free
    if free < needed:
        raise BadInput(f"{out} has {free / 2**30:.2f} GiB free and this may take {needed / 2**30:.2f}; free some, or name another folder")


def _bytes(memory: str | int) -> int:
    """Bytes of a size such as ``4GiB``.

    >>> _bytes("4GiB") == 4 * 2**30, _bytes("1.5 MB"), _bytes(7)
    (True, 1500000, 7)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?\s*", str(memory).lower())
    if not found or not math.isfinite(float(found[1])):
        raise BadInput(f"not a size: memory={memory!r}; write it as 4GiB or 500MB")
    return int(float(found[1]) * _UNITS[found[2]])
