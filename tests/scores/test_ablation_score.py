"""What units do to a classifier small enough to be computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from milan import Target
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.scores.ablation_score import (
    calibrate_temperature,
    compute_ablation_scores,
    compute_impacts,
    compute_top_impact,
)


class Colours(nn.Module):
    """Two units, the mean red and green of an image, whose difference is the logit; a third does nothing."""

    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(3, 3, 1, bias=False)
        self.see.weight.data = torch.eye(3)[:, :, None, None].clone()
        self.answer = nn.Linear(3, 2, bias=False)
        self.answer.weight.data = torch.tensor([[8.0, 0.0, 0.0], [0.0, 8.0, 0.0]])

    def forward(self, images):
        return self.answer(self.see(images).mean((2, 3)))


@pytest.fixture(scope="module")
def target():
    return Target(Colours(), image_size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (count, 3, 1, 1)).astype(np.uint8)
    images = np.broadcast_to(levels, (count, 3, 4, 4)).copy()
    labels = (
        rng.random(count) < 1 / (1 + np.exp(-3 * (levels[:, 1, 0, 0].astype(float) - levels[:, 0, 0, 0]) / 255))
    ).astype(int)
    return Probe.from_tensor(torch.from_numpy(images), labels=labels.tolist(), classes=["red", "green"]), levels[
        :, :, 0, 0
    ] / 255


def test_impact_by_hand(target):
    probe, levels = pictures(40, 0)
    labels = np.array(probe.labels)
    logits = 8 * levels[:, :2]
    temperature = calibrate_temperature(torch.from_numpy(logits), torch.from_numpy(labels))

    def loss(scores):
        scaled = scores / temperature
        return np.log(np.exp(scaled).sum(1)) - scaled[np.arange(40), labels]

    found = compute_impacts(target, "see", [0, 2], probe, batch_size=7)
    without = logits * [0, 1]
    accuracy = ((logits.argmax(1) == labels).astype(int) - (without.argmax(1) == labels)) / (
        logits.argmax(1) == labels
    ).sum()
    np.testing.assert_allclose(
        found.impact[0], (accuracy - (loss(logits) - loss(without)) / loss(logits).sum()) / 2, atol=1e-6
    )
    np.testing.assert_allclose(found.impact[1], 0, atol=1e-12)
    np.testing.assert_allclose(found.activation, levels[:, [0, 2]].T, atol=1e-6)
    np.testing.assert_allclose(found.accuracy, [accuracy.sum(), 0], atol=1e-9)
    np.testing.assert_allclose(found.loss, [loss(without).sum() / loss(logits).sum() - 1, 0], atol=1e-6)


def test_the_temperature_is_that_of_the_logits():
    torch.manual_seed(0)
    scores = torch.randn(4000, 5)
    labels = torch.distributions.Categorical(logits=scores).sample()
    assert calibrate_temperature(3 * scores, labels) == pytest.approx(3.0, rel=0.1)


def test_top_impact_of_equal_images_is_their_share():
    found = compute_top_impact(np.ones((2, 1000)), np.random.default_rng(0).random((2, 1000)))
    np.testing.assert_allclose(found, [[0.0003, 0.002, 0.02, 0.1, 0.5]] * 2, atol=1e-9)
    assert np.isnan(compute_top_impact(np.zeros((1, 3)), np.ones((1, 3)))).all()


@pytest.mark.parametrize("scaling", ["closed", "optimised"])
def test_the_truth_scores_one_and_chance_none(target, scaling):
    (known, fit), (judged, test) = pictures(60, 1), pictures(80, 2)
    rng = np.random.default_rng(3)
    noise = [rng.random(len(levels)) for levels in (fit, test)]
    predicted = [
        np.stack([3 * levels[:, 0] - 1, other, levels[:, 2]]) for levels, other in zip((fit, test), noise, strict=True)
    ]
    scores = compute_ablation_scores(
        target, "see", [0, 1, 2], (known, predicted[0]), (judged, predicted[1]), [scaling]
    )[scaling]
    assert scores[0] == pytest.approx(1.0, abs=1e-4)
    assert abs(scores[1]) < 0.2
    assert math.isnan(scores[2])  # nothing depends on it


def test_the_optimised_scale_is_the_best_where_it_was_fitted(target):
    """Against a search of all c and d on a fine grid, and against the closed form."""
    known, levels = pictures(60, 4)
    rough = (levels[:, :1].T > 0.5).astype(float)
    found = {
        name: each[0]
        for name, each in compute_ablation_scores(target, "see", [0], (known, rough), (known, rough)).items()
    }
    logits, labels = 8 * levels[:, :2], np.array(known.labels)
    temperature = calibrate_temperature(torch.from_numpy(logits), torch.from_numpy(labels))

    def losses(red):
        scaled = np.stack([8 * red, np.broadcast_to(logits[:, 1], red.shape)]) / temperature
        return (
            np.log(np.exp(scaled).sum(0)) - np.take_along_axis(scaled, np.broadcast_to(labels, (1, *red.shape)), 0)[0]
        )

    def changed(red):
        return np.abs(losses(red) - losses(levels[:, 0])).sum(-1)

    low, high = np.meshgrid(
        np.linspace(0, 1, 101), np.linspace(0, 1, 101)
    )  # what is said where the text is wrong, and where it is right
    grid = low[..., None] * (1 - rough[0]) + high[..., None] * rough[0]
    best = 1 - changed(grid).min() / changed(np.full((1, 60), levels[:, 0].mean()))[0]
    assert best - 0.01 <= found["optimised"] <= best + 0.001
    assert 0.2 < found["closed"] <= found["optimised"]


@pytest.mark.parametrize("scaling", ["closed", "optimised"])
def test_what_is_predicted_of_no_fitted_image_counts_for_nothing_on_others(target, scaling):
    (known, fit), (judged, test) = pictures(60, 5), pictures(80, 6)
    rare = np.zeros((1, len(test)))
    rare[0, 7] = 1.0
    plain, with_it = (
        compute_ablation_scores(target, "see", [0], (known, np.zeros((1, len(fit)))), (judged, said), [scaling])[
            scaling
        ][0]
        for said in (np.zeros_like(rare), rare)
    )
    assert with_it == plain
    assert abs(plain) < 0.3


def test_outputs_that_stand_for_the_probes_classes(target, tmp_path):
    """The same photographs under other numbers, with a file that says which output is which class."""
    probe, _ = pictures(30, 5)
    turned = Probe.from_tensor(
        torch.stack([probe.image(row) for row in range(30)]), [1 - label for label in probe.labels], ["green", "red"]
    )
    file = tmp_path / "synsets.json"
    file.write_text('{"0": {"id": "00000001-n", "label": "red"}, "1": {"id": "00000002-n", "label": "green"}}')
    np.testing.assert_allclose(
        compute_impacts(target, "see", [0], turned, str(file)).impact, compute_impacts(target, "see", [0], probe).impact
    )


def test_labels_are_needed(target):
    probe = Probe.from_tensor(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(MissingEvidence, match="no class labels"):
        compute_impacts(target, "see", [0], probe)
    many = Probe.from_tensor(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), labels=[0, 1, 2], classes=["a", "b", "c"])
    with pytest.raises(MissingEvidence, match="classifier of the probe's classes"):
        compute_impacts(target, "see", [0], many)
