"""Pictures painted from descriptions, by Diorama's exact painter, before a network whose units are known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn

from milan import Target
from milan.errors import BadInput
from milan.pretrained.painter import Painter
from milan.scores.generated_image_scores import (
    activation_fraction,
    measure_painted_activations,
    painted_auc,
    painted_mad,
)
from milan.units import Description, Unit


class Flat(Painter):
    """Paints a text in its colour, a little darker each time."""

    key, side = "flat", 8

    def __init__(self):
        self.asked = []

    def draw(self, requests):
        self.asked += [each.text for each in requests]
        colours = {"red": (255, 0, 0), "a photo of red": (200, 0, 0), "green": (0, 255, 0)}
        rows = [torch.tensor(colours[each.text]) - 10 * each.number for each in requests]
        return torch.stack(rows).clamp(0, 255).to(torch.uint8)[:, :, None, None].expand(-1, 3, 8, 8).contiguous()


@pytest.fixture
def target():
    """Three units: how red, green and blue."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    model[0].weight.data = torch.eye(3)[:, :, None, None].clone()
    return Target(model, image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def said(*texts):
    return [Description(Unit("0", index), text, 0.0) for index, text in enumerate(texts)]


def test_each_unit_sees_pictures_of_its_own_words_and_each_text_is_painted_once(target, cache):
    painter = Flat()
    found = measure_painted_activations(target, said("red", "green", "red"), painter, count=2)
    np.testing.assert_allclose(found[Unit("0", 0)], [1.0, 245 / 255], atol=1e-6)
    np.testing.assert_allclose(found[Unit("0", 1)], [1.0, 245 / 255], atol=1e-6)
    np.testing.assert_allclose(found[Unit("0", 2)], [0.0, 0.0], atol=1e-6)
    assert sorted(painter.asked) == ["green", "green", "red", "red"]
    assert measure_painted_activations(target, said("red"), Flat(), count=1, prompt="a photo of {}")[
        Unit("0", 0)
    ] == pytest.approx(200 / 255)
    with pytest.raises(BadInput, match=r"no \{\} for the description"):
        measure_painted_activations(target, said("red"), Flat(), prompt="a photo")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_auc_is_scikit_learns(painted, control):
    labels, scores = [1] * len(painted) + [0] * len(control), painted + control
    assert painted_auc(np.array(painted, float), np.array(control, float)) == pytest.approx(
        roc_auc_score(labels, scores)
    )


def test_fractions_by_hand():
    control = np.arange(1000.0)
    assert activation_fraction(np.array([989.0, 990.0, 995.0, 2000.0]), control, 0.01) == 0.75
    assert activation_fraction(np.array([989.0, 990.0, 995.0, 2000.0]), control, 0.001) == 0.25
    assert activation_fraction(np.zeros(3), np.zeros(10)) == 0.0  # a unit that never moves is not moved by anything
    assert painted_mad(np.ones(3), np.zeros(10)) == 0.0
    assert painted_mad(np.array([3.0]), np.array([1.0, np.nan, 3.0])) == pytest.approx(1 / np.sqrt(2))


def test_right_words_move_planted_units_and_wrong_words_do_not():
    """The whole way: Diorama's network of known units, and its exact painter."""
    from milan.diorama.planted_network import load_planted_truth
    from milan.pretrained.painter import load_painter
    from milan.targets.loading import load_target

    planted = load_target("diorama:planted")
    known = {each.text: unit for unit, each in load_planted_truth().items() if each.kind == "single"}
    texts = [text for text in ("tree", "car", "person") if text in known][:2]
    units = [known[text] for text in texts]

    def seen(said):
        descriptions = [Description(unit, text, 0.0) for unit, text in zip(units, said, strict=True)]
        return measure_painted_activations(planted, descriptions, load_painter(), count=4)

    right, wrong = seen(texts), seen(texts[::-1])
    for unit in units:
        assert painted_auc(right[unit], wrong[unit]) > 0.9, unit
