"""The metrics of agreement against scikit-learn and SciPy, on wild values with ties, and their own exam."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sk

from milan.scores.prediction_metrics import METRICS, PredictionComparison, find_active_images
from milan.scores.sanity_checks import SanityCheckResult, run_sanity_checks

NAMES = list(METRICS)


@pytest.fixture(scope="module")
def compared():
    rng = np.random.default_rng(0)
    activation = rng.normal(0, 1, (6, 400)).clip(0.3).round(1)  # many ties
    predicted = (activation * rng.random((6, 1)) + rng.normal(0, 1, (6, 400))).round(1)
    return PredictionComparison.from_activations(activation, predicted, threshold=0.8, share=0.2)


REFERENCES = {
    "correlation": lambda a, p, f, s: pearsonr(a, p).statistic,
    "spearman": lambda a, p, f, s: spearmanr(a, p).statistic,
    "cosine": lambda a, p, f, s: sk.pairwise.cosine_similarity(a[None], p[None])[0, 0],
    "auprc": lambda a, p, f, s: sk.average_precision_score(f, p),
    "auc": lambda a, p, f, s: sk.roc_auc_score(f, p),
    "inverse_auc": lambda a, p, f, s: sk.roc_auc_score(s, a),
    "recall": lambda a, p, f, s: sk.recall_score(f, s),
    "precision": lambda a, p, f, s: sk.precision_score(f, s),
    "f1": lambda a, p, f, s: sk.f1_score(f, s),
    "iou": lambda a, p, f, s: sk.jaccard_score(f, s),
    "accuracy": lambda a, p, f, s: sk.accuracy_score(f, s),
    "balanced_accuracy": lambda a, p, f, s: sk.balanced_accuracy_score(f, s),
    "inverse_balanced_accuracy": lambda a, p, f, s: sk.balanced_accuracy_score(s, f),
    "mad": lambda a, p, f, s: (a[s].mean() - a[~s].mean()) / a.std(),
}


def test_every_metric_has_a_reference():
    assert sorted(REFERENCES) == sorted(METRICS)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_others_compute(name, compared):
    rows = zip(compared.activation, compared.predicted, compared.is_active, compared.is_present, strict=True)
    np.testing.assert_allclose(METRICS[name].compute(compared), [REFERENCES[name](*row) for row in rows], rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), images=st.integers(3, 40), levels=st.integers(1, 4))
def test_no_order_of_the_images_changes_it_and_nothing_breaks_it(name, seed, images, levels):
    rng = np.random.default_rng(seed)
    activation, predicted = (
        rng.integers(0, levels, (2, images)).astype(float),
        rng.integers(0, levels, (2, images)) / levels,
    )
    order = rng.permutation(images)
    first = METRICS[name].compute(PredictionComparison.from_activations(activation, predicted))
    again = METRICS[name].compute(PredictionComparison.from_activations(activation[:, order], predicted[:, order]))
    np.testing.assert_allclose(first, again, atol=1e-9)
    if name != "mad":
        assert ((first[~np.isnan(first)] >= -1 - 1e-9) & (first[~np.isnan(first)] <= 1 + 1e-9)).all()


def test_what_does_not_vary_has_no_correlation():
    flat = PredictionComparison.from_activations(np.zeros((1, 5)), np.arange(5.0)[None])
    assert np.isnan(METRICS["correlation"].compute(flat))
    assert not flat.is_active.any()
    assert np.isnan(METRICS["auprc"].compute(flat))


def test_a_unit_fires_at_its_strongest_and_at_what_ties_with_them():
    assert find_active_images(np.array([[5.0, 1.0, 5.0, 0.0]]), 0.25).tolist() == [[True, False, True, False]]
    assert find_active_images(np.array([[1.0, 0.0, 0.0, 0.0]]), 0.75).tolist() == [[True, False, False, False]]


@pytest.fixture(scope="module")
def marks():
    return run_sanity_checks(runs=3, seed=1)


# NeuronEval's theoretical table, in percent of the cases in which the score fell: (missing labels, extra labels)
PUBLISHED = {"recall": (100, 0), "precision": (0, 100), "f1": (100, 100), "iou": (100, 100), "accuracy": (60, 69.68),
             "balanced_accuracy": (100, 60), "inverse_balanced_accuracy": (60, 100), "auc": (100, 60),
             "inverse_auc": (60, 100),
             "correlation": (100, 100), "cosine": (100, 100), "mad": (60, 100), "auprc": (100, 100)}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_exams_marks_are_the_published_ones(name, marks):
    spread = 20 if name == "accuracy" else 0  # at one base rate its score falls by just what counts as noticed
    np.testing.assert_allclose(
        [100 * marks[name].missing, 100 * marks[name].extra], PUBLISHED[name], atol=1e-6 + spread
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_fails_says_so(name, marks):
    assert marks[name].passed == (METRICS[name].blind_spot == "") or name == "spearman"


def test_a_mark_passes_only_with_both():
    assert SanityCheckResult(1.0, 1.0).passed
    assert not SanityCheckResult(1.0, 0.99).passed
