"""Sparse linear regression of many targets on the same features: an elastic net on the Gram matrix, then greedy
selection.

The features are standardised and multiplied with each other once, in double precision; after that a target costs a few
small products. Everything is learnt from the training rows, lengths are chosen on the validation rows, and no other row
is looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from milan.errors import BadInput

CHUNK_ROWS = 1024  # rows in double precision at a time
MAX_ADDED_COLUMNS = 16  # columns that a target may take into its active set at once
# how far a column out of the active set may break its optimality condition, and how little a sweep may still change
TOLERANCE = 1e-7
MAX_SWEEPS, SWEEPS_PER_SOLVE = (
    2000,
    10,
)  # of coordinate descent at most, and between two attempts to solve for the signs found
# to which columns are compared: of two that are worth the same, as a concept and its opposite, the first is taken
COMPARED_DECIMALS = 7
Ranking = Literal["absolute", "signed"]  # of columns by their weights
# of a least-squares fit on standardised columns: two that are the same share a weight, where there would be no answer
RIDGE = 1e-9


@dataclass(frozen=True)
class RowSplit:
    """Disjoint sets of rows: training, validation and test."""

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]

    @classmethod
    def random(cls, rows: int, seed: int = 0, shares: tuple[float, float] = (0.7, 0.1)) -> "RowSplit":
        """Return a random split, by default 70% training, 10% validation and 20% test rows, each sorted."""
        order = torch.from_numpy(np.random.default_rng(seed).permutation(rows))
        first, second = round(shares[0] * rows), round((shares[0] + shares[1]) * rows)
        return cls(*(part.sort().values for part in (order[:first], order[first:second], order[second:])))

    def restrict(self, kept: Tensor) -> "RowSplit":
        """Return the same split with only the rows where ``kept`` is true."""
        return RowSplit(*(part[kept[part]] for part in (self.train, self.validation, self.test)))


@dataclass(frozen=True)
class LinearFit:
    """A linear function of a few features in their original scale: bias + Σ weight * column."""

    columns: tuple[int, ...]
    weights: tuple[float, ...]  # in the order of the columns
    bias: float
    correlation: float  # with the target on the validation rows

    def predict(self, features: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        """Return the function's value for each row."""
        return features[:, list(self.columns)].double() @ torch.tensor(self.weights, dtype=torch.float64) + self.bias


@dataclass(frozen=True)
class Penalty:
    """Penalty added to half the mean squared error: strength * Σ (mix * |w| + (1 - mix) / 2 * w²)."""

    alpha: float
    l1_ratio: float


