"""Dissect a target: compute the exemplars, thresholds and activations of its units in one pass over a probe."""

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from milan.dissection.dissection import Dissection
from milan.dissection.dissection_run import DissectionRun, Statistics
from milan.dissection.distributed import Shard, get_shard
from milan.dissection.exemplar_images import open_stored_images, store_images
from milan.dissection.exemplar_pixels import ExemplarPixels
from milan.dissection.layer_plans import add_key, fit_memory, make_one_time_key, make_plans
from milan.dissection.layer_statistics import LayerPlan
from milan.dissection.pass_options import PassOptions, RankBy, check_settings
from milan.dissection.store import FACTS_FILE, FORMAT, StoredDissection, facts_or_fault, layer_folder, read_facts
from milan.errors import BadInput, MilanNotice, MilanWarning, warn_again
from milan.probes import Probe
from milan.storage.files import atomic_write, lock_folder
from milan.storage.integrity import checksums, damage, read_sealed, sealed
from milan.targets.dictionary_quality import measure_dictionaries
from milan.targets.generator_target import GeneratorTarget
from milan.targets.preprocessing import pixel_count, size_text
from milan.targets.target import Target
from milan.units import Unit, group_by_layer

WORK_FOLDER = ".work"  # checkpoints of an unfinished run
_RESERVED_BYTES = 64 * 2**20  # disk space for small files


def dissect(
    target: Target,
    probe: Probe,
    layers: Sequence[str],
    out: str | Path,
    *,
    k: int = 15,
    quantile: float = 0.99,
    rank_by: RankBy = "max",
    units: Mapping[str, Sequence[int]] | Iterable[Unit | str] | None = None,
    **options: Any,
) -> dict[str, Dissection]:
    """Return the exemplars, thresholds and activations of each unit of some layers, computed in one pass over a probe.

    A finished dissection of the same weights, layer, probe and settings is read instead. Rerunning an interrupted call
    continues it, with the same result byte for byte. The result depends neither on the batch size nor on the number of
    threads or, under ``torchrun``, of processes, which must all see ``out`` (a shared folder if they run on several
    machines).

    Args:
        target: the network; the pass ends after the last of the layers.
        probe: its images.
        layers: dotted paths, as ``python describe.py --list_layers`` prints them.
        out: folder for the results, in which each layer has a folder.
        k: number of exemplars (top-activating images) per unit.
        quantile: quantile of a unit's activations at all places and in all images that is its mask threshold.
        rank_by: activation by which images are ranked as exemplars: the maximum or mean over the image's places, or the
            class token.
        units: units to dissect, as ``["layer4:17"]`` or ``{"layer4": [17]}``; all of the layers that are not named.
        options: fields of :class:`PassOptions`: ``batch_size``, ``memory``, ``workers``, ``allow_nondeterministic``.

    Raises:
        BadInput: a layer's activations are no function of the image, a setting is out of range, or the folder cannot be
            written, is too small, or is in use by another process.
        UnknownName: the target has no such layer.
    """
    out, run_options = Path(out), PassOptions(**options)
    check_settings(k, quantile, rank_by)
    if run_options.allow_nondeterministic:
        target = target.allowing_nondeterminism()
    if target.is_size_assumed and probe.source.is_presized and probe.size != target.image_size:
        # The probe's images cannot be made anew, and nobody stated the network's size.
        target = target.fitted_to(probe.size)
        text = f"nobody stated the image size of {target.name}; it is run on the probe's {size_text(probe.size)} pixels"
        warnings.warn(text, MilanWarning, stacklevel=2)
    check_probe(target, probe)
    shard = get_shard()
    chosen: dict[str, Sequence[int]] = dict(units) if isinstance(units, Mapping) else {**group_by_layer(units or ())}
    plans = make_plans(target, probe, layers, chosen, k=k, quantile=quantile, rank_by=rank_by)
    once, network = shard.gather(make_one_time_key(target))[0], target.fingerprint
    plans = [add_key(plan, target, network, probe, once) for plan in fit_memory(plans, run_options.memory_bytes)]
    missing = _missing(out, plans)
    complete = not missing and _are_images_stored(out, probe, plans) and not (out / WORK_FOLDER).exists()
    # No process writes before all have read.
    shard.barrier()
    if not complete:
        with lock_folder(out) if shard.rank == 0 else nullcontext():
            _run_missing(target, probe, missing, out, shard, run_options)
        shard.barrier()
    # In several processes, each has issued the warnings of its own part only.
    _warn_of(plans, out, {plan.layer.name for plan in missing} if shard.count == 1 else set())
    return {plan.layer.name: StoredDissection(layer_folder(out, plan.layer.name), probe, target) for plan in plans}


