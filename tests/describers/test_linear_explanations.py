"""Linear Explanations as a describer: the contract, what it says of planted units, its test split, its evidence, its
calibration.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from milan.concepts.presence import Presence, find_published_calibration, fit_calibration, presence_from_pixels
from milan.describers import check_describer
from milan.describers._shared.contract import make_toy_dissection
from milan.describers._shared.elastic_net import RowSplit
from milan.describers.linear_explanations import _filter_concepts, prefer_single
from milan.diorama.text_reader import parse_description
from milan.dissection.dissect import dissect
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import load_probe_labels
from milan.targets.target import Target
from milan.units import Description, Unit, weighted_sum
from tests.describers.makers import COLOURS, load_simulated

CLASSES = ["cat", "dog", "cup", "lamp", "car"]
SUMS = {
    0: {"cat": 3.0, "lamp": 1.0},
    1: {"animal": 2.0, "cup": -1.0},
    2: {"car": -2.0},
    4: {"dog": 1.0, "cup": 2.0, "car": 3.0},
}
DEAD = 3


def explainer(**settings):
    """By class labels, unless reported otherwise."""
    return load_simulated("linear_explanations", **{"evidence": "labels", "concepts": ""} | settings)


class Planted(nn.Module):
    """Units that are weighted sums of the images' classes: an image is a plain colour, its red tells which class it
    has.
    """

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(len(CLASSES), 5)
        for unit, weights in SUMS.items():
            for name, weight in weights.items():
                table[[0, 1] if name == "animal" else CLASSES.index(name), unit] += weight
        self.register_buffer("table", table)
        self.units = nn.Identity()

    def forward(self, images):
        which = (images[:, 0, 0, 0] * 255 / 50).round().long()
        noise = 0.2 * (images[:, 1, 0, 0] - 0.5)
        values = self.table[which] + noise[:, None]
        values[:, DEAD] = 0
        return self.units(values[:, :, None, None].repeat(1, 1, 2, 2))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """500 images, 100 of each class."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(5), 100))
    images = np.zeros((500, 3, 8, 8), dtype=np.uint8)
    images[:, 0] = 50 * labels[:, None, None]
    images[:, 1] = rng.integers(0, 256, 500)[:, None, None]
    probe = Probe.from_tensor(torch.from_numpy(images), labels.tolist(), CLASSES)
    target = Target(Planted(), image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return dissect(target, probe, ["units"], tmp_path_factory.mktemp("planted"), k=5)["units"]


@pytest.fixture(scope="module")
def superclasses(tmp_path_factory):
    file = tmp_path_factory.mktemp("superclasses") / "super.json"
    file.write_text(json.dumps({"animal": [0, 1], "thing": [2, 3, 4]}))
    return str(file)


def explained(dissection, units=None, **settings):
    return {each.unit.index: each for each in explainer(**settings).describe(dissection, units or dissection.units)}


def test_it_keeps_the_contract():
    check_describer(lambda: explainer())


def test_it_keeps_the_contract_where_units_have_several_parts(planted, superclasses):
    check_describer(lambda: explainer(superclasses=superclasses), planted)


def test_planted_sums_are_said_with_their_signs(planted, superclasses):
    said = explained(planted, superclasses=superclasses, tolerance=0.005)
    assert {index: {name: np.sign(weight) for name, weight in each.concepts} for index, each in said.items()} == {
        0: {"cat": 1, "lamp": 1},
        1: {"animal": 1, "cup": -1},
        2: {"car": -1},
        4: {"dog": 1, "cup": 1, "car": 1},
    }
    assert DEAD not in said
    assert all(each.score > 0.99 for each in said.values())
    assert said[4].text.split(" + ")[0].endswith("car")
    assert said[2].text == f"-{-said[2].concepts[0][1]:.2f} car"


@pytest.mark.parametrize(
    ("tolerance", "weight", "text"), [(0.0, 2.0, "sum"), (0.1, 2.0, "cat"), (0.05, 2.0, "sum"), (0.1, -2.0, "sum")]
)
def test_a_concept_that_explains_nearly_all_is_named(tolerance, weight, text):
    unit = Unit("a", 0)
    first = Description(unit, f"{weight} cat", 0.92, (("cat", weight),))
    last = Description(unit, "sum", 1.0, (("cat", weight), ("dog", 1.0)))
    found = prefer_single([first, last], tolerance)
    assert found.text == text
    assert found.concepts == (first if text == "cat" else last).concepts


def test_text_weights_and_bias_are_one_function_of_the_images(planted, superclasses):
    """What is written adds up to the unit's activation in standard deviations, at every length."""
    labels = np.asarray(planted.open_probe().labels)
    for longest in (1, 2, 10):
        describer = explainer(superclasses=superclasses, longest=longest, tolerance=0.0)
        for each in describer.describe(planted, planted.units):
            shown = {name: np.isin(labels, [place]) for place, name in enumerate(CLASSES)}
            shown |= {"animal": labels < 2, "thing": labels >= 2}
            predicted = each.bias + sum(weight * shown[name] for name, weight in each.concepts)
            values = planted.activations("mean")[:, planted.row_of(each.unit)].numpy()
            rows = describer._load_layer(planted).split.validation.numpy()
            assert np.corrcoef(predicted[rows], values[rows])[0, 1] == pytest.approx(each.score, abs=1e-6)
            assert each.text == weighted_sum(each.concepts)
            assert len(each.concepts) <= longest


def test_one_unit_alone_is_said_as_among_all(planted, superclasses):
    everyone = explained(planted, superclasses=superclasses)
    for unit in planted.active_units():
        assert explained(planted, [unit], superclasses=superclasses) == {unit.index: everyone[unit.index]}


def test_shorter_ones_are_kept_as_candidates(planted, superclasses):
    said = explained(planted, superclasses=superclasses, tolerance=0.005)[4]
    assert [dict(each.parts)["length"] for each in said.candidates] == [3, 2, 1]
    assert said.candidates[0].text == said.text


def test_the_test_images_are_judged_by_and_never_learnt_from(planted, superclasses, monkeypatch):
    describer = explainer(superclasses=superclasses)
    said = list(describer.describe(planted, planted.units))
    held_out = describer.correlate_held_out(planted, said)
    assert (held_out > 0.95).all()
    study = describer._load_layer(planted)
    values = planted.activations("mean").clone()
    values[study.split.test] = 1000 * torch.rand(len(study.split.test), 5)
    rows = {unit: row for row, unit in enumerate(planted.units)}
    monkeypatch.setattr(
        type(planted),
        "activations",
        lambda self, pooling="max", units=None: values if units is None else values[:, [rows[each] for each in units]],
    )
    other = explainer(superclasses=superclasses)
    assert list(other.describe(planted, planted.units)) == said
    assert (np.abs(other.correlate_held_out(planted, said)) < 0.4).all()


def test_held_out_judges_descriptions_of_others(planted, superclasses):
    describer = explainer(superclasses=superclasses)
    unit = Unit("units", 2)
    guesses = [(("car", 1.0),), (("car", -1.0),), (("unicorn", 1.0),)]
    found = describer.correlate_held_out(planted, [Description(unit, "x", 0.0, guess) for guess in guesses])
    assert found[0] == pytest.approx(-found[1])
    assert found[1] > 0.98
    assert np.isnan(found[2])


def test_the_key_follows_the_superclasses_content_not_their_place(superclasses, tmp_path):
    key = explainer(superclasses=superclasses).key
    copy = tmp_path / "copy.json"
    copy.write_text(Path(superclasses).read_text())
    assert explainer(superclasses=str(copy)).key == key
    copy.write_text('{"animal": [0]}')
    assert explainer(superclasses=str(copy)).key != key
    assert explainer(superclasses=superclasses, seed=1).key != key
    assert explainer(superclasses=superclasses, batch_size=3).key == key


def test_concepts_that_too_few_images_show_are_no_concepts():
    """Three positive training images at least, and some without."""
    labels = torch.tensor([0] * 60 + [1] * 38 + [2] * 2)
    matrix = torch.nn.functional.one_hot(labels, 3).float()
    matrix = torch.cat([matrix, torch.ones(100, 1)], dim=1)
    names, kept = _filter_concepts(Presence(["a", "b", "rare", "everywhere"], matrix), RowSplit.random(100))
    assert names == ["a", "b"]
    assert torch.equal(kept, matrix[:, :2])
    with pytest.raises(BadInput, match="none of 1 concepts is shown by at least three of 70 training images"):
        _filter_concepts(Presence(["rare"], matrix[:, 2:3]), RowSplit.random(100))


def test_a_probe_without_labels_is_told(tmp_path):
    images = torch.randint(0, 255, (40, 3, 8, 8), dtype=torch.uint8)
    target = Target(nn.Sequential(nn.Conv2d(3, 2, 1)), image_size=8)
    plain = dissect(target, Probe.from_tensor(images), ["0"], tmp_path, k=3)["0"]
    with pytest.raises(MissingEvidence, match="no class labels"):
        list(explainer().describe(plain, plain.units))


def test_dioramas_scenes_know_all_they_show(cache):
    probe = load_probe("diorama:objects", limit=60)
    found = presence_from_pixels(probe)
    column = {name: place for place, name in enumerate(found.names)}
    levels = load_probe_labels(probe).load([5])[0].flatten()
    share = (levels == column["red"]).sum() / probe.size**2
    assert bool(found.matrix[5, column["red"]]) == bool(share >= 0.01)
    assert 0 < float(found.matrix[:, column["red"]].mean()) < 1
    assert set(found.matrix.unique().tolist()) == {0.0, 1.0}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


@pytest.fixture
def words(tmp_path):
    """A concept set for the embedder that knows colours."""
    file = tmp_path / "words.txt"
    file.write_text("red\ngreen\nblue\n")
    return str(file)


@pytest.mark.parametrize("calibration", ["", "labels", "model", "20,-0.7"])
def test_it_keeps_the_contract_with_an_image_text_model(calibration, words, toys):
    check_describer(
        lambda: load_simulated(
            "linear_explanations",
            evidence="embedder",
            embedder=COLOURS,
            concepts=words,
            calibration=calibration,
            batch_size=5,
        ),
        toys,
    )


def test_an_image_text_model_names_what_the_units_see(words, toys, cache):
    said = explained(toys, evidence="embedder", embedder=COLOURS, concepts=words)
    assert [max(said[unit].concepts, key=lambda part: part[1])[0] for unit in (0, 1, 2)] == ["red", "green", "blue"]
    named = explained(toys, evidence="embedder", embedder=COLOURS)
    assert {name for each in named.values() for name, _ in each.concepts} <= {"red", "green", "blue", "grey"}, (
        "the labels' names"
    )


def test_a_calibration_that_cannot_be_is_told(words, toys, cache):
    def asked(calibration):
        describer = load_simulated(
            "linear_explanations", evidence="embedder", embedder=COLOURS, concepts=words, calibration=calibration
        )
        describer._embedder.bias = None  # as a CLIP's
        return list(describer.describe(toys, toys.units))

    with pytest.raises(BadInput, match=r"not a calibration: 'sixty'; write A,B as in 60,-0\.09"):
        asked("sixty")
    with pytest.raises(BadInput, match="no scale and bias of its own"):
        asked("model")
    with pytest.raises(BadInput, match="none of 3 concepts"):
        asked("1,-9")


def test_calibration_is_that_of_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    cosines = rng.normal(0.05, 0.05, (400, 12))
    shown = rng.random((400, 12)) < 1 / (1 + np.exp(-60 * (cosines - 0.09)))
    scale, offset = fit_calibration(torch.from_numpy(cosines), torch.from_numpy(shown.astype(float)))
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(100 * cosines.reshape(-1, 1), shown.ravel())
    assert scale == pytest.approx(100 * reference.coef_[0, 0], rel=1e-3)
    assert scale * offset == pytest.approx(reference.intercept_[0], rel=1e-3)
    assert (scale, offset) == (pytest.approx(60, rel=0.1), pytest.approx(-0.09, abs=0.01))
    with pytest.raises(BadInput, match="do not rise with the labels"):
        fit_calibration(torch.from_numpy(-cosines), torch.from_numpy(shown.astype(float)))


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        ("open_clip:ViT-SO400M-14-SigLIP-384/webli", (58.0, -0.13)),
        ("hf:google/siglip-so400m-patch14-384", (58.0, -0.13)),
        ("open_clip:ViT-L-16-SigLIP-384/webli", (60.0, -0.09)),
        ("hf:google/siglip-large-patch16-384", (60.0, -0.09)),
        ("open_clip:ViT-L-14-336/openai", (58.0, -0.25)),
        ("open_clip:ViT-B-16/openai", None),
        ("diorama", None),
    ],
)
def test_published_calibrations_are_found_by_the_models_name(spec, published):
    assert find_published_calibration(spec) == published


def test_weights_are_written_so_that_they_can_be_read():
    assert weighted_sum([("dog", 0.62), ("grass", 0.31), ("cat", -0.12)]) == "0.62 dog + 0.31 grass - 0.12 cat"
    assert weighted_sum([("sky", -1.5), ("sea", -0.004)]) == "-1.50 sky - 0.004 sea"
    assert weighted_sum([("dog", 12.344)]) == "12.34 dog"


def test_the_truth_score_reads_what_a_sum_adds():
    parts = [("dog", 0.62), ("horizontal stripes", 0.00031), ("red", 0.2), ("cat", -0.12)]
    terms = parse_description(weighted_sum(parts)).terms
    assert [(formula.name, weight) for weight, formula in terms] == parts
    assert parse_description("3 dogs and a red ball") == parse_description("three dogs and a red ball")
