"""NetDissect names units for what can be counted by hand, from labels and from segmenters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import milan
from milan.describers._shared.contract import UNITS, make_toy_dissection
from milan.diorama.text_reader import parse_description
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.masks import iter_unit_masks
from milan.errors import MissingEvidence, UnknownName
from milan.probes import load_probe
from milan.probes.pixel_labels import DioramaLabels
from milan.targets.loading import load_target
from milan.units import Description
from tests.describers.labelled import labelled
from tests.describers.makers import SEGMENTER, load_simulated


@pytest.fixture(scope="module")
def dissection(tmp_path_factory: pytest.TempPathFactory) -> Dissection:
    return labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    """Counts of other tests are of no use here."""


def answers(dissection: Dissection, **settings) -> list[tuple[str, float]]:
    """The candidates of the unit "red"."""
    said = list(load_simulated("netdissect", **settings).describe(dissection, dissection.units))
    assert [each.unit.index for each in said] == [0, 1]
    assert (said[0].text, said[0].score) == (said[0].candidates[0].text, said[0].candidates[0].score)
    assert said[0].candidates == said[1].candidates  # they answer to the same pixels
    return [(candidate.text, candidate.score) for candidate in said[0].candidates]


def test_overlaps_counted_on_fingers(dissection: Dissection) -> None:
    assert answers(dissection) == [("cat", 24 / 32), ("dog", 8 / (32 + 16 - 8)), ("sky", 0.0)]


def test_what_may_be_named(dissection: Dissection) -> None:
    assert answers(dissection, without="cat") == [("dog", 8 / 40), ("sky", 0.0)]
    assert answers(dissection, only="sky, dog") == [("dog", 8 / 40), ("sky", 0.0)]
    assert answers(dissection, ignored="cat, unlabelled") == [("dog", 8 / 40), ("sky", 0.0)]
    assert answers(dissection, classes="feline,canine,air,void")[0] == ("feline", 24 / 32)
    with pytest.raises(UnknownName, match="'cats'; nearest: cat"):
        answers(dissection, only="cats")


def test_detectors_are_above_the_cut(dissection: Dissection) -> None:
    (said,) = load_simulated("netdissect", cut=0.3).describe(dissection, dissection.units[:1])
    assert [dict(candidate.parts) for candidate in said.candidates] == [
        {"iou": 0.75, "detector": 1.0},
        {"iou": 0.2, "detector": 0.0},
        {"iou": 0.0, "detector": 0.0},
    ]


def test_another_quantile_than_the_dissections(dissection: Dissection) -> None:
    assert answers(dissection, quantile=0.5) == answers(dissection)
    assert answers(dissection, quantile=0.9)[0] == ("cat", 0.0)  # the quantile is red itself, and nothing is redder


def test_where_every_image_has_labels_of_the_level_both_sums_are_equal(dissection: Dissection) -> None:
    assert answers(dissection, over="category") == answers(
        dissection
    )  # both images have labels of the one level there is


def test_probes_that_know_nothing_say_so(tmp_path: Path) -> None:
    with pytest.raises(MissingEvidence, match="no segmentations"):
        list(load_simulated("netdissect").describe(world := make_toy_dissection(tmp_path / "toy"), world.units))
    nameless = labelled(tmp_path / "nameless", names=False)
    with pytest.raises(MissingEvidence, match=r"put classes.txt beside the data, or give classes=FILE"):
        list(load_simulated("netdissect").describe(nameless, nameless.units))


def test_a_segmenter_in_place_of_labels(tmp_path: Path) -> None:
    world = make_toy_dissection(tmp_path)
    said = {
        UNITS[each.unit.index]: each.text
        for each in load_simulated("netdissect", labels=SEGMENTER).describe(world, world.units)
    }
    assert said.items() >= {"red": "red", "green": "green", "blue": "blue"}.items()
    assert said["red or blue"] in ("red", "blue", "colourful")


def test_a_segmenter_of_transformers(tmp_path: Path, dissection: Dissection) -> None:
    import transformers

    sizes = {
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 8,
    }
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**sizes, num_labels=3, id2label={0: "cat", 1: "dog", 2: "background"})
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "tiny")
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tiny")
    found = answers(dissection, labels=f"segmenter:hf:{tmp_path / 'tiny'}")
    assert {text for text, _ in found} <= {"cat", "dog"}
    assert (
        load_simulated("netdissect", labels=f"segmenter:hf:{tmp_path / 'tiny'}").key
        != load_simulated("netdissect", labels=SEGMENTER).key
    )


def measure_overlaps(layer: Dissection, said: Sequence[Description], folder: Path) -> list[float]:
    """The IoU of units' masks with the pixels that their texts denote, from masks and labels of the probe."""
    signatures = DioramaLabels(layer.open_probe(), folder).signatures
    masks = iter_unit_masks(layer.open_target(), layer.open_probe(), layer.layer, layer.thresholds())
    counts = sum(signatures.count_pixels(ids.numpy(), inside.numpy()) for ids, inside in masks).toarray()
    found = []
    for each in said:
        inside, where = counts[layer.row_of(each.unit)], signatures.text_mask(parse_description(each.text))
        both = inside[where].sum()
        found.append(both / (inside.sum() + signatures.area[where].sum() - both))
    return found


def test_its_score_is_the_overlap_of_masks_and_labels(tmp_path: Path) -> None:
    probe = load_probe("diorama:objects", limit=40)
    layer = dissect(load_target("diorama:resnet-objects"), probe, ["layer3"], tmp_path, k=3)["layer3"]
    said = list(load_simulated("netdissect").describe(layer, layer.units))
    assert len(said) > 50
    assert measure_overlaps(layer, said, tmp_path) == pytest.approx([each.score for each in said], abs=1e-12)
    assert np.mean([each.score for each in said]) > 0.08


def test_the_same_counts_serve_every_unit(dissection: Dissection, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answers(dissection)
    monkeypatch.setattr(
        "milan.dissection.overlap_counting.OverlapCounter.run", lambda self: pytest.fail("counted again")
    )
    assert answers(dissection) == first
    assert list(load_simulated("netdissect").describe(dissection, dissection.units[2:])) == []  # dead


def test_real_street_scenes(shared_data: Path, tmp_path: Path) -> None:
    target = load_target(
        "torchvision:squeezenet1_0", weights=str(shared_data / "squeezenet" / "squeezenet1_0_imagenet.safetensors")
    )
    probe = load_probe(str(shared_data / "camvid" / "val.parquet"), limit=12)
    catalogue = milan.describe(
        target,
        probe,
        "netdissect",
        layers=["features.12"],
        units="0-39",
        out=tmp_path,
        k=3,
        quantile=0.995,
        settings={"labels": "probe"},
    )
    said = [entry.description for entry in catalogue.entries if entry.description]
    classes = (shared_data / "camvid" / "classes.txt").read_text().split()
    assert {each.text for each in said} <= set(classes) - {"unlabelled"}
    assert sum(each.score > 0.04 for each in said) >= 3
