"""What a unit does to the network's answers, and whether its simulated activation may stand in for it (Oikarinen & Weng 2024).

Impact and Top Impact (section 2) ask on which images a unit matters; the ablation score (section 4, B) asks how much of what a unit does is
kept when it is replaced by what its description predicts. Both need class labels, and work at any layer of any target: what comes before
the layer is run once for each batch of images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from milan.dissection.replaying import Replay, replayed
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.progress import progress
from milan.targets import Target

SHARES = (0.0003, 0.002, 0.02, 0.1, 0.5)  # of the images, in Table 1
STEPS, RATE = 100, 1e-2  # of the optimised scale (the released code's simulate_ablation.py)
BATCH = 64


@dataclass(frozen=True)
class _Seen:
    """A batch of images that has been through the network, with its labels."""

    replay: Replay
    labels: Int[Tensor, " b"]
    rows: Int[Tensor, " b"]

    def losses(self, outputs: Float[Tensor, "b classes"], temperature: float) -> Float[Tensor, " b"]:
        return cross_entropy(outputs.double() / temperature, self.labels, reduction="none")

    def without(self, unit: int, value: Float[Tensor, "..."] | float) -> Float[Tensor, "b classes"]:
        """The network's answer with a unit at ``value`` everywhere: one number, or one for each image."""
        values, axis = self.replay.values, self.replay.axis
        given = torch.as_tensor(value, dtype=values.dtype, device=values.device).expand(len(values))
        shape = [1] * values.ndim
        shape[axis] = values.shape[axis]
        only = torch.zeros(values.shape[axis], dtype=torch.bool, device=values.device).index_fill(0, torch.tensor([unit]), True).view(shape)
        return self.replay.again(torch.where(only, given.view(-1, *[1] * (values.ndim - 1)), values))


