"""Plans of a dissection: the units of each layer, what fits the memory, and the key of the result."""

import uuid
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from milan.dissection.determinism import examine
from milan.dissection.forward_blocks import block_length
from milan.dissection.layer_statistics import LayerPlan
from milan.dissection.pass_options import RankBy
from milan.dissection.store import FORMAT
from milan.errors import BadInput, MilanWarning
from milan.probes import Probe
from milan.storage.files import content_key
from milan.targets.target import Target


def make_plans(
    target: Target,
    probe: Probe,
    names: Sequence[str],
    units: dict[str, Sequence[int]],
    *,
    k: int,
    quantile: float,
    rank_by: RankBy,
) -> list[LayerPlan]:
    """Return the plan of each layer.

    Raises:
        BadInput: no layer is named, there is no such unit, a layer has no class token to rank images by, or its
            activations are no function of the image.
        UnknownName: the target has no such layer.
    """
    layers = target.select_layers(names)
    if not layers:
        raise BadInput("no layers are named; python describe.py --list_layers lists them")
    if k > len(probe):
        warnings.warn(
            f"k is {k}, but {probe.name} has only {len(probe)} images; k = {len(probe)} is used",
            MilanWarning,
            stacklevel=3,
        )
    selected = {
        target.layer(name).name: _check_indices(name, indices, target.layer(name).units)
        for name, indices in units.items()
    }
    if rank_by == "cls" and (lacking := [layer.name for layer in layers if not layer.has_class_token]):
        raise BadInput(f"rank_by is 'cls', and {lacking[0]} has no class token; use 'max' or 'mean'")
    examination = examine(target, [layer.name for layer in layers], probe.size)
    every = {layer.name: tuple(range(layer.units)) for layer in layers}
    return [
        LayerPlan(
            layer,
            examination.grids[layer.name],
            selected.get(layer.name, every[layer.name]),
            len(probe),
            min(k, len(probe)),
            quantile,
            nondeterministic=examination.faults.get(layer.name, ""),
            rank_by=rank_by,
        )
        for layer in layers
    ]


def _check_indices(layer: str, indices: Iterable[int], units: int) -> tuple[int, ...]:
    found = tuple(sorted({int(index) for index in indices}))
    wrong = [index for index in found if not 0 <= index < units]
    if wrong or not found:
        raise BadInput(
            f"units of {layer} lie between 0 and {units - 1}; {f'there is no {wrong[0]}' if wrong else 'none is given'}"
        )
    return found


def fit_memory(plans: list[LayerPlan], memory: int) -> list[LayerPlan]:
    """Return the plans with sampling rates of the quantiles that fit the memory.

    Raises:
        BadInput: the exemplars' maps alone do not fit.
    """
    left = memory - sum(plan.map_bytes for plan in plans)
    if left < memory // 4:
        needed = sum(plan.map_bytes for plan in plans)
        text = (
            f"the exemplars' activation maps alone take {needed / 2**30:.2f} GiB of the {memory / 2**30:.2f} GiB of"
            " memory"
        )
        raise BadInput(f"{text}; raise it, or dissect fewer layers, units or exemplars (k)")
    # Buffers need three times their size while they are read out or merged.
    share = left // 3
    waiting = sorted(plans, key=lambda plan: plan.buffer_bytes)
    rates = {}
    for done, plan in enumerate(waiting):
        # The rest of the small layers goes to the large ones.
        fair = share // (len(waiting) - done)
        rates[plan.layer.name] = _choose_sampling_rate(plan, fair)
        share -= replace(plan, sampling_rate=rates[plan.layer.name]).buffer_bytes
    return [replace(plan, sampling_rate=rates[plan.layer.name]) for plan in plans]


def _choose_sampling_rate(plan: LayerPlan, room: int) -> float:
    """Return the largest sampling rate, a power of 1/2, whose quantile fits."""
    rate = 1.0
    while replace(plan, sampling_rate=rate).buffer_bytes > room and rate > 1e-6:
        rate /= 2
    return rate


def add_key(plan: LayerPlan, target: Target, network: str, probe: Probe, once: str) -> LayerPlan:
    """Return the plan with the content key of its result; ``network`` is the target's fingerprint."""
    length = block_length(probe.size, target.device)
    settings = {
        "k": plan.k,
        "quantile": plan.quantile,
        "units": plan.units,
        "rate": plan.sampling_rate,
        "block": length,
    }
    made_by = {"format": FORMAT, "torch": torch.__version__, "device": target.device.type, "once": once}
    if plan.layer.order:
        settings["order"] = plan.layer.order
    if plan.rank_by != "max":
        settings["rank_by"] = plan.rank_by
    if plan.layer.is_sparse:
        settings["storage"] = "sparse"
    images = probe.fingerprint
    key = content_key(target=network, layer=plan.layer.name, probe=images, settings=settings, made_by=made_by)
    return replace(plan, key=key)


def make_one_time_key(target: Target) -> str:
    """Return a unique key for a network that is changed by hooks, as within ``ablate``, else an empty one.

    Hooks have no fingerprint, so that a dissection made with them must never be reused.
    """
    hooks = [
        hook
        for module in target.core.modules()
        for hook in [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    ]
    # The hooks of weight_norm belong to the weights.
    foreign = [hook for hook in hooks if not getattr(hook, "__module__", "").startswith("torch.")]
    return uuid.uuid4().hex if foreign else ""
