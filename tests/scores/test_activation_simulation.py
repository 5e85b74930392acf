"""Simulation on images whose labels are known: sums done by hand, and descriptions that are right, half right and
wrong.
"""

import numpy as np
import pytest
import torch

from milan.concepts.presence import Presence, presence_from_pixels
from milan.errors import MissingEvidence
from milan.probes import Probe, load_probe
from milan.scores.activation_simulation import (
    BANDS,
    ClassSimulator,
    EmbedderSimulator,
    PixelSimulator,
    Simulator,
    find_shared_source,
    load_simulator,
    predict_activations,
    simulate,
)
from milan.units import Description, Unit


class Known(Simulator):
    """Images 0 to 7 show a, b, c by the bits of their number."""

    asked: list[list[str]]

    def __init__(self):
        super().__init__("known", Probe.from_tensor(torch.zeros(8, 3, 4, 4, dtype=torch.uint8)))
        self.asked = []

    def predict_presence(self, texts):
        self.asked.append(list(texts))
        bits = {"a": 1, "b": 2, "c": 4}
        columns = [[float(bool(image & bits.get(text, 0))) for image in range(8)] for text in texts]
        return Presence(list(texts), torch.tensor(columns).T)


def description(text, *concepts, bias=0.0, index=0):
    return Description(Unit("layer", index), text, 0.0, concepts, bias)


def test_weights_add_up_from_the_bias_and_a_text_alone_counts_one():
    said = [
        description("a"),
        description("2 a - 1 b + 0.5", ("a", 2.0), ("b", -1.0), bias=0.5),
        description("never shown"),
    ]
    guess, middle = predict_activations(said, Known())
    assert guess.tolist() == [
        [0, 1, 0, 1, 0, 1, 0, 1],
        [0.5, 2.5, -0.5, 1.5, 0.5, 2.5, -0.5, 1.5],
        [0] * 8,
    ]
    assert middle.tolist() == [0.5, 1.0, 0.5]


def test_every_text_is_asked_for_once():
    simulator = Known()
    predict_activations([description("a"), description("a"), description("", ("b", 1.0), ("a", 1.0))], simulator)
    assert simulator.asked == [["a", "b"]]


def test_right_half_right_and_wrong():
    shown = Known().predict_presence(["a", "b", "c"]).matrix.numpy()
    unit = 3 * shown[:, 0] + 1 * shown[:, 1]  # 3 a + b
    said = [description("", ("a", 3.0), ("b", 1.0)), description("a"), description("c"), description("never shown")]
    found = simulate(np.stack([unit] * 4, axis=1), said, Known())
    np.testing.assert_allclose(found.scores["correlation"][:3], [1.0, 3 / np.sqrt(10), 0.0], atol=1e-12)
    assert np.isnan(found.scores["correlation"][3])
    assert found.scores["auprc"][0] == 1.0
    assert found.bands.shape == (4, len(BANDS))
    assert found.bands[0, 0] < found.bands[0, -1]
    alone = simulate(unit[:, None], said[1:2], Known())
    assert alone.scores["correlation"][0] == found.scores["correlation"][1]


def test_images_without_an_activation_are_left_out():
    shown = Known().predict_presence(["a"]).matrix.numpy()[:, 0].astype(float)
    shown[0] = np.nan
    assert simulate(shown[:, None], [description("a")], Known()).scores["correlation"][0] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def judged():
    return load_probe("diorama:objects@judge", limit=60)


def test_pixels_tell_single_concepts_as_linear_explanations_see_them_and_more_than_single_ones(judged):
    known = presence_from_pixels(judged)
    simulator = load_simulator("labels", judged, judged)
    assert isinstance(simulator, PixelSimulator)
    names = [name for name in ("red", "sky", "tree", "night sky") if name in known.names]
    assert len(names) >= 3
    found = simulator.predict_presence([*names, "red things or trees", "xyzzy"])
    for place, name in enumerate(names):
        torch.testing.assert_close(found.matrix[:, place], known.matrix[:, known.names.index(name)])
    either = found.matrix[:, len(names)]
    assert (either >= found.matrix[:, names.index("tree")]).all()
    assert found.matrix[:, -1].sum() == 0


def test_names_alternatives_and_sums_of_classes_are_read():
    probe = Probe.from_tensor(
        torch.zeros(4, 3, 4, 4, dtype=torch.uint8), labels=[0, 1, 1, 0], classes=["Tench", "cock"]
    )
    found = ClassSimulator(probe).predict_presence(["tench", "Cock", "fish", "cock or Tench", "2 cock - 0.50 tench"])
    assert found.matrix.T.tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0] * 4, [1] * 4, [-0.5, 2, 2, -0.5]]


def test_an_image_text_model_is_calibrated_on_other_images_than_are_judged(judged):
    learnt = load_probe("diorama:objects@learn", limit=200)
    simulator = load_simulator("diorama", judged, learnt)
    assert isinstance(simulator, EmbedderSimulator)
    found = simulator.predict_presence(["night sky", "person", "person or night sky"]).matrix
    assert torch.equal(found[:, 2], found[:, :2].amax(1))
    truth = presence_from_pixels(judged)
    for place, name in enumerate(("night sky", "person")):
        shown = truth.matrix[:, truth.names.index(name)].bool()
        assert found[shown, place].mean() > 2 * found[~shown, place].mean()
    assert 0 <= found.min() <= found.max() <= 1


def test_a_generators_pictures_have_no_labels_to_be_told_by():
    probe = Probe.from_tensor(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    probe.spec = "latents:diorama:generator-objects"
    with pytest.raises(MissingEvidence, match="image-text model"):
        load_simulator("labels", probe, probe)


@pytest.mark.parametrize(
    ("simulator", "explainer", "why"),
    [
        ("diorama:siglip-large", {"embedder": "diorama"}, ""),
        ("open_clip:ViT-L-14/openai", {"embedder": "diorama"}, "both see through a CLIP"),
        ("diorama", {"embedder": "diorama", "evidence": "pixels"}, ""),
        ("labels", {"labels": "probe"}, "both read labels"),
        ("labels", {"evidence": "embedder"}, ""),
        ("diorama", {}, ""),
    ],
)
def test_kinship_is_told(simulator, explainer, why):
    assert find_shared_source(simulator, explainer) == why
