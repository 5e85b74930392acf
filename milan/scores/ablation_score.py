"""A unit's contribution to the network's output, and whether its simulated activation can replace it (Oikarinen & Weng
2024).

Impact and Top Impact (section 2) ask on which images a unit matters; the ablation score (section 4, B) asks how much of
what a unit does is kept when it is replaced by what its description predicts. Both need class labels, and work at any
layer of any target: what comes before the layer is run once for each batch of images.
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

from milan.console.progress import track_progress
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.probes.superclasses import known_labels, match_outputs
from milan.targets.replay import Replay, record_replays
from milan.targets.target import Target

SHARES = (0.0003, 0.002, 0.02, 0.1, 0.5)  # of the images, in Table 1
TABLE_SIZE = 33  # values of a unit at which losses are known
GRID_SIZE, REFINEMENTS = (
    17,
    5,
)  # values at either of two predictions, and how often their grid narrows: to a millionth of the unit's range
MIN_VARIANCE = 1e-12  # of predictions; below it c is 0, since no image that it is fitted on tells of it
Scaling = Literal["closed", "optimised"]
SCALINGS: tuple[Scaling, ...] = ("closed", "optimised")
BATCH_SIZE = 64


@dataclass(frozen=True)
class UnitImpacts:
    """The contribution of units to accuracy and loss.

    Attributes:
        impact: I_k on each image.
        activation: the mean of each unit over its places, on each image.
        accuracy: the share of the network's right answers that is lost without the unit.
        loss: by how much of itself the network's loss grows without it.
    """

    impact: Float[np.ndarray, "units images"]
    activation: Float[np.ndarray, "units images"]
    accuracy: Float[np.ndarray, " units"]
    loss: Float[np.ndarray, " units"]


@dataclass(frozen=True)
class _LabelledBatch:
    """A batch of images that has been through the network, with its labels."""

    replay: Replay
    labels: Int[Tensor, " b"]
    rows: Int[Tensor, " b"]

    def losses(self, outputs: Float[Tensor, "b classes"], temperature: float) -> Float[Tensor, " b"]:
        return cross_entropy(outputs.double() / temperature, self.labels, reduction="none")

    def run_with_unit_at(self, unit: int, value: Float[Tensor, "..."] | float) -> Float[Tensor, "b classes"]:
        """Return the logits with a unit set to ``value`` at all places: one number, or one for each image."""
        values, axis = self.replay.values, self.replay.axis
        given = torch.as_tensor(value, dtype=values.dtype, device=values.device).expand(len(values))
        shape = [1] * values.ndim
        shape[axis] = values.shape[axis]
        only = (
            torch.zeros(values.shape[axis], dtype=torch.bool, device=values.device)
            .index_fill(0, torch.tensor([unit]), True)
            .view(shape)
        )
        return self.replay.run_from(torch.where(only, given.view(-1, *[1] * (values.ndim - 1)), values))


def calibrate_temperature(logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """Return the temperature that minimizes the cross-entropy of logits (Guo et al. 2017); 1 if every prediction is
    right.

    The loss of logits that are always right falls for ever as the temperature does.
    """
    if bool((logits.argmax(1) == labels).all()):
        return 1.0
    scores = logits.double()

    def loss(log: float) -> float:
        return float(cross_entropy(scores / np.exp(log), labels))

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded", options={"xatol": 1e-6}).x))


def compute_impacts(
    target: Target, layer: str, units: Sequence[int], probe: Probe, synsets: str = "", batch_size: int = BATCH_SIZE
) -> UnitImpacts:
    """Return I_k of each unit on each image (equations 1 to 3): its mean contribution to accuracy and loss.

    Positive where the network does better with the unit than with 0 in its place. NaN for images that cannot be read.
    The network's temperature is calibrated, as in the paper, here on the same images.

    Args:
        synsets: which output is which class, where the probe does not show all of them; see
            ``milan.probes.superclasses.match_outputs``.

    Raises:
        MissingEvidence: the probe has no labels, or the network does not answer with one logit for each of its classes.
    """
    found, moved = np.full((len(units), len(probe)), np.nan), np.full((len(units), len(probe)), np.nan)
    falls = np.zeros((2, len(units)))
    known = _find_correct_outputs(target, probe, synsets)
    plain, labels, rows = _run_probe(target, probe, known, batch_size)
    temperature = calibrate_temperature(plain, labels)
    losses = cross_entropy(plain.double() / temperature, labels, reduction="none")
    right, whole, lost = (
        (plain.argmax(1) == labels).double(),
        float((plain.argmax(1) == labels).sum()),
        float(losses.sum()),
    )
    place = {int(row): at for at, row in enumerate(rows)}
    for seen in _iter_batches(target, layer, (probe, known), batch_size):
        own = torch.tensor([place[int(row)] for row in seen.rows])
        moved[:, seen.rows] = _mean_activations(seen.replay)[:, list(units)].double().cpu().numpy().T
        for number, unit in enumerate(units):
            outputs = seen.run_with_unit_at(unit, 0.0).cpu()
            accuracy = (right[own] - (outputs.argmax(1) == labels[own]).double()) / max(whole, 1.0)
            loss = (losses[own] - cross_entropy(outputs.double() / temperature, labels[own], reduction="none")) / lost
            found[number, seen.rows] = ((accuracy - loss) / 2).numpy()
            falls[:, number] += [float(accuracy.sum()), -float(loss.sum())]
    return UnitImpacts(found, moved, falls[0], falls[1])


def compute_top_impact(
    impact: Float[np.ndarray, "units images"],
    activation: Float[np.ndarray, "units images"],
    shares: Sequence[float] = SHARES,
) -> Float[np.ndarray, "units shares"]:
    """Return TI_k(β) (equation 4): the share of a unit's absolute impact on the β of images with its highest
    activation.

    A part of an image counts in part. NaN for a unit without impact.

    >>> compute_top_impact(np.array([[1.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 9.0, 5.0, 1.0]]), (0.25, 0.5, 1.0))
    array([[0.5 , 0.75, 1.  ]])
    """
    good = np.isfinite(impact).all(0) & np.isfinite(activation).all(0)
    order = np.argsort(-activation[:, good], axis=1, kind="stable")
    summed = np.abs(np.take_along_axis(impact[:, good], order, 1)).cumsum(1)
    summed = np.concatenate([np.zeros((len(summed), 1)), summed], axis=1)
    at = np.array(
        [
            [np.interp(share * (summed.shape[1] - 1), np.arange(summed.shape[1]), row) for share in shares]
            for row in summed
        ]
    )
    whole = summed[:, -1:]
    return np.divide(at, whole, out=np.full_like(at, np.nan), where=whole > 0)


def compute_ablation_scores(
    target: Target,
    layer: str,
    units: Sequence[int],
    fitting: tuple[Probe, Float[np.ndarray, "units fitted"]],
    evaluation: tuple[Probe, Float[np.ndarray, "units judged"]],
    scalings: Sequence[Scaling] = SCALINGS,
    synsets: str = "",
    batch_size: int = BATCH_SIZE,
) -> dict[str, Float[np.ndarray, " units"]]:
    """Return α(k, E) (equations 12 to 14): 1 if the prediction has the unit's whole effect on the loss, 0 if no more
    than its mean.

    A unit is replaced at all places by c times the prediction plus d; its mean is that over the images which c and d
    are fitted on. NaN for a unit that changes no loss.

    Args:
        units: one may come several times, with predictions of several descriptions.
        fitting: the images that c and d are fitted on, and what is predicted of each unit there.
        evaluation: other images, and what is predicted there.
        scalings: ``closed`` makes predictions explain the most of the unit's variance (equations 16 to 18);
            ``optimised`` makes equation 12 greatest (the paper descends on it; its code takes 100 steps from c = 1 and
            d = 0). How each image's loss follows the unit is tabulated once for all descriptions of a unit, so that c
            and d are sought without the network, over all of the unit's range; what is found is kept where the network
            itself confirms that it is better than the closed form.
        synsets: which output is which class, where the probe does not show all of them; see
            ``milan.probes.superclasses.match_outputs``.

    Raises:
        MissingEvidence: a probe has no labels, or the network does not answer with one logit for each class.
    """
    labels = [_find_correct_outputs(target, probe, synsets) for probe, _ in (fitting, evaluation)]
    temperature = calibrate_temperature(*_run_probe(target, fitting[0], labels[0], batch_size)[:2])
    lost, base = {scaling: np.zeros(len(units)) for scaling in scalings}, np.zeros(len(units))
    with record_replays(target, layer):  # the network stays borrowed while kept batches are replayed
        ground = _FittingImages(list(_iter_batches(target, layer, (fitting[0], labels[0]), batch_size)), temperature)
        scales = {scaling: ground.fit_scalings(units, fitting[1], scaling) for scaling in scalings}
        for seen in _iter_batches(target, layer, (evaluation[0], labels[1]), batch_size):
            means = {
                unit: float(_compute_loss_changes(seen, unit, ground.means[unit], temperature).sum())
                for unit in dict.fromkeys(units)
            }
            for number, unit in enumerate(units):
                base[number] += means[unit]
                predicted = torch.from_numpy(evaluation[1][number])[seen.rows].double()
                for scaling, found in scales.items():
                    c, d = found[number]
                    lost[scaling][number] += float(
                        _compute_loss_changes(seen, unit, c * predicted + d, temperature).sum()
                    )
    return {
        scaling: np.where(base > 0, 1 - each / np.where(base > 0, base, 1), np.nan) for scaling, each in lost.items()
    }


class _FittingImages:
    """The images that c and d are fitted on, as far as the layer."""

    def __init__(self, known: Sequence[_LabelledBatch], temperature: float):
        self.known, self.temperature = known, temperature
        self.rows = torch.cat([seen.rows for seen in known])
        self.activations = torch.cat([_mean_activations(seen.replay) for seen in known]).double()
        self.means = self.activations.mean(0)
        self._tables: dict[int, _LossTable] = {}

    def fit_scalings(
        self, units: Sequence[int], predicted: Float[np.ndarray, "units fitted"], scaling: Scaling
    ) -> list[tuple[float, float]]:
        """Return c and d of each unit."""
        guesses = [torch.from_numpy(each)[self.rows].double() for each in predicted]
        closed = [
            _fit_least_squares(guess, self.activations[:, unit]) for guess, unit in zip(guesses, units, strict=True)
        ]
        if scaling == "closed":
            return closed
        found = []
        for unit, guess, start in zip(units, guesses, closed, strict=True):
            tried = _search_scaling(self._tabulate_losses(unit), guess)
            found.append(min((start, tried), key=lambda scale: self._total_change(unit, scale[0] * guess + scale[1])))
        return found

    def _tabulate_losses(self, unit: int) -> "_LossTable":
        """Return each image's loss at values of the unit from below its minimum to above its maximum."""
        if unit not in self._tables:
            low, high = float(self.activations[:, unit].min()), float(self.activations[:, unit].max())
            margin = 0.25 * max(high - low, 1e-6)
            values = torch.linspace(low - margin, high + margin, TABLE_SIZE, dtype=torch.float64)
            losses = [self._loss_changes(unit, value.expand(len(self.rows))) for value in values]
            self._tables = {unit: _LossTable(values, torch.stack(losses, dim=1))}  # one at a time in memory
        return self._tables[unit]

    def _loss_changes(self, unit: int, values: Float[Tensor, " images"]) -> Float[Tensor, " images"]:
        parts = values.split([len(seen.rows) for seen in self.known])
        found = [
            seen.losses(seen.run_with_unit_at(unit, value), self.temperature)
            - seen.losses(seen.replay.outputs, self.temperature)
            for seen, value in zip(self.known, parts, strict=True)
        ]
        return torch.cat(found).cpu()

    def _total_change(self, unit: int, values: Float[Tensor, " images"]) -> float:
        return float(self._loss_changes(unit, values).abs().sum())


