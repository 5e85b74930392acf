"""Accuracy of a classifier on each image while sets of its units are ablated, in one pass for many sets."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from milan.console.progress import track_progress
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure
from milan.storage.files import content_key, new_array
from milan.storage.journal import Journal
from milan.targets.hooks import ablated, recorded
from milan.targets.module_outputs import select_tensor
from milan.targets.preprocessing import Size
from milan.targets.replay import record_replays
from milan.targets.target import Target
from milan.units import Unit

BATCH_SIZE = 64


def evaluate_ablations(
    target: Target,
    probe: Probe,
    sets: Sequence[Collection[Unit]],
    answers_file: Path,
    synsets: str = "",
    features: str = "",
    batch_size: int = BATCH_SIZE,
) -> tuple[Int[np.ndarray, " images"], Bool[np.ndarray, "sets images"]]:
    """Return the indices of readable images, and whether each is classified correctly with the units of each set at 0.

    The part of the network before the first layer that a set ablates runs once per batch, for all sets that begin
    there. Runs are resumable from the last batch.

    Args:
        sets: sets of units; an empty one leaves the network unchanged.
        answers_file: file in which the results of each batch are stored.
        synsets: file that names the class of each output, where the probe does not show all; see
            ``milan.probes.superclasses.match_outputs``.
        features: a layer, at or after all layers of the sets, whose means over the image are stored beside the results:
            ``get_features_file(answers_file)``.

    Raises:
        MissingEvidence: the probe has no labels, or the network does not return a logit for each class.
        BadInput: a set ablates units after ``features``.
    """
    plain = [sorted(map(str, units)) for units in sets]
    key = content_key(
        target=target.fingerprint,
        probe=probe.fingerprint,
        sets=plain,
        synsets=synsets,
        features=features,
        size=batch_size,
    )
    with Journal(answers_file, key) as journal, _capture_means(target, probe, sets, features) as tap:
        parts = [_unpack_row(journal.get(id) or {}, len(sets)) for id in sorted(journal.ids(), key=int)]
        begun = int(parts[-1][0][-1]) + 1 if parts else 0
        shape = (len(sets), len(probe), target.layer(features).units if features else 0)
        store = _open_features(answers_file, shape, fresh=not parts)
        for rows, right, means in _iter_correct(
            target, probe, sets, synsets, range(begun, len(probe), batch_size), tap
        ):
            if features:
                store[:, rows] = means
                store.flush()  # type: ignore[attr-defined]
            journal.put(str(rows[-1]), {"rows": rows.tolist(), "right": np.packbits(right).tobytes().hex()})
            parts.append((rows, right))
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([right for _, right in parts], axis=1)


def get_features_file(answers_file: Path) -> Path:
    """Return the path of the features written by ``evaluate_ablations``: float32 (sets, images, units); 0 for
    unreadable images.
    """
    return answers_file.with_suffix(".npy")


def compute_mean_difference(
    one: Float[np.ndarray, "draws images"], other: Float[np.ndarray, "others images"], seed: int = 0
) -> Measure:
    """Return the difference of two tables' means over the same images, with a paired bootstrap interval of 95%.

    >>> found = compute_mean_difference(np.array([[1.0, 1.0, 0.0, 1.0]]), np.array([[0.0, 1.0, 0.0, 1.0]]))
    >>> found.value, found.low >= 0, found.units
    (0.25, True, 4)
    """
    rng = np.random.default_rng(seed)
    images = rng.multinomial(one.shape[1], np.full(one.shape[1], 1 / one.shape[1]), RESAMPLES) / one.shape[1]
    drawn = []
    for table in (one, other):
        rows = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES) / len(table)
        drawn.append(np.einsum("dr,ri,di->d", rows, table, images, optimize=True))
    between = drawn[0] - drawn[1]
    low, high = np.quantile(between, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(one.mean() - other.mean()), low, high, float(between.std(ddof=1)), one.shape[1])


def sort_by_execution(target: Target, layers: Collection[str], size: Size) -> list[str]:
    """Return layers in the order in which they are executed for images of this size."""
    order: list[str] = []

    def note(layer: str, maps: Tensor, cls: Tensor | None) -> None:
        order.append(layer)

    with recorded(target, sorted(layers), note) as look:
        look(target.noise(1, size))
    return order


def _unpack_row(row: dict, sets: int) -> tuple[Int[np.ndarray, " b"], Bool[np.ndarray, "sets b"]]:
    rows = np.array(row["rows"])
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), dtype=np.uint8), count=sets * len(rows))
    return rows, bits.astype(bool).reshape(sets, len(rows))


def _open_features(kept: Path, shape: tuple[int, int, int], fresh: bool) -> np.ndarray:
    """Open the file of features for writing; None if no features are requested."""
    if not shape[-1]:
        return np.zeros(shape, dtype=np.float32)
    file = get_features_file(kept)
    if fresh:
        return new_array(file, np.float32, shape)
    with suppress(OSError, ValueError):
        found = np.lib.format.open_memmap(file, "r+")
        if found.shape == shape:
            return found
    raise BadInput(f"{file} is lost or damaged, and {kept} depends on it; delete {kept} to evaluate again")


def _iter_correct(
    target: Target,
    probe: Probe,
    sets: Sequence[Collection[Unit]],
    synsets: str,
    starts: range,
    tap: Callable[[], np.ndarray],
) -> Iterator[tuple[Int[np.ndarray, " b"], Bool[np.ndarray, "sets b"], Float[np.ndarray, "sets b units"]]]:
    """Yield for each batch its image indices, whether each set classifies them correctly, and each set's features."""
    labels, begins = find_correct_outputs(target, probe, synsets), _group_by_first_layer(target, sets, probe.size)
    with ExitStack() as stack:
        runs = {layer: stack.enter_context(record_replays(target, layer)) for layer in begins if layer}
        batches = probe.inputs(starts.step, start=starts.start)
        for ids, images in track_progress(
            batches, total=len(starts), description=f"accuracy without {len(sets)} sets of units"
        ):
            right, correct = np.zeros((len(sets), len(ids)), dtype=bool), labels[ids].to(target.device)
            means: list[np.ndarray] = [np.zeros((len(ids), 0), dtype=np.float32)] * len(sets)
            for number, logits in _iter_logits(target, target.make_input(ids, images), sets, begins, runs):
                right[number], means[number] = (logits.argmax(1) == correct).cpu().numpy(), tap()
            yield ids.numpy(), right, np.stack(means)


