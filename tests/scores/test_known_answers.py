"""Answers that are known: class names as people write them, and classifiers chosen by words."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from milan.errors import BadInput
from milan.scores.known_answers import evaluate_nearest_classifiers, is_same_name, score_final_layer
from milan.units import Description, Unit


class Letters:
    """A text is how often it has each letter, of unit length."""

    key = "letters"

    def encode_texts(self, texts):
        counts = torch.tensor(
            [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        ).float()
        return torch.nn.functional.normalize(counts, dim=1)


def said(*texts):
    return [Description(Unit("fc", index), text, 0.0) for index, text in enumerate(texts)]


@pytest.mark.parametrize(("text", "name", "same"), [
    ("Golden Retriever", "golden_retriever", True), ("retriever", "golden retriever", False),
    ("carassius auratus", "goldfish, Carassius auratus", True),
    ("house-outdoor", "house/outdoor", True), ("", "x", False), ("café", "Café", True),
])  # fmt: skip
def test_names_are_compared_as_people_do(text, name, same):
    assert is_same_name(text, name) is same


def test_the_final_layer_by_hand():
    found = score_final_layer(said("cat", "dogs", "Sea_Lion"), ["cat", "dog", "sea lion"])
    assert found.value == pytest.approx(2 / 3)
    with pytest.raises(BadInput, match="fc:2 has no class among 2"):
        score_final_layer(said("cat", "dog", "sea lion"), ["cat", "dog"])


def test_the_nearest_description_chooses_the_classifier():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    activation = rng.normal(0, 1, (60, 4))
    activation[:, 0] += 2 * (labels == 0)
    activation[3] = np.nan
    found = evaluate_nearest_classifiers(
        said("cats", "dog", "dog", "zzz"), activation, labels.tolist(), ["cat", "dog", "qq"], Letters()
    )
    assert found.texts[:2] == ("cats", "dog")
    good = np.isfinite(activation[:, 0])
    cats = roc_auc_score(labels[good] == 0, activation[good, 0])
    dogs = np.mean([roc_auc_score(labels[good] == 1, activation[good, column]) for column in (1, 2)])
    assert found.class_aurocs[:2] == pytest.approx((cats, dogs))
    assert math.isnan(found.class_aurocs[2])
    assert found.auroc.value == pytest.approx((cats + dogs) / 2)
    assert found.auroc.units == 2
    with pytest.raises(BadInput, match="no descriptions"):
        evaluate_nearest_classifiers([], np.zeros((1, 0)), [0], ["a"], Letters())


def test_published_answers_of_the_final_layer_are_counted(shared_data):
    """The 1,000 texts that Describe-and-Dissect published of ResNet-50's final layer are read, and a name among them is
    found.
    """
    from milan import read_descriptions

    texts = read_descriptions(shared_data / "published" / "resnet50_imagenet" / "dnd_fc.csv")
    assert len(texts) >= 990
    names = ["no such class"] * 1000
    assert score_final_layer(texts, names).value == 0.0
    names[texts[5].unit.index] = texts[5].text.upper().replace(" ", "_")
    assert score_final_layer(texts, names).value == pytest.approx(1 / len(texts))