class MultiTargetRegression:
    """Features standardized by their training rows, without columns that are constant there.

    Args:
        features: of all rows, which may be mapped from a file; only those of the split's training and validation parts
            are read, some rows at a time.
        split: which rows are which.
    """

    def __init__(self, features: Float[Tensor, "rows columns"], split: RowSplit):
        if len(split.train) < 2 or len(split.validation) < 2:
            raise BadInput(
                f"{len(split.train)} images to learn from and {len(split.validation)} to choose on are too few for a"
                " regression; dissect on a probe of more images"
            )
        self.split, self._features = split, features
        self.kept_columns = torch.arange(features.shape[1])
        count = len(split.train)
        # Added up at once, since sums that are kept would split the memory that the next rows reuse.
        mean, std = torch.zeros(2, features.shape[1], dtype=torch.float64)
        for chunk in self._iter_train():
            mean += chunk.double().sum(0) / count
        for chunk in self._iter_train():
            std += chunk.double().sub_(mean).square_().sum(0) / count
        std.sqrt_()
        self.kept_columns = torch.nonzero(std > 1e-9).flatten()
        self.mean, self.std = mean[self.kept_columns], std[self.kept_columns]
        self._validation = torch.empty(len(self.kept_columns), len(split.validation), dtype=torch.float64)
        for part, rows in zip(
            self._validation.split(CHUNK_ROWS, dim=1), split.validation.split(CHUNK_ROWS), strict=True
        ):
            part.copy_(self._standardize(self._select_rows(rows)).T)

    def _standardize(self, rows: Float[Tensor, "some columns"]) -> Float[Tensor, "some columns"]:
        return rows.double().sub_(self.mean).div_(self.std)

    def _iter_train(self) -> Iterator[Float[Tensor, "some columns"]]:
        """Yield the training rows, some at a time, which are not copied as a whole."""
        return map(self._select_rows, self.split.train.split(CHUNK_ROWS))

    def _select_rows(self, rows: Int[Tensor, " some"]) -> Float[Tensor, "some columns"]:
        selected = self._features[rows]
        return selected if len(self.kept_columns) == selected.shape[1] else selected[:, self.kept_columns]

    @cached_property
    def gram(self) -> Float[Tensor, "columns columns"]:
        """Return the correlation matrix of the columns over the training rows."""
        total = torch.zeros(len(self.kept_columns), len(self.kept_columns), dtype=torch.float64)
        for chunk in self._iter_train():
            scaled = self._standardize(chunk)
            total.addmm_(scaled.T, scaled)
        return total / len(self.split.train)

    def make_targets(self, values: Float[Tensor, "rows targets"]) -> "RegressionTargets":
        """Return targets for this regression, standardized by their training rows."""
        train, validation = values[self.split.train].double(), values[self.split.validation].double()
        mean, std = train.mean(0), train.std(0, correction=0)
        scale = std.where(std > 0, 1.0)
        products = self._compute_products((train - mean) / scale)
        return RegressionTargets(self, products, ((validation - mean) / scale).T.contiguous())

    def _compute_products(self, targets: Float[Tensor, "train targets"]) -> Float[Tensor, "columns targets"]:
        """Return the correlation of the columns with centred targets."""
        total = torch.zeros(len(self.kept_columns), targets.shape[1], dtype=torch.float64)
        for chunk, part in zip(self._iter_train(), targets.split(CHUNK_ROWS), strict=True):
            total.addmm_(chunk.double().T, part)
        return total / self.std[:, None] / len(self.split.train)

    def select_validation(self, columns: Int[np.ndarray, " some"]) -> Float[Tensor, "some validation"]:
        """Return standardized columns of the validation rows."""
        return self._validation[torch.from_numpy(columns)]

    def restore_scale(self, columns: list[int], weights: Float[np.ndarray, " some"], correlation: float) -> LinearFit:
        """Return a fit on standardized columns as one on the original features."""
        own = torch.from_numpy(weights) / self.std[columns]
        bias = -float(own @ self.mean[columns])
        return LinearFit(tuple(self.kept_columns[columns].tolist()), tuple(own.tolist()), bias, correlation)


@dataclass(frozen=True)
class RegressionTargets:
    """Standardized targets of a regression: their correlation with every column, and their validation rows."""

    regression: MultiTargetRegression
    products: Float[Tensor, "columns targets"]
    validation: Float[Tensor, "targets validation"]

    def fit_elastic_net(self, penalty: Penalty) -> Float[Tensor, "columns targets"]:
        """Return the weights on standardized columns that minimize half the mean squared error plus the penalty."""
        return solve_elastic_net(self.regression.gram, self.products, penalty)

    def fit_greedily(
        self,
        weights: Float[Tensor, "columns targets"],
        max_columns: int,
        width: int,
        tolerance: float,
        ranking: Ranking = "absolute",
    ) -> list[list[LinearFit]]:
        """Return for each target fits on growing sets of columns, tried in the order of their weights.

        See ``_fit_greedily``.
        """
        # Equal weights, such as the many zeros, are ordered by what is not explained yet.
        waiting = self.products - self.regression.gram @ weights
        sizes = [each if ranking == "signed" else each.abs() for each in (waiting, weights)]
        order = np.lexsort([-each.numpy().round(COMPARED_DECIMALS) for each in sizes], axis=0)
        return [
            _fit_greedily(self, target, order[:, target], (max_columns, width, tolerance))
            for target in range(weights.shape[1])
        ]

    def fit_largest(
        self,
        weights: Float[Tensor, "columns targets"],
        count: int,
        ranking: Ranking = "absolute",
    ) -> list[list[LinearFit]]:
        """Return for each target a least-squares fit on the ``count`` columns of largest weight (appendix B.4)."""
        sizes = weights if ranking == "signed" else weights.abs()
        order = sizes.argsort(dim=0, descending=True, stable=True)[: min(count, len(weights))]
        return [[_fit_least_squares(self, target, order[:, target].tolist())] for target in range(weights.shape[1])]