@dataclass(frozen=True)
class _LossTable:
    """By how much each image's loss changes when a unit takes certain values; between them linear, and so
    beyond them.
    """

    values: Float[Tensor, " stops"]  # evenly spaced
    losses: Float[Tensor, "images stops"]

    def total_change(self, values: Float[Tensor, "tries images"]) -> Float[Tensor, " tries"]:
        """Return the sum of the absolute changes of all images."""
        place = (values - self.values[0]) / (self.values[1] - self.values[0])
        left = place.floor().clamp(0, len(self.values) - 2).long()
        images = torch.arange(values.shape[1])
        near, far = self.losses[images, left], self.losses[images, left + 1]
        return (near + (place - left) * (far - near)).abs().sum(1)


def _search_scaling(table: _LossTable, predicted: Float[Tensor, " images"]) -> tuple[float, float]:
    """Return the scaling c and d that changes the losses least, by a search on grids that narrow."""
    middle, spread = float(predicted.mean()), float(predicted.std(correction=0))
    share = (predicted - middle) / (
        2 * spread if spread**2 > MIN_VARIANCE else 1.0
    ) + 0.5  # 0 a deviation below the mean, 1 one above it
    low, high = (table.values[[0, 0]], table.values[[-1, -1]])
    best = (low + high) / 2
    for _ in range(REFINEMENTS):
        axes = [
            torch.linspace(float(start), float(end), GRID_SIZE, dtype=torch.float64)
            for start, end in zip(low, high, strict=True)
        ]
        tried = torch.cartesian_prod(*axes)
        best = tried[table.total_change(tried[:, :1] + (tried[:, 1:] - tried[:, :1]) * share).argmin()]
        reach = (high - low) / (GRID_SIZE - 1)
        low, high = best - reach, best + reach
    c = float(best[1] - best[0]) / (2 * spread) if spread**2 > MIN_VARIANCE else 0.0
    return c, float(best.mean()) - c * middle


