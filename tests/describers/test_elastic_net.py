"""Sparse regression against scikit-learn and numpy, on planted structure, and with the faults of released code that
must not come back.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milan.describers._shared.elastic_net import (
    MultiTargetRegression,
    Penalty,
    RowSplit,
    compute_correlations,
    solve_elastic_net,
)
from milan.errors import BadInput

PUBLISHED = Penalty(0.05 / 0.99, 0.99)


def world(rows=900, columns=60, targets=7, seed=0, noise=0.3, shared=8):
    """Correlated probabilities, and targets that are sums of four of them with signs."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, shared)) @ rng.normal(size=(shared, columns)) + rng.normal(size=(rows, columns))
    features = 1 / (1 + np.exp(-mixed))
    weights = np.zeros((columns, targets))
    for target in range(targets):
        weights[rng.choice(columns, 4, replace=False), target] = rng.choice([-1, 1], 4) * rng.uniform(1, 3, 4)
    values = features @ weights + noise * rng.normal(size=(rows, targets)) + 5
    return torch.from_numpy(features).float(), torch.from_numpy(values).float(), weights


def scaled(features, values, rows):
    one, other = features[rows].double().numpy(), values[rows].double().numpy()
    return (one - one.mean(0)) / one.std(0), (other - other.mean(0)) / other.std(0)


@pytest.mark.parametrize("penalty", [PUBLISHED, Penalty(0.2, 0.5), Penalty(0.005, 1.0), Penalty(0.3, 0.99)])
def test_the_elastic_net_is_scikit_learns(penalty):
    from sklearn.linear_model import ElasticNet

    features, values, _ = world()
    split = RowSplit.random(len(features))
    found = MultiTargetRegression(features, split).make_targets(values).fit_elastic_net(penalty).numpy()
    x, y = scaled(features, values, split.train)
    reference = ElasticNet(
        alpha=penalty.alpha, l1_ratio=penalty.l1_ratio, fit_intercept=False, tol=1e-10, max_iter=200_000
    )
    for target in range(values.shape[1]):
        assert np.abs(reference.fit(x, y[:, target]).coef_ - found[:, target]).max() < 1e-4
        assert ((reference.coef_ != 0) == (found[:, target] != 0)).mean() > 0.98