def calibrated_temperature(logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """The temperature by which dividing logits makes their cross-entropy least (Guo et al. 2017)."""
    scores = logits.double()

    def loss(log: float) -> float:
        return float(cross_entropy(scores / np.exp(log), labels))

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded", options={"xatol": 1e-6}).x))


def impacts(target: Target, layer: str, units: Sequence[int], probe: Probe, batch_size: int = BATCH) -> Float[np.ndarray, "units images"]:
    """I_k of each unit on each image (equations 1 to 3): the mean of how much of the network's accuracy and of its loss the unit is worth.

    Positive where the network does better with the unit than with 0 in its place. NaN for images that cannot be read.

    Raises:
        MissingEvidence: the probe has no labels, or the network does not answer with one logit for each of its classes.
    """
    found = np.full((len(units), len(probe)), np.nan)
    plain, labels, rows = _plain(target, probe, batch_size)
    temperature = calibrated_temperature(plain, labels)
    losses = cross_entropy(plain.double() / temperature, labels, reduction="none")
    right, whole, lost = (plain.argmax(1) == labels).double(), float((plain.argmax(1) == labels).sum()), float(losses.sum())
    place = {int(row): at for at, row in enumerate(rows)}
    for seen in _seen(target, layer, probe, batch_size):
        own = torch.tensor([place[int(row)] for row in seen.rows])
        for number, unit in enumerate(units):
            outputs = seen.without(unit, 0.0)
            accuracy = (right[own] - (outputs.argmax(1) == seen.labels).double()) / max(whole, 1.0)
            loss = (losses[own] - seen.losses(outputs, temperature)) / lost
            found[number, seen.rows] = ((accuracy - loss) / 2).numpy()
    return found


def top_impact(
    impact: Float[np.ndarray, "units images"], activation: Float[np.ndarray, "units images"], shares: Sequence[float] = SHARES
) -> Float[np.ndarray, "units shares"]:
    """TI_k(β) (equation 4): the share of a unit's absolute impact that is on the β of the images with its highest activation.

    A part of an image counts in part. NaN for a unit without impact.

    >>> top_impact(np.array([[1.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 9.0, 5.0, 1.0]]), (0.25, 0.5, 1.0))
    array([[0.5 , 0.75, 1.  ]])
    """
    good = np.isfinite(impact).all(0) & np.isfinite(activation).all(0)
    order = np.argsort(-activation[:, good], axis=1, kind="stable")
    summed = np.abs(np.take_along_axis(impact[:, good], order, 1)).cumsum(1)
    summed = np.concatenate([np.zeros((len(summed), 1)), summed], axis=1)
    at = np.array([[np.interp(share * (summed.shape[1] - 1), np.arange(summed.shape[1]), row) for share in shares] for row in summed])
    whole = summed[:, -1:]
    return np.divide(at, whole, out=np.full_like(at, np.nan), where=whole > 0)


def ablation_scores(
    target: Target,
    layer: str,
    units: Sequence[int],
    fitted: tuple[Probe, Float[np.ndarray, "units fitted"]],
    judged: tuple[Probe, Float[np.ndarray, "units judged"]],
    scaling: Literal["closed", "optimised"] = "closed",
    batch_size: int = BATCH,
) -> Float[np.ndarray, " units"]:
    """α(k, E) (equations 12 to 14): 1 if what is predicted of a unit does all that the unit does, 0 if it does no more than its mean.

    A unit is replaced at all places by c times the prediction plus d; its mean is that over the images which c and d are fitted on.

    Args:
        fitted: the images that c and d are fitted on, and what is predicted of each unit there.
        judged: other images, and what is predicted there.
        scaling: ``closed`` makes predictions explain the most of the unit's variance (equations 16 to 18); ``optimised`` starts from that
            and descends on equation 12, keeping the best it meets (the paper starts from c = 1 and d = 0, and its code keeps the last).

    Raises:
        MissingEvidence: a probe has no labels, or the network does not answer with one logit for each class.
    """
    plain, labels, _ = _plain(target, fitted[0], batch_size)
    temperature = calibrated_temperature(plain, labels)
    lost, base = np.zeros(len(units)), np.zeros(len(units))
    with replayed(target, layer):  # the network stays borrowed while kept batches are replayed
        known = list(_seen(target, layer, fitted[0], batch_size))
        rows = torch.cat([seen.rows for seen in known])
        own = torch.cat([_pooled(seen.replay) for seen in known])
        means = own.mean(0)
        scales = []
        for number, unit in enumerate(units):
            predicted = torch.from_numpy(fitted[1][number])[rows].double()
            scale = _closed(predicted, own[:, unit].double())
            if scaling == "optimised":
                scale = _optimised(known, unit, fitted[1][number], scale, float(means[unit]), temperature)
            scales.append(scale)
        for seen in _seen(target, layer, judged[0], batch_size):
            for number, unit in enumerate(units):
                c, d = scales[number]
                simulated = c * torch.from_numpy(judged[1][number])[seen.rows].double() + d
                lost[number] += float(_change(seen, unit, simulated, temperature))
                base[number] += float(_change(seen, unit, means[unit], temperature))
    return np.where(base > 0, 1 - lost / np.where(base > 0, base, 1), np.nan)


def _change(seen: _Seen, unit: int, value: Tensor, temperature: float) -> Tensor:
    """How far the losses of a batch move when a unit takes this value, summed."""
    before = seen.losses(seen.replay.outputs, temperature)
    return (seen.losses(seen.without(unit, value), temperature) - before).abs().sum()


def _closed(predicted: Float[Tensor, " images"], true: Float[Tensor, " images"]) -> tuple[float, float]:
    """c and d of the least squares line."""
    spread = predicted.var(correction=0)
    c = float(((predicted - predicted.mean()) * (true - true.mean())).mean() / spread) if spread > 1e-12 else 0.0
    return c, float(true.mean() - c * predicted.mean())


def _optimised(
    known: Sequence[_Seen], unit: int, predicted: Float[np.ndarray, " images"], start: tuple[float, float], mean: float, temperature: float
) -> tuple[float, float]:
    """Adam on equation 12; c and d are moved in units of the spread that the start gives."""
    with torch.enable_grad():
        unitless = max(abs(start[0]), 1e-3)
        moved = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([moved], lr=RATE)
        best, found = float("inf"), start
        for _ in range(STEPS + 1):
            c, d = start[0] + unitless * moved[0], start[1] + unitless * moved[1]
            parts = [_change(seen, unit, c * torch.from_numpy(predicted)[seen.rows].double() + d, temperature) for seen in known]
            loss = torch.stack(parts).sum()
            if float(loss) < best:
                best, found = float(loss), (float(c), float(d))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return found


def _pooled(replay: Replay) -> Float[Tensor, "b units"]:
    """The mean of each unit over its places."""
    values = replay.values.movedim(replay.axis, 1)
    return values.flatten(2).mean(2) if values.ndim > 2 else values


def _seen(target: Target, layer: str, probe: Probe, batch_size: int) -> Iterator[_Seen]:
    labels = _labels(probe)
    with replayed(target, layer) as run:
        for ids, images in progress(probe.batches(batch_size), total=-(-len(probe) // batch_size), text=f"replaying from {layer}"):
            yield _Seen(run(target.feed(ids, images)), labels[ids].to(target.device), ids)


def _plain(target: Target, probe: Probe, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of all images, their labels and their numbers."""
    labels = _labels(probe)
    parts = [(target.outputs(target.feed(ids, images)).cpu(), ids) for ids, images in probe.batches(batch_size)]
    logits, rows = torch.cat([part for part, _ in parts]), torch.cat([ids for _, ids in parts])
    if logits.ndim != 2 or int(labels.max()) >= logits.shape[1]:
        raise MissingEvidence(
            f"{target.name} answers {tuple(logits.shape[1:])} for an image, and the labels go to {int(labels.max())}: "
            "what a unit is worth is only known for a classifier of the probe's classes"
        )
    return logits, labels[rows], rows


def _labels(probe: Probe) -> Int[Tensor, " images"]:
    if probe.labels is None:
        raise MissingEvidence(f"the probe {probe.spec or probe.name!r} has no class labels, so nobody knows what a unit is worth")
    return torch.tensor(probe.labels)