def _compute_loss_changes(
    seen: _LabelledBatch, unit: int, value: Float[Tensor, "..."], temperature: float
) -> Float[Tensor, " b"]:
    """Return the absolute change of each image's loss when a unit is set to a value."""
    before = seen.losses(seen.replay.outputs, temperature)
    return (seen.losses(seen.run_with_unit_at(unit, value), temperature) - before).abs()


def _fit_least_squares(predicted: Float[Tensor, " images"], true: Float[Tensor, " images"]) -> tuple[float, float]:
    """Return c and d of the least-squares line."""
    spread = predicted.var(correction=0)
    c = float(((predicted - predicted.mean()) * (true - true.mean())).mean() / spread) if spread > MIN_VARIANCE else 0.0
    return c, float(true.mean() - c * predicted.mean())


def _mean_activations(replay: Replay) -> Float[Tensor, "b units"]:
    """Return the mean of each unit over its places."""
    values = replay.values.movedim(replay.axis, 1)
    return values.flatten(2).mean(2) if values.ndim > 2 else values


def _iter_batches(
    target: Target, layer: str, labelled: tuple[Probe, Int[Tensor, " images"]], batch_size: int
) -> Iterator[_LabelledBatch]:
    probe, labels = labelled
    with record_replays(target, layer) as run:
        for ids, images in track_progress(
            probe.inputs(batch_size), total=-(-len(probe) // batch_size), description=f"replaying from {layer}"
        ):
            yield _LabelledBatch(run(target.make_input(ids, images)), labels[ids].to(target.device), ids)


def _run_probe(
    target: Target, probe: Probe, labels: Int[Tensor, " images"], batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of all labelled images, their labels and their indices."""
    parts = [(target.outputs(target.make_input(ids, images)).cpu(), ids) for ids, images in probe.inputs(batch_size)]
    rows = torch.cat([ids for _, ids in parts])
    return torch.cat([part for part, _ in parts]), labels[rows], rows


def _find_correct_outputs(target: Target, probe: Probe, synsets: str) -> Int[Tensor, " images"]:
    """Return the index of the correct output for each image of a probe."""
    labels = known_labels(probe)
    shape = target.outputs(target.make_input(torch.tensor([0]), probe.input(0)[None])).shape
    if len(shape) != 2:
        raise MissingEvidence(
            f"{target.name} answers {tuple(shape[1:])} for an image: "
            "what a unit is worth is only known for a classifier of the probe's classes"
        )
    return torch.tensor(match_outputs(probe, shape[1], synsets))[torch.tensor(labels)]