def solve_elastic_net(
    gram: Float[Tensor, "columns columns"], products: Float[Tensor, "columns targets"], penalty: Penalty
) -> Float[Tensor, "columns targets"]:
    """Return the weights w that minimize w'Gw / 2 - c'w + strength * (mix * |w| + (1 - mix) / 2 * w²).

    c are a target's products.

    Each target works on a small active set of columns, which grows by those that break their optimality condition most,
    until none does.
    """
    columns, targets = products.shape
    weights = torch.zeros_like(products)
    active = torch.zeros(targets, 0, dtype=torch.long)
    while True:
        waiting = products - gram @ weights
        waiting.scatter_(0, active.T, 0.0)
        excess, worst = (waiting.abs() - penalty.alpha * penalty.l1_ratio).topk(min(MAX_ADDED_COLUMNS, columns), dim=0)
        if not (excess > TOLERANCE).any():
            return weights
        active = _grow_active_sets(active, worst.T, (excess > TOLERANCE).T)
        padding = _find_repeated(active)
        found = _descend(gram[active[:, :, None], active[:, None, :]], products.T.gather(1, active), padding, penalty)
        weights = torch.zeros_like(weights).scatter_add_(0, active.T, found.where(~padding, 0.0).T)


def _grow_active_sets(active: Tensor, worst: Tensor, added: Tensor) -> Tensor:
    """Return the active sets with columns added; a row with fewer than others repeats its first."""
    first = active[:, :1] if active.shape[1] else worst[:, :1]
    return torch.cat([active, worst.where(added, first)], dim=1)[:, : active.shape[1] + int(added.sum(1).max())]


def _find_repeated(active: Int[Tensor, "targets active"]) -> Tensor:
    """Return where a row repeats an earlier column."""
    same = active[:, :, None] == active[:, None, :]
    return same.tril(-1).any(-1)


def _descend(
    gram: Float[Tensor, "targets active active"],
    products: Float[Tensor, "targets active"],
    padding: Tensor,
    penalty: Penalty,
) -> Float[Tensor, "targets active"]:
    """Solve the elastic net on active columns: signs by coordinate descent, values by a linear system."""
    weights = torch.zeros_like(products)
    best = weights.clone()
    going = torch.arange(len(products))
    diagonal = gram.diagonal(dim1=1, dim2=2) + penalty.alpha * (1 - penalty.l1_ratio)
    for sweep in range(MAX_SWEEPS):
        before = weights[going]
        here, system, scale = before.clone(), gram[going], diagonal[going]
        for column in range(products.shape[1]):
            residual = (
                products[going, column]
                - (system[:, column] * here).sum(1)
                + system[:, column, column] * here[:, column]
            )
            shrunk = residual.sign() * (residual.abs() - penalty.alpha * penalty.l1_ratio).clamp(min=0)
            here[:, column] = (shrunk / scale[:, column]).where(~padding[going, column], 0.0)
        weights[going] = here
        best[going] = here
        done = (here - before).abs().amax(1) < TOLERANCE
        if sweep % SWEEPS_PER_SOLVE == SWEEPS_PER_SOLVE - 1:
            exact, right = _solve_exactly(system, products[going], here, padding[going], penalty)
            best[going] = exact.where(right[:, None], here)
            done |= right
        going = going[~done]
        if not len(going):
            break
    return best