@contextmanager
def _capture_means(
    target: Target, probe: Probe, sets: Sequence[Collection[Unit]], name: str
) -> Iterator[Callable[[], np.ndarray]]:
    """Yield a function that returns the spatial mean of a layer in the last pass."""
    last: list[Tensor] = []
    if not name:
        yield lambda: np.zeros((0, 0), dtype=np.float32)
        return
    layer, calls = target.layer(name), [0]
    layers = {unit.layer for units in sets for unit in units}
    if (order := sort_by_execution(target, layers | {name}, probe.size))[-1] != name:
        raise BadInput(
            f"units of {order[-1]} are ablated, after {name}, whose features are to be stored; give a later layer"
        )

    def begin(*_: Any) -> None:
        calls[0] = 0

    def note(_: nn.Module, inputs: Any, output: Any) -> None:
        found = select_tensor(output, target.output_index)
        if calls[0] == layer.call and found is not None:
            last[:] = [layer.maps(found[1]).flatten(2).mean(2)]
        calls[0] += 1

    with ExitStack() as stack:
        stack.callback(target.core.register_forward_pre_hook(begin).remove)
        stack.callback(target.modules()[layer.module].register_forward_hook(note).remove)
        yield lambda: last[0].float().cpu().numpy()


def _group_by_first_layer(target: Target, sets: Sequence[Collection[Unit]], size: Size) -> dict[str, list[int]]:
    """Group set indices by the first layer that each set ablates; "" for empty sets."""
    layers = {unit.layer for units in sets for unit in units}
    order = sort_by_execution(target, layers, size) if layers else []
    begins: dict[str, list[int]] = {layer: [] for layer in ["", *order]}
    for number, units in enumerate(sets):
        begins[min((unit.layer for unit in units), key=order.index, default="")].append(number)
    return {layer: numbers for layer, numbers in begins.items() if numbers}


def _iter_logits(
    target: Target, images: Tensor, sets: Sequence[Collection[Unit]], begins: dict, runs: dict
) -> Iterator[tuple[int, Float[Tensor, "b classes"]]]:
    """Yield the index of each set and the logits with its units ablated."""
    if "" in begins:
        plain = target.outputs(images)
        yield from ((number, plain) for number in begins[""])
    for layer, run in runs.items():
        replay = run(images)
        for number in begins[layer]:
            with ablated(target, sets[number]), torch.no_grad():
                yield number, replay.run_from()


def find_correct_outputs(target: Target, probe: Probe, synsets: str = "") -> Int[Tensor, " images"]:
    """Return the index of the correct output of a classifier for each image of a probe.

    Args:
        synsets: file that names the class of each output; see ``milan.probes.superclasses.match_outputs``.

    Raises:
        BadInput: the target does not take images of the probe's size.
        MissingEvidence: the probe has no labels, or the network does not return a logit for each class.
    """
    target.check_size(probe.size)
    from milan.probes.superclasses import known_labels, match_outputs

    labels = known_labels(probe)
    shape = target.outputs(target.make_input(torch.tensor([0]), probe.input(0)[None])).shape
    if len(shape) != 2:
        what = f"{target.name} returns {tuple(shape[1:])} for an image of {probe.spec or probe.name!r}"
        raise MissingEvidence(f"{what}; accuracy and impact are only defined for a classifier of labelled images")
    return torch.tensor(match_outputs(probe, shape[1], synsets))[torch.tensor(labels)]
