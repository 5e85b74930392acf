"""Selection by prediction: what is chosen, joined, left unsaid, and how sure it is."""

import numpy as np
import pytest
import torch

from milan.describers import load_describer
from milan.describers._shared.contract import UNITS, make_toy_dissection
from milan.describers._shared.describer_specs import resolve_settings
from milan.describers._shared.held_out_prediction import (
    HeldOutPrediction,
    ImagePredictor,
    PixelPredictor,
    make_denotation,
    make_label_signatures,
)
from milan.diorama import DioramaImages
from milan.diorama.label_signatures import LabelSignatures
from milan.diorama.text_reader import parse_description
from milan.errors import BadInput
from milan.probes import Probe
from milan.probes.pixel_labels import TensorLabels
from milan.scores.activation_sums import LabelledScenes
from milan.units import Candidate, Description
from tests.describers.makers import COLOURS


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Settings of CLIP-Dissect that names one of four colours."""
    file = tmp_path_factory.mktemp("concepts") / "colours.txt"
    file.write_text("grey\nred\ngreen\nblue\n")
    return {"embedder": COLOURS, "pooling": "max", "concepts": str(file)}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


def describe(toys, options, **settings):
    chosen = {"describers": ["clip_dissect"], "options": {"clip_dissect": options}, "simulator": COLOURS} | settings
    units = [unit for unit in toys.active_units() if UNITS[unit.index] != "bright"]
    found = load_describer("best_of", **chosen).describe(toys, units)
    return {UNITS[each.unit.index]: each for each in found}


class Shown:
    """Which of ten images show each text."""

    def __init__(self, **images):
        self.presence = {text.replace("_", " "): np.isin(np.arange(10), where) for text, where in images.items()}

    def predict(self, texts):
        return np.stack([self.presence[text] for text in texts], axis=1).astype(float)


ANIMALS = Shown(cats=[0, 1, 2, 3], grey_cats=[0, 1, 2], dogs=[4, 5], old_dogs=[4], cows=[9])


def predict_units(activations, presence=ANIMALS):
    return ImagePredictor(lambda unit: activations[:, unit], [presence])


def choose(toys, activation, texts=tuple(ANIMALS.presence), **settings):
    unit = toys.units[0]
    described = [Description(unit, texts[0], 0.0, candidates=tuple(Candidate(each, 0.0) for each in texts))]
    predictor = predict_units(np.array([activation] * len(toys.units), dtype=float).T)
    return load_describer("best_of", **settings)._choose(unit, described, HeldOutPrediction(toys, predictor))


@pytest.mark.parametrize(
    ("activation", "settings", "text"),
    [
        ([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], {}, "cats or dogs"),
        ([9, 9, 9, 9, 5, 5, 0, 0, 0, 0], {}, "cats"),
        ([9, 9, 9, 9, 5, 5, 0, 0, 0, 0], {"join_gain": 0.001}, "cats or dogs"),
        ([1, 1, 1, 1, 1, 1, 0, 0, 0, 1], {}, "cats or dogs"),
        ([1, 1, 1, 1, 1, 1, 0, 0, 0, 1], {"alternatives": 3}, "cats or dogs or cows"),
        ([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], {}, "grey cats"),
        ([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], {"tolerance": 0.3}, "cats"),
        # Alone, "dogs" is near "old dogs" only because of the cats.
        ([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], {"tolerance": 0.2}, "cats or old dogs"),
        ([0, 0, 0, 0, 0, 0, 1, 1, 1, 0], {}, "nothing in particular"),
    ],
)
def test_what_is_chosen_joined_and_left_unsaid(toys, activation, settings, text):
    found = choose(toys, activation, **settings)
    assert found.text == text
    assert found.candidates[0].score >= found.score


def test_a_weighted_sum_is_chosen_with_its_concepts_and_joined_to_nothing(toys, monkeypatch):
    sums = "2.00 cats - 1.00 grey cats"
    monkeypatch.setitem(ANIMALS.presence, sums, 2 * ANIMALS.presence["cats"] - 1.0 * ANIMALS.presence["grey cats"])
    found = choose(toys, [1, 1, 1, 2, 0, 0, 0, 0, 0, 0], (sums, "cats", "dogs"))
    assert (found.text, found.concepts) == (sums, (("cats", 2.0), ("grey cats", -1.0)))


def test_the_unit_is_named_by_what_predicts_it(toys, options):
    found = describe(toys, options)
    assert [found[name].text for name in ("red", "green", "blue")] == ["red", "green", "blue"]


def test_below_the_cut_nothing_is_said(toys, options):
    assert {each.text for each in describe(toys, options, cut=1.1).values()} == {"nothing in particular"}


def test_confidence_is_a_function_of_the_margin_to_other_words_or_to_the_cut(toys):
    def compute_confidence(activation, **settings):
        return choose(toys, activation, confidence="2,-1", **settings).reasoning["confidence"]

    # No other animal is seen with cats, so the margin is 1; silence with the same correlation as the cut has 0.
    cats = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert compute_confidence(cats) == pytest.approx(0.7311, abs=1e-4)
    assert compute_confidence(cats, cut=2.0) == pytest.approx(0.5, abs=1e-4)


def test_settings_of_each_describer_are_completed_for_simulated_targets():
    found = resolve_settings("best_of", {"describers": ["milan:beam=3", "several:of=sand"]}, ("diorama:planted", ""))
    assert found["options"]["milan:beam=3"]["beam"] == 3
    assert found["options"]["milan:beam=3"]["captioner"] == "diorama"
    assert found["options"]["several:of=sand"]["options"]["embedder"] == "diorama"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"describers": []}, "0 describers"),
        ({"candidates": 0}, "0 candidates"),
        ({"tolerance": 1.0}, r"1\.0"),
        ({"confidence": "high"}, "'high'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(BadInput, match=message):
        load_describer("best_of", **settings)


def test_pixels_that_a_text_denotes_correlate_fully_with_a_unit_for_them():
    images = DioramaImages("objects", length=30)
    signatures = LabelSignatures.from_images(images)
    scenes = LabelledScenes.from_signatures(
        Probe.from_tensor(np.zeros((30, 3, 64, 64), dtype=np.uint8)), signatures, "k"
    )
    inside = scenes.signatures.text_mask(parse_description("red or blue"))
    sums = 2.0 * inside * scenes.signatures.area

    def denote(text):
        return scenes.signatures.text_values(parse_description(text))

    predictor = PixelPredictor(scenes, sums[None].astype(np.float32), np.array([2 * sums.sum()]), denote)
    both, red, none = predictor.correlate(0, ["red or blue", "red", "glimmering"])
    assert both == pytest.approx(1.0, abs=1e-4)
    assert 0.1 < red < 0.9
    assert none == 0
    assert predictor.correlate_any(0, ["red", "blue"]) == pytest.approx(1.0, abs=1e-4)
    red, blue = predictor.correlate(0, ["red", "blue"], outside=["red"])
    assert red == 0
    assert blue > 0.9 * predictor.correlate(0, ["blue"])[0]


def test_outside_of_a_text_only_the_other_images_count():
    activations = np.arange(10.0)[:, None] ** 2
    left = np.flatnonzero(~ANIMALS.presence["cats"])
    subset = Shown()
    subset.presence = {text: shown[left] for text, shown in ANIMALS.presence.items()}
    found = predict_units(activations).correlate(0, ["dogs", "cows"], outside=["cats", "grey cats"])
    assert found == pytest.approx(predict_units(activations[left], subset).correlate(0, ["dogs", "cows"]))


def test_unreadable_images_and_constant_activations_do_not_count():
    class Unreadable:
        def predict(self, texts):
            return np.array([[0.0, 1.0], [1.0, 0.0], [np.nan, np.nan], [1.0, 0.0]])

    activations = np.array([[0.0, 1.0], [4.0, 1.0], [9.0, 1.0], [4.0, 1.0]])
    predictor = predict_units(activations, Unreadable())
    assert predictor.correlate(0, ["a", "b"]) == pytest.approx([1.0, -1.0])
    assert predictor.correlate(1, ["a", "b"]).tolist() == [0.0, 0.0]


def test_class_labels_name_units_and_read_alternatives(toys, options):
    found = describe(toys, options, simulator="labels")
    assert [found[name].text for name in ("red", "green", "blue")] == ["red", "green", "blue"]
    prediction, unit = HeldOutPrediction.load(toys, []), toys.units[UNITS.index("red or blue")]
    assert prediction.correlate_any(unit, ["red", "blue"]) == pytest.approx(
        prediction.correlate(unit, ["red or blue"])[0]
    )


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("cat or dog", [0, 1, 1]),
        ("both cat and fur", [0, 1, 0]),
        ("fur but neither cat nor dog", [0, 0, 0]),
        ("fur but not cat", [0, 0, 1]),
        ("not (cat or dog)", [1, 0, 0]),
        ("2 cat - 1 fur", [0, 1, -1]),
    ],
)
def test_formulas_of_label_names_denote_pixels(text, columns):
    labels = TensorLabels(torch.tensor([[[[-1, 0, 1]], [[-1, 2, 2]]]]), ["cat", "dog", "fur"], ["thing", "stuff"])
    signatures = make_label_signatures(labels, 1)
    values = make_denotation(signatures, labels)(text)
    assert values[signatures.pixels[0, 0]].tolist() == columns


def test_predicted_labels_of_dioramas_kinds_are_read_as_its_texts():
    names = ["red", "blue", "car", "cat", "waves", "meadow"]
    kinds = ["object", "colour", "part", "pattern", "setting", "text"]
    pixels = [[2, 0, -1, 4, 5, -1], [2, 1, -1, -1, 5, -1], [3, 0, -1, -1, 5, -1]]
    labels = TensorLabels(torch.tensor(pixels).T[None, :, None], names, kinds)
    signatures = make_label_signatures(labels, 1)
    denote = make_denotation(signatures, labels)
    for text, expected in (("red cars", [1, 0, 0]), ("vehicles", [1, 1, 0]), ("wavy car or cat", [1, 0, 1])):
        assert denote(text)[signatures.pixels[0, 0]].tolist() == expected, text