def _run_missing(
    target: Target,
    probe: Probe,
    plans: list[LayerPlan],
    out: Path,
    shard: Shard,
    options: PassOptions,
) -> None:
    """Dissect the missing layers in all processes together; each process writes the results of some layers."""
    work = out / WORK_FOLDER
    result = min(len(probe), sum(len(plan.units) * plan.k for plan in plans)) * 3 * pixel_count(probe.size)
    pixels = min(2 * result, options.memory_bytes // 4)
    if shard.rank == 0:
        qualities = measure_dictionaries(target, [plan.layer.name for plan in plans], probe.inputs(8))
        active = {name: quality.mean_l0 for name, quality in qualities.items()}
        statistics = sum(plan.estimate_disk_bytes(active.get(plan.layer.name)) for plan in plans)
        # Compacting the images of the run takes half of their space once more.
        _check_space(out, statistics + result + 3 * pixels // 2)
        work.mkdir(exist_ok=True)
        for leftover in out.glob(f"*/{_pending_name(FACTS_FILE)}"):
            leftover.unlink()
    shard.barrier()
    if not work.is_dir():
        raise BadInput(
            f"process {shard.rank} does not see {work}; all processes need the same folder, shared between machines"
        )
    run = DissectionRun(target, probe, plans, work, shard, pixels)
    if plans:
        run.run(options.batch_size, options.workers)
    shard.barrier()
    if plans:
        own = [plan.layer.name for plan in plans[shard.rank :: shard.count]]
        run = run.gather(own)
        # Hashing all weights takes longer than writing a layer.
        network = target.fingerprint
        for layer in own:
            _write_layer(run.records[layer], run, out, network)
    kept = run.collect_images() if shard.rank == 0 else []
    # Some network folders cannot be removed while a process maps their files.
    del run
    shard.barrier()
    if shard.rank == 0:
        _store_images(out, probe, kept)
        kept.clear()
        for plan in plans:
            _commit_layer(layer_folder(out, plan.layer.name))
        shutil.rmtree(work)


def check_probe(target: Target, probe: Probe) -> None:
    """Check that a target takes the images of a probe; warn if their preprocessing differs.

    Raises:
        BadInput: the images have another size or number of channels, or are not those of a generator.
    """
    if isinstance(target, GeneratorTarget):
        target.check_probe_image(probe.image(0))
        return
    target.check_size(probe.size)
    target.check_channels(probe.channels)
    if not probe.source.is_presized and probe.preprocessing.geometry != target.preprocessing.geometry:
        text = f"are {probe.preprocessing.geometry_text}, those of {target.name} {target.preprocessing.geometry_text}"
        how = "load_probe(..., target=target) applies the target's preprocessing"
        warnings.warn(f"the images of {probe.name} {text}; {how}", MilanWarning, stacklevel=3)


def _missing(out: Path, plans: list[LayerPlan]) -> list[LayerPlan]:
    """Return the layers without a sound dissection of the same key; notify why existing ones cannot be used."""
    missing: list[LayerPlan] = []
    faults: dict[str, list[str]] = {}
    for plan in plans:
        folder = layer_folder(out, plan.layer.name)
        facts, fault = facts_or_fault(folder)
        same = facts.get("key") == plan.key
        fault = fault or (damage(folder, facts["files"]) if same else "")
        if fault or not same:
            missing.append(plan)
        if fault and (folder / FACTS_FILE).exists():
            faults.setdefault(fault, []).append(plan.layer.name)
    for fault, layers in faults.items():
        warnings.warn(f"{out}: {', '.join(layers)} are dissected again, since {fault}", MilanNotice, stacklevel=3)
    return missing


def _are_images_stored(out: Path, probe: Probe, plans: list[LayerPlan]) -> bool:
    kept = open_stored_images(out, probe.fingerprint)
    return kept is not None and all(
        kept.contains_all(_read_exemplar_ids(layer_folder(out, plan.layer.name))) for plan in plans
    )


def _read_exemplar_ids(folder: Path) -> set[int]:
    return set(read_facts(folder)["exemplars"])


def _store_images(out: Path, probe: Probe, kept: list[ExemplarPixels]) -> None:
    """Store the exemplar images of all layers in the folder that were dissected on this probe.

    Args:
        out: folder of the layers.
        probe: the images.
        kept: pixels of some of them.
    """
    ids: set[int] = set()
    for file in [*out.glob(f"*/{FACTS_FILE}"), *out.glob(f"*/{_pending_name(FACTS_FILE)}")]:
        # A dissection may be damaged or of another format.
        with suppress(BadInput, KeyError):
            facts = read_sealed(file)
            if facts["format"] == FORMAT and facts["probe"]["fingerprint"] == probe.fingerprint:
                ids |= set(facts["exemplars"])
    before = open_stored_images(out, probe.fingerprint)

    def image(id: int) -> Tensor:
        for part in kept:
            with suppress(KeyError):
                return part[id]
        return before[torch.tensor([id])][0] if before and id in before else probe.image(id)

    store_images(out, probe.fingerprint, ids, image)


def _write_layer(record: Statistics, run: DissectionRun, out: Path, network: str) -> None:
    """Write a layer's files, with the facts under a pending name, without which it is not recognized."""
    folder = layer_folder(out, record.plan.layer.name)
    folder.mkdir(exist_ok=True)
    (folder / FACTS_FILE).unlink(missing_ok=True)
    k = min(record.plan.k, run.readable_count)
    files = checksums(folder, record.write_results(folder, run.part_folders(record), run.readable, k))
    with atomic_write(folder / _pending_name(FACTS_FILE)) as partial:
        partial.write_text(json.dumps(sealed(_collect_facts(record, run, network, k) | {"files": files}), indent=1))


def _collect_facts(record: Statistics, run: DissectionRun, network: str, k: int) -> dict[str, object]:
    plan, words, target, probe = record.plan, record.status(k), run.target, run.probe
    return {
        "format": FORMAT,
        "key": plan.key,
        "layer": plan.layer.name,
        "layout": plan.layer.layout,
        "grid": plan.grid,
        "units": plan.units,
        "k": k,
        "quantile": plan.quantile,
        "target": {"name": target.spec or target.name, "settings": target.settings, "fingerprint": network},
        "probe": {"spec": probe.spec, "settings": probe.settings, "fingerprint": probe.fingerprint},
        "image_size": probe.size,
        "images": plan.images,
        "skipped": run.skipped,
        "status": {
            word: _list_units(plan, [found == word for found in words]) for word in ("dead", "sparse", "invalid")
        },
        "not_finite": _list_units(plan, record.range.nonfinite_images.bool().tolist()),
        "nondeterministic": plan.nondeterministic,
        "sampled": plan.sampling_rate,
        "rank_error": record.rank_error(),
        "exemplars": sorted(record.image_ids()),
        "warnings": list(run.warnings),
        **({} if plan.rank_by == "max" else {"rank_by": plan.rank_by}),
        **({"storage": "sparse"} if plan.layer.is_sparse else {}),
    }


def _list_units(plan: LayerPlan, chosen: list[bool]) -> list[int]:
    return [index for index, is_so in zip(plan.units, chosen, strict=True) if is_so]


def _pending_name(name: str) -> str:
    return f"{name}.pending"


def _commit_layer(folder: Path) -> None:
    (folder / _pending_name(FACTS_FILE)).replace(folder / FACTS_FILE)


def _warn_of(plans: list[LayerPlan], out: Path, new: set[str]) -> None:
    """Issue the warnings of all results, also of those computed earlier; the pass has issued those of ``new``."""
    for plan in plans:
        facts = read_facts(layer_folder(out, plan.layer.name))
        if plan.layer.name not in new:
            warn_again(facts.get("warnings", []))
        if facts["not_finite"]:
            units, more = facts["not_finite"][:10], len(facts["not_finite"]) - 10
            text = (
                f"{plan.layer.name}: NaN or infinite activations in units"
                f" {', '.join(map(str, units))}{f' and {more} more' * (more > 0)}"
            )
            warnings.warn(f"{text}; they count as the lowest", MilanWarning, stacklevel=3)
        if facts.get("nondeterministic"):
            text = f"{facts['nondeterministic']}; another run may find other exemplars"
            warnings.warn(text, MilanWarning, stacklevel=3)
        if facts["rank_error"]:
            some = f"1 in {1 / facts['sampled']:.0f} values"
            text = f"{plan.layer.name}: thresholds are computed on {some}, to fit the memory"
            error = f"the rank error of the quantile {plan.quantile} is up to {facts['rank_error']:.2g}"
            warnings.warn(f"{text}; {error}; raise memory for exact ones", MilanWarning, stacklevel=3)


def _check_space(out: Path, needed: int) -> None:
    """Check that the disk has room for so many bytes, of which an interrupted run has already taken some."""
    needed += _RESERVED_BYTES - sum(file.stat().st_size for file in (out / WORK_FOLDER).rglob("*") if file.is_file())
    free = shutil.disk_usage(out).free
    if free < needed:
        raise BadInput(
            f"{out} has {free / 2**30:.2f} GiB free and the dissection may take {needed / 2**30:.2f} GiB; free some, or"
            " choose another folder"
        )
