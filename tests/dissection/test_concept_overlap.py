"""Overlaps counted by signature are those of brute force, whatever the batches, and are counted once."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from milan.dissection import concept_overlap, mask_pixels
from milan.dissection import overlap_counting as module
from milan.dissection.concept_overlap import ConceptOverlap, compute_thresholds, count_overlap, count_overlaps
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.masks import iter_unit_masks
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.probes.pixel_labels import TensorLabels
from tests.dissection.world import SIZE, toy_probe, toy_target

COUNT = 24
CONCEPTS = ["red", "blue", "car", "boat", "never seen"]


def made_labels(size: int = SIZE) -> TensorLabels:
    """Rough blocks of labels on two levels; a colour in every second image only, "boat" on both levels."""
    rng = np.random.default_rng(0)
    colour = rng.choice([-1, 0, 1, 3], (COUNT, 1, 4, 4))
    colour[::2] = -1
    labels = np.concatenate([colour, rng.choice([-1, 2, 3], (COUNT, 1, 4, 4))], axis=1)
    return TensorLabels(
        torch.from_numpy(labels.repeat(size // 4, axis=2).repeat(size // 4, axis=3)), CONCEPTS, ["colour", "object"]
    )


class Patchy(TensorLabels):
    """Labels of which those of some images cannot be read."""

    bad = (5,)

    def load(self, ids):
        if set(ids) & set(self.bad):
            raise BadInput(f"cannot read the segmentation of row {min(set(ids) & set(self.bad))}")
        return super().load(ids)


@pytest.fixture(scope="module")
def dissection(tmp_path_factory: pytest.TempPathFactory) -> Dissection:
    return dissect(toy_target(), toy_probe(COUNT), ["conv1"], tmp_path_factory.mktemp("toy"), k=3, quantile=0.95)[
        "conv1"
    ]


@pytest.fixture
def counted(dissection: Dissection, cache: Path) -> ConceptOverlap:
    return count_overlap(dissection, made_labels())


def brute(dissection: Dissection, over: str) -> np.ndarray:
    """The IoU of every unit with every concept, pixel by pixel."""
    labels = made_labels().labels.numpy()
    found = np.zeros((len(dissection.units), len(CONCEPTS)))
    seen = list(iter_unit_masks(dissection.open_target(), dissection.open_probe(), "conv1", dissection.thresholds()))
    masks = torch.cat([part for _, part in seen]).numpy()  # images units h w
    for concept in range(len(CONCEPTS)):
        shown = (labels == concept).any(axis=1)
        levels = [level for level in (0, 1) if (labels[:, level] == concept).any()]
        images = np.array([over == "probe" or any((image[level] >= 0).any() for level in levels) for image in labels])
        for unit in range(masks.shape[1]):
            both, either = masks[images, unit] & shown[images], masks[images, unit] | shown[images]
            found[unit, concept] = both.sum() / max(1, either.sum()) if images.any() else 0
    return found


@pytest.mark.parametrize("over", ["probe", "category"])
def test_iou_is_that_of_brute_force(dissection: Dissection, counted: ConceptOverlap, over: str) -> None:
    expected = brute(dissection, over)
    assert np.array_equal(counted.iou(over), expected)
    assert expected[:, :4].min() > 0.01
    assert not expected[:, 4].any()


def test_the_two_ways_of_summing_differ_where_images_lack_labels(counted: ConceptOverlap) -> None:
    whole, within = counted.iou("probe"), counted.iou("category")
    assert (within[:, 0] >= whole[:, 0]).all()
    assert (within[:, 0] > whole[:, 0]).any()


def test_iou_is_scikit_learns_jaccard_score(dissection: Dissection, counted: ConceptOverlap) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels = made_labels().labels.numpy()
    seen = iter_unit_masks(dissection.open_target(), dissection.open_probe(), "conv1", dissection.thresholds())
    masks = torch.cat([part for _, part in seen]).numpy()
    boat = (labels == 3).any(axis=1)
    expected = [metrics.jaccard_score(boat.ravel(), masks[:, unit].ravel()) for unit in range(masks.shape[1])]
    assert counted.iou()[:, 3] == pytest.approx(expected)


def test_areas_and_images(counted: ConceptOverlap) -> None:
    labels = made_labels().labels.numpy()
    assert counted.area.sum() == COUNT * SIZE * SIZE
    shown = [(labels == concept).any(axis=1) for concept in range(len(CONCEPTS))]
    assert (counted.has_concept.T @ counted.area).tolist() == [each.sum() for each in shown]
    assert counted.images.tolist() == [each.any((1, 2)).sum() for each in shown]
    assert counted.levels_of.tolist() == [[True, False], [True, False], [False, True], [True, True], [False, False]]


@pytest.mark.parametrize("decoded", [1, 7])
def test_the_batch_size_changes_nothing(
    dissection: Dissection, counted: ConceptOverlap, decoded: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(module, "DECODING_BATCH", decoded)
    monkeypatch.setattr(mask_pixels, "CHUNK", 3000)
    monkeypatch.setattr(module, "MERGED_COUNTS", 50)
    again = count_overlap(dissection, made_labels())
    assert np.array_equal(again.table, counted.table)
    assert np.array_equal(again.counts.toarray(), counted.counts.toarray())


def test_it_is_counted_once(dissection: Dissection, counted: ConceptOverlap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.OverlapCounter, "run", lambda self: pytest.fail("counted again"))
    assert np.array_equal(count_overlap(dissection, made_labels()).iou(), counted.iou())
    other = made_labels()
    other.labels[0, 1, 0, 0] = 2 - other.labels[0, 1, 0, 0]
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        count_overlap(dissection, other)


def test_a_small_probe_is_read_once_for_all_layers(
    dissection: Dissection, counted: ConceptOverlap, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    probe = dissection.open_probe()
    inputs = type(probe).inputs
    monkeypatch.setattr(type(probe), "inputs", lambda self, *given: (read.append(1), inputs(self, *given))[1])
    monkeypatch.setattr(module, "DECODING_BATCH", 5)
    other = made_labels()
    other.labels[:] = 0
    for changed, times in ((0, 1), (1, 1)):
        other = TensorLabels(other.labels.clone(), CONCEPTS, ["colour", "object"])
        other.labels[changed] = 1
        assert count_overlap(dissection, other).area.sum() == COUNT * SIZE * SIZE
        assert len(read) == times
    monkeypatch.setattr(module, "CACHED_BYTES", 10)
    monkeypatch.setattr(module, "DECODING_BATCH", 6)
    for changed, times in ((2, 2), (3, 3)):
        other = TensorLabels(other.labels.clone(), CONCEPTS, ["colour", "object"])
        other.labels[changed] = 1
        count_overlap(dissection, other)
        assert len(read) == times


def test_another_quantile_has_thresholds_of_its_own(dissection: Dissection, cache: Path, tmp_path: Path) -> None:
    at = dissect(toy_target(), toy_probe(COUNT), ["conv1"], tmp_path / "there", k=3, quantile=0.8)["conv1"]
    assert torch.equal(compute_thresholds([dissection], 0.8)[0], at.thresholds())
    assert np.array_equal(
        count_overlap(dissection, made_labels(), 0.8).counts.toarray(),
        count_overlap(at, made_labels()).counts.toarray(),
    )
    assert (
        count_overlap(dissection, made_labels(), 0.8).counts.sum()
        > count_overlap(dissection, made_labels()).counts.sum()
    )


def test_thresholds_at_the_quantile_of_network_dissection_need_no_other_pass(
    dissection: Dissection, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = dissect(toy_target(), toy_probe(COUNT), ["conv1"], tmp_path, k=3, quantile=0.995)["conv1"]
    monkeypatch.setattr(concept_overlap, "dissect", None)
    assert torch.equal(compute_thresholds([dissection], 0.995)[0], at.thresholds())
    assert at.thresholds_at(0.999) is None


def test_all_layers_are_counted_in_one_pass(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ["conv1", "conv2"]
    both = dissect(toy_target(), toy_probe(COUNT), layers, tmp_path / "both", k=3, quantile=0.95)
    alone = [
        count_overlap(both[layer], made_labels(), quantile, folder=tmp_path / "alone")
        for layer in layers
        for quantile in (None, 0.8)
    ]
    passes = []
    real = module.map_blocks
    monkeypatch.setattr(module, "map_blocks", lambda *given: (passes.append(given[1]), real(*given))[1])
    for place, quantile in enumerate((None, 0.8)):
        found = count_overlaps(list(both.values()), made_labels(), quantile)
        for one, other in zip(found, alone[place::2], strict=True):
            assert np.array_equal(one.counts.toarray(), other.counts.toarray())
    assert passes == [layers, layers]


def test_only_some_units(cache: Path, tmp_path: Path, counted: ConceptOverlap) -> None:
    some = dissect(
        toy_target(), toy_probe(COUNT), ["conv1"], tmp_path / "some", k=3, quantile=0.95, units={"conv1": [1, 4]}
    )["conv1"]
    found = count_overlap(some, made_labels())
    assert np.array_equal(found.iou(), counted.iou()[[1, 4]])
    assert np.array_equal(found.pixels_inside(some.units[1]), counted.pixels_inside(some.units[1]))


def test_images_whose_labels_cannot_be_read_are_left_out(dissection: Dissection, cache: Path) -> None:
    labels = Patchy(made_labels().labels, CONCEPTS, ["colour", "object"])
    with pytest.warns(MilanWarning, match=r"1 of 24 images.*segmentation of row 5"):
        found = count_overlap(dissection, labels)
    with pytest.warns(MilanWarning, match=r"1 of 24 images.*segmentation of row 5"):
        count_overlap(dissection, labels)  # counted before: the warning is kept with the counts
    assert found.area.sum() == (COUNT - 1) * SIZE * SIZE
    labels.bad = (5, 6)
    with pytest.raises(BadInput, match="segmentation of row 6"), warnings.catch_warnings(action="ignore"):
        count_overlap(dissection, GivenLabelsOf(labels))


class GivenLabelsOf(Patchy):
    """The same labels under another key."""

    def __init__(self, labels: Patchy):
        super().__init__(labels.labels, labels.concepts, labels.level_names)
        self.bad, self.key = labels.bad, "another"


def test_labels_of_another_size_are_refused(dissection: Dissection, cache: Path) -> None:
    with pytest.raises(BadInput, match="16 x 16 pixels for images of 32 x 32"):
        count_overlap(dissection, made_labels(16))


def test_what_may_be_named(counted: ConceptOverlap) -> None:
    names = lambda **options: [CONCEPTS[place] for place in np.flatnonzero(counted.select_concepts(**options))]  # noqa: E731
    assert names() == ["red", "blue", "car", "boat"]
    assert names(only="object") == ["car", "boat"]
    assert names(only="colour, car", without="blue") == ["red", "car", "boat"]
    assert names(least_images=20) == [
        name for name, images in zip(CONCEPTS, counted.images, strict=True) if images >= 20
    ]
    with pytest.raises(UnknownName, match="'colr'; nearest: colour"):
        counted.select_concepts(only="colr")
    with pytest.raises(BadInput, match="no concept is left of 5"):
        counted.select_concepts(only="never seen")


@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.integers(-1, 3)))
def test_different_columns(flat: np.ndarray) -> None:
    found, which, counts = module._find_unique_columns(flat)
    expected, times = np.unique(flat, axis=1, return_counts=True)
    assert np.array_equal(found[:, which], flat)
    order = np.lexsort(found[::-1])
    assert np.array_equal(found[:, order], expected)
    assert np.array_equal(counts[order], times)