@given(seed=st.integers(0, 10_000), strength=st.floats(0.01, 0.8), mix=st.floats(0.1, 1.0))
@settings(max_examples=25)
def test_the_weights_are_optimal(seed, strength, mix):
    """The conditions that a minimum of the elastic net must meet, on problems with nearly equal columns."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(80, 12))
    columns = np.concatenate([columns, columns[:, :4] + 0.05 * rng.normal(size=(80, 4))], axis=1)
    columns = (columns - columns.mean(0)) / columns.std(0)
    targets = columns @ rng.normal(size=(16, 3)) + rng.normal(size=(80, 3))
    gram, products = torch.from_numpy(columns.T @ columns / 80), torch.from_numpy(columns.T @ targets / 80)
    weights = solve_elastic_net(gram, products, Penalty(strength, mix))
    slope = products - gram @ weights - strength * (1 - mix) * weights
    assert torch.allclose(slope[weights != 0], strength * mix * weights[weights != 0].sign(), atol=1e-5)
    assert (slope[weights == 0].abs() <= strength * mix + 1e-5).all()


def test_a_strong_penalty_leaves_nothing():
    features, values, _ = world()
    assert (
        not MultiTargetRegression(features, RowSplit.random(len(features)))
        .make_targets(values)
        .fit_elastic_net(Penalty(2.0, 0.99))
        .any()
    )


def fits(features, values, longest=10, width=10, tolerance=0.02, seed=0):
    split = RowSplit.random(len(features), seed)
    targets = MultiTargetRegression(features, split).make_targets(values)
    return targets.fit_greedily(targets.fit_elastic_net(PUBLISHED), longest, width, tolerance), split


def test_the_weights_are_those_of_least_squares_on_the_training_rows():
    features, values, _ = world()
    found, split = fits(features, values)
    for target, steps in enumerate(found):
        for fit in steps:
            x = features[split.train][:, list(fit.columns)].double().numpy()
            y = values[split.train, target].double().numpy()
            answer = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), (y - y.mean()) / y.std(), rcond=None)[0]
            assert np.allclose(answer, [*fit.weights, fit.bias], atol=1e-5)


def test_planted_sums_are_found_with_their_signs():
    features, values, weights = world(rows=3000, noise=0.05, shared=0)
    found, split = fits(features, values, tolerance=0.002)
    for target, steps in enumerate(found):
        planted = weights[:, target].nonzero()[0]
        best = steps[-1]
        assert set(best.columns) == set(planted.tolist())
        own = weights[list(best.columns), target] / values[split.train, target].double().numpy().std()
        assert np.allclose(best.weights, own, rtol=0.03)
        assert min(best.weights) < 0 or (weights[:, target] >= 0).all()
    assert any(weight < 0 for steps in found for weight in steps[-1].weights)


@pytest.mark.parametrize(("ranking", "first"), [("absolute", 0), ("signed", 1)])
def test_the_ranking_decides_which_columns_are_tried_first(ranking, first):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.random((1000, 5))).float()
    targets = MultiTargetRegression(features, RowSplit.random(1000)).make_targets(
        features @ torch.tensor([-3.0, 2.0, 1.0, 0.0, 0.0])[:, None]
    )
    weights = targets.fit_elastic_net(PUBLISHED)
    assert targets.fit_greedily(weights, 1, 1, 0.02, ranking)[0][0].columns == (first,)
    assert targets.fit_largest(weights, 1, ranking)[0][0].columns == (first,)


@pytest.mark.parametrize("longest", [1, 3, 10])
def test_the_columns_are_those_of_the_weights_at_the_longest(longest):
    """The released code's greedy_search gave the last tried columns beside the weights of the best ones, once the
    length was reached.
    """
    rng = np.random.default_rng(1)
    features = torch.from_numpy(rng.random((2000, 40))).float()
    values = (
        features[:, :15] @ torch.linspace(3, 1, 15)[:, None]
        + 0.01 * torch.from_numpy(rng.normal(size=(2000, 1))).float()
    )
    found, split = fits(features, values, longest=longest, tolerance=0.0001)
    best = found[0][-1]
    assert len(best.columns) == longest, "the limit is reached"
    predicted = best.predict(features[split.validation])
    assert compute_correlations(predicted[None].numpy(), values[split.validation, 0].double().numpy())[
        0
    ] == pytest.approx(best.correlation)
    assert len(set(best.columns)) == longest


def test_each_step_adds_one_column_that_is_worth_the_tolerance():
    features, values, _ = world(noise=1.0)
    found, _ = fits(features, values)
    for steps in found:
        assert [len(fit.columns) for fit in steps] == list(range(1, len(steps) + 1))
        for before, after in pairwise(steps):
            assert after.columns[:-1] == before.columns
            assert after.correlation >= before.correlation + 0.02
    shorter, _ = fits(features, values, tolerance=0.1)
    assert sum(map(len, shorter)) < sum(map(len, found))


def test_a_target_alone_gets_the_answer_it_gets_among_others():
    features, values, _ = world()
    together, _ = fits(features, values)
    for target in range(values.shape[1]):
        alone, _ = fits(features, values[:, [target]])
        assert [fit.columns for fit in alone[0]] == [fit.columns for fit in together[target]]
        assert alone[0][-1].weights == pytest.approx(together[target][-1].weights, rel=1e-6)


def test_rows_of_the_test_part_change_nothing():
    features, values, _ = world()
    found, split = fits(features, values)
    features[split.test], values[split.test] = 1e6, torch.nan
    assert fits(features, values)[0] == found


def test_the_parts_are_disjoint_whole_and_follow_the_seed():
    split = RowSplit.random(1001, seed=3)
    parts = [split.train, split.validation, split.test]
    assert [len(part) for part in parts] == [701, 100, 200]
    assert torch.cat(parts).sort().values.tolist() == list(range(1001))
    assert torch.equal(RowSplit.random(1001, seed=3).train, split.train)
    assert not torch.equal(RowSplit.random(1001, seed=4).train, split.train)
    kept = torch.arange(1001) % 2 == 0
    assert torch.equal(split.restrict(kept).test, split.test[split.test % 2 == 0])


def test_equal_constant_and_few_columns_are_no_trouble():
    features, values, _ = world(columns=6)
    twice = torch.cat([features, features, torch.ones(len(features), 2)], dim=1)
    regression = MultiTargetRegression(twice, RowSplit.random(len(twice)))
    assert regression.kept_columns.tolist() == list(range(12))
    found, _ = fits(twice, values)
    for steps in found:
        assert np.isfinite(steps[-1].weights).all()
        assert len({column % 6 for column in steps[-1].columns}) == len(steps[-1].columns), (
            "a column and its copy are worth no more than one"
        )


def test_a_target_that_does_not_vary_gets_an_answer_of_correlation_zero():
    features, values, _ = world()
    values[:, 0] = 1.0
    found, _ = fits(features, values)
    assert found[0][-1].correlation == 0
    assert np.allclose(found[0][-1].weights, 0)


def test_too_few_rows_are_told():
    with pytest.raises(BadInput, match="1 images to learn from"):
        MultiTargetRegression(torch.rand(2, 3), RowSplit.random(2))