def _solve_exactly(
    gram: Float[Tensor, "targets active active"],
    products: Float[Tensor, "targets active"],
    weights: Float[Tensor, "targets active"],
    padding: Tensor,
    penalty: Penalty,
) -> tuple[Float[Tensor, "targets active"], Tensor]:
    """Return the minimum for the given signs, by linear systems, and for which targets the signs are right."""
    signs = weights.sign()
    used = signs != 0
    ridge = penalty.alpha * (1 - penalty.l1_ratio) + RIDGE
    system = (gram * used[:, :, None] * used[:, None, :]) + torch.diag_embed(used * ridge + (~used).double())
    found = torch.linalg.solve(system, (products - penalty.alpha * penalty.l1_ratio * signs) * used)
    waiting = (products - (gram @ found[:, :, None])[..., 0]).abs()
    optimal = used | padding | (waiting <= penalty.alpha * penalty.l1_ratio + TOLERANCE)
    return found, ((found.sign() == signs) & optimal).all(1)


def _fit_greedily(
    targets: RegressionTargets, target: int, order: Int[np.ndarray, " columns"], limits: tuple[int, int, float]
) -> list[LinearFit]:
    """Return least-squares fits of a growing set of columns, each step adding the best column (LE, Algorithm 1).

    Each step tries the first ``width`` columns in ``order`` that are neither selected nor rejected, and adds the one
    that raises the validation correlation most. A column is rejected once it raises it by less than the tolerance. The
    first column is always added, so that every active unit gets an explanation.
    """
    longest, width, tolerance = limits
    selected: list[int] = []
    bad: set[int] = set()
    steps: list[LinearFit] = []
    while len(selected) < min(longest, len(order)):
        known = bad | set(selected)
        tried = [int(column) for column in order[: len(known) + width] if column not in known][:width]
        if not tried:
            break
        weights, correlations = _fit_with_each(targets, target, selected, tried)
        best = int(np.argmax(correlations.round(COMPARED_DECIMALS)))
        enough = steps[-1].correlation + tolerance if steps else -np.inf
        if correlations[best] < enough:
            break
        if steps:
            bad |= {column for column, gained in zip(tried, correlations, strict=True) if gained < enough}
        selected.append(tried[best])
        steps.append(targets.regression.restore_scale(list(selected), weights[best], float(correlations[best])))
    return steps


def _fit_least_squares(targets: RegressionTargets, target: int, columns: list[int]) -> LinearFit:
    """Return the least-squares fit of these columns."""
    weights, correlations = _fit_with_each(targets, target, columns[:-1], columns[-1:])
    return targets.regression.restore_scale(columns, weights[0], float(correlations[0]))


def _fit_with_each(
    targets: RegressionTargets, target: int, selected: list[int], tried: list[int]
) -> tuple[Float[np.ndarray, "tried some"], Float[np.ndarray, " tried"]]:
    """Return weights and validation correlations of the selected columns joined with each of the tried ones."""
    sets = np.array([[*selected, column] for column in tried])
    gram = targets.regression.gram.numpy()[sets[:, :, None], sets[:, None, :]] + RIDGE * np.eye(sets.shape[1])
    weights = np.linalg.solve(gram, targets.products[:, target].numpy()[sets][:, :, None])[..., 0]
    rows = targets.regression.select_validation(np.array([*selected, *tried])).numpy()
    predicted = weights[:, :-1] @ rows[: len(selected)] + weights[:, -1:] * rows[len(selected) :]
    return weights, compute_correlations(predicted, targets.validation[target].numpy())


def compute_correlations(
    predicted: Float[np.ndarray, "some rows"], true: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, " some"]:
    """Return the Pearson correlation of each row of predictions with the truth; 0 where either is constant."""
    one, other = predicted - predicted.mean(1, keepdims=True), true - true.mean()
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other)
    return np.divide(one @ other, size, out=np.zeros(len(one)), where=size > 1e-12)
