"""Class labels of every kind that tables hold, and what is made of images whose class is unknown."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from milan.concepts.presence import presence_from_classes
from milan.describers.caption_activation import CaptionActivation
from milan.dissection.dissect import dissect
from milan.errors import BadInput, MilanWarning, MissingEvidence
from milan.probes import Probe, load_probe
from milan.probes.class_labels import class_labels, names_by_label
from milan.probes.superclasses import known_labels, load_class_concepts, match_outputs
from milan.results.page.activation_ranges import compute_class_ranges
from milan.scores.ablation_score import compute_impacts
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.scores.activation_simulation import ClassSimulator
from milan.targets.target import Target


@pytest.mark.parametrize(
    ("values", "declared", "labels", "classes"),
    [
        ([2, 0, -1], None, [2, 0, -1], None),
        ([1, None, -100], ["cat", "dog"], [1, -1, -1], ["cat", "dog"]),
        ([-1, -1, None], ["cat", "dog"], None, ["cat", "dog"]),
        ([1.0, 0.0, float("nan")], None, [1, 0, -1], None),
        (["10", "9", ""], None, [10, 9, -1], None),
        (["dog", "cat", None, "dog"], None, [1, 0, -1, 1], ["cat", "dog"]),
        (["cat", "dog"], ["dog", "cat"], [1, 0], ["dog", "cat"]),
        ([b"b", b"a"], None, [1, 0], ["a", "b"]),
        ([True, False], None, [1, 0], ["false", "true"]),
        ([], None, None, None),
    ],
)
def test_labels_of_any_kind_are_class_numbers(values, declared, labels, classes):
    assert class_labels(values, declared) == (labels, classes)


@pytest.mark.parametrize(
    ("values", "declared", "named"),
    [
        ([0, 2**40], None, "label '1099511627776' in row 1 .* from 0 to 1048575"),
        ([0, 3, 1], ["a", "b", "c"], "label '3' in row 1 .* from 0 to 2"),
        ([-2], None, "label '-2' in row 0"),
        ([0.5], None, "0.5 is of the type float"),
        ([[0, 1]], None, "of the type list"),
        ([{"a": 1}], None, "of the type dict"),
        ([0, "cat"], None, "label 'cat' in row 1"),
    ],
)
def test_what_is_no_label_is_named(values, declared, named):
    with pytest.raises(BadInput, match=named):
        class_labels(values, declared)


def test_names_beside_labels_leave_out_the_unknown():
    assert names_by_label([2, -1, 0], ["dog", "what?", "cat"]) == ["cat", "1", "dog"]
    assert names_by_label([0, 0], ["cat", "dog"]) is None
    assert names_by_label([0], [None]) is None


def parquet(file, **columns):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": [buffer.getvalue()] * count, **columns}), file)
    return str(file)


def test_a_column_of_something_else_is_not_used_and_a_warning_says_why(tmp_path):
    for column in ([0, 2**40], [[0], [1]]):
        with pytest.warns(MilanWarning, match=r"labels of .*t\.parquet are not used: "):
            probe = load_probe(parquet(tmp_path / "t.parquet", label=column, name=["a", "b"]), size=8)
        assert (probe.labels, probe.classes, len(probe)) == (None, None, 2)


def test_classes_named_by_wordnet_ids_are_known_by_them(tmp_path):
    file = parquet(tmp_path / "t.parquet", label=pa.array(["n02084071", "n01443537", "n02084071"]).dictionary_encode())
    probe = load_probe(file, size=8)
    assert (probe.labels, probe.wnids) == ([1, 0, 1], ["n01443537", "n02084071"])


def test_a_hub_split_without_labels_has_none(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "goldfish"])})
    rows = {"image": [Image.new("RGB", (8, 8))] * 2, "label": [-1, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    probe = load_probe(f"hf:{tmp_path / 'set'}", size=8)
    assert (probe.labels, probe.classes) == (None, ["tench", "goldfish"])
    with pytest.raises(MissingEvidence, match="no class labels"):
        presence_from_classes(probe)


class Levels(nn.Module):
    """One unit, the brightness of an image, and a classifier of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Conv2d(3, 1, 1)
        self.unit.weight.data.fill_(1 / 3)

    def forward(self, images):
        level = self.unit(images).mean((1, 2, 3))
        return torch.stack([level, 0.5 - level], 1)


@pytest.fixture
def partly():
    """40 images from black to white, of which every fourth has no known class."""
    images = torch.linspace(0, 255, 40).to(torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8)
    labels = torch.tensor([-1 if row % 4 == 0 else int(row < 20) for row in range(40)])
    return Probe.from_tensor(images, labels, ["bright", "dark"])


def test_an_image_of_unknown_class_is_of_no_class_in_particular(partly):
    found = presence_from_classes(partly)
    unknown = torch.arange(40) % 4 == 0
    assert found.matrix[unknown].isnan().all()
    assert torch.equal(found.matrix[~unknown].sum(1), torch.ones(30))
    simulated = ClassSimulator(partly).predict_presence(["dark", "nothing of the kind"]).matrix
    assert simulated[unknown].isnan().all()
    assert simulated[~unknown].sum(0).tolist() == [15, 0]


def test_charts_of_classes_are_of_the_images_whose_class_is_known(partly, tmp_path):
    target = Target(Levels(), image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found = dissect(target, partly, ["unit"], tmp_path, k=3)["unit"]
    names, (chart,) = compute_class_ranges(found, found.units)
    assert [names[place] for place in chart["classes"]] == ["bright", "dark"]
    assert np.allclose(np.sum(chart["shares"], axis=0), 100, atol=2)


def test_accuracy_needs_the_class_of_every_image(partly, tmp_path):
    target = Target(Levels(), image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tries = [
        lambda: known_labels(partly),
        lambda: match_outputs(partly, 2),
        lambda: evaluate_ablations(target, partly, [()], tmp_path / "kept.sqlite"),
        lambda: compute_impacts(target, "unit", [0], partly),
        lambda: CaptionActivation(captioner="labels", llm="echo")._caption_images(partly, [0]),
    ]
    for each in tries:
        with pytest.raises(MissingEvidence, match=r"10 of 40 images .*image 0 of a tensor"):
            each()


def test_too_many_classes_are_no_concepts():
    probe = Probe.from_tensor(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 500_000])
    with pytest.raises(BadInput, match="500001 classes"):
        load_class_concepts(probe)
