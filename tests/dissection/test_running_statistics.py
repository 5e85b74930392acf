"""Top-k, quantiles and ranges against numpy, in any order, in any pieces, merged in any way."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milan.dissection import running_statistics
from milan.dissection.running_statistics import (
    RunningQuantile,
    RunningRange,
    bound_rank_error,
    bound_sample_size,
    count_top_values,
    sample_positions,
)
from milan.dissection.running_top_k import EMPTY_ID, RunningTopK
from milan.errors import BadInput
from milan.storage import files

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int, levels: int = 0) -> torch.Tensor:
    """Normal values, or values from so few levels that ties abound."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    return (values * levels).round() / levels if levels else values


def pieces(count: int, seed: int) -> list[torch.Tensor]:
    """The numbers below ``count``, shuffled and cut anywhere."""
    numbers = np.random.default_rng(seed)
    order = numbers.permutation(count)
    cuts = np.sort(numbers.choice(np.arange(1, count), min(3, count - 1), replace=False)) if count > 1 else []
    return [torch.from_numpy(part) for part in np.split(order, cuts)]


def brute_top(peaks: torch.Tensor, k: int) -> np.ndarray:
    """Image ids by (peak falling, id rising)."""
    return np.stack([np.lexsort((np.arange(len(column)), -column))[:k] for column in peaks.numpy().T])


def topk_of(maps: torch.Tensor, k: int, parts: list[torch.Tensor]) -> RunningTopK:
    running = RunningTopK(maps.shape[1], k, (maps.shape[2], maps.shape[3]))
    for part in parts:
        running.add(part, maps[part].amax((2, 3)), maps[part])
    return running


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 9), st.sampled_from([0, 1, 2]))
def test_topk_is_brute_force_with_ties_by_image(seed: int, images: int, k: int, levels: int) -> None:
    k = min(k, images)
    maps = drawn(seed, images, 5, 2, 3, levels=levels)
    peaks, ids, kept = topk_of(maps, k, pieces(images, seed)).ranked()
    expected = brute_top(maps.amax((2, 3)), k)
    assert np.array_equal(ids.numpy(), expected)
    for unit in range(5):
        assert torch.equal(kept[unit], maps[expected[unit], unit])
        assert torch.equal(peaks[unit], maps[expected[unit], unit].amax((1, 2)))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 30))
def test_topk_merged_is_topk_of_all(seed: int, images: int) -> None:
    maps = drawn(seed, images, 4, 2, 2, levels=1)
    parts = pieces(images, seed)
    merged = topk_of(maps, 3, parts[:1])
    merged.merge(topk_of(maps, 3, parts[1:]))
    for one, other in zip(merged.ranked(), topk_of(maps, 3, [torch.arange(images)]).ranked(), strict=True):
        assert torch.equal(one, other)


def test_topk_ties_go_to_the_first_images() -> None:
    assert (
        topk_of(torch.zeros(12, 2, 1, 1), 4, [torch.arange(6, 12), torch.arange(6)]).ranked()[1].tolist()
        == [[0, 1, 2, 3]] * 2
    )


def test_topk_of_negative_values_and_nan() -> None:
    maps = torch.tensor([-5.0, math.nan, -1.0, -3.0]).reshape(4, 1, 1, 1)
    peaks, ids, _ = topk_of(maps, 4, [torch.arange(4)]).ranked()
    assert ids.tolist() == [[2, 3, 0, 1]]
    assert peaks.tolist() == [[-1.0, -3.0, -5.0, -math.inf]]


def test_topk_with_fewer_images_than_places() -> None:
    running = topk_of(torch.ones(2, 1, 1, 1), 3, [torch.arange(2)])
    assert running.ranked()[1].tolist() == [[0, 1, EMPTY_ID]]
    assert running.image_ids() == {0, 1}


def test_topk_says_which_images_came_in() -> None:
    running = RunningTopK(1, 1, (1, 1))
    for peak, enters in [(1.0, True), (0.5, False), (1.0, False), (2.0, True)]:
        image = torch.full((1, 1, 1, 1), peak)
        assert running.add(torch.tensor([int(peak * 10)]), image[:, :, 0, 0], image).tolist() == [enters]


def test_topk_state_goes_on_where_it_was() -> None:
    maps = drawn(0, 20, 3, 2, 2, levels=1)
    first = topk_of(maps, 4, [torch.arange(10)])
    again = RunningTopK(3, 4, (2, 2))
    again.restore(first.state())
    again.add(torch.arange(10, 20), maps[10:].amax((2, 3)), maps[10:])
    for one, other in zip(again.ranked(), topk_of(maps, 4, [torch.arange(20)]).ranked(), strict=True):
        assert torch.equal(one, other)


def quantile_of(values: torch.Tensor, quantile: float, parts: list[torch.Tensor]) -> RunningQuantile:
    running = RunningQuantile(len(values), quantile, values.shape[1])
    for part in parts:
        running.add(values[:, part])
    return running


def numpy_quantile(values: torch.Tensor, quantile: float) -> np.ndarray:
    return np.quantile(values.double().numpy(), quantile, axis=1)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 5000), st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.99, 0.995, 1.0]), st.sampled_from([0, 3]))
def test_quantile_is_numpys(seed: int, count: int, quantile: float, levels: int) -> None:
    values = drawn(seed, 4, count, levels=levels)
    running = quantile_of(values, quantile, pieces(count, seed))
    assert np.array_equal(running.value().numpy(), numpy_quantile(values, quantile))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 20_000), st.floats(0, 1))
def test_quantile_merged_is_quantile_of_all(seed: int, count: int, quantile: float) -> None:
    values = drawn(seed, 3, count)
    parts = pieces(count, seed)
    merged = RunningQuantile(3, quantile, count)
    for half in (parts[:2], parts[2:]):
        one = RunningQuantile(3, quantile, count)
        for part in half:
            one.add(values[:, part])
        merged.merge(one)
    assert np.array_equal(merged.value().numpy(), numpy_quantile(values, quantile))


def test_quantile_in_many_small_pieces_compacts_and_stays_exact() -> None:
    values = drawn(3, 6, 60_000)
    running = RunningQuantile(6, 0.9, 60_000)
    for part in values.split(37, 1):
        running.add(part)
    assert running._buffer.shape[1] < 60_000 * 0.2
    assert np.array_equal(running.value().numpy(), numpy_quantile(values, 0.9))


def test_quantile_of_fewer_values_than_announced() -> None:
    values = drawn(4, 2, 500)
    running = RunningQuantile(2, 0.99, 100_000)
    running.add(values)
    assert np.array_equal(running.value().numpy(), numpy_quantile(values, 0.99))


def test_quantile_refuses_more_values_than_announced() -> None:
    running = RunningQuantile(1, 0.5, 3)
    with pytest.raises(BadInput, match="max_values=3"):
        running.add(torch.zeros(1, 4))


def test_quantile_counts_nan_as_least() -> None:
    values = torch.tensor([[1.0, math.nan, 3.0, 2.0, math.nan], [math.nan] * 5])
    running = quantile_of(values, 0.75, [torch.arange(5)])
    assert running.value().tolist() == [2.0, -math.inf]
    assert RunningQuantile(1, 0.5, 9).value().isnan().all()


@pytest.mark.parametrize("cut", [1, 100, 4999])
def test_quantile_state_goes_on_where_it_was(cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MIN_SCRATCH_BYTES", 0)
    monkeypatch.setattr(running_statistics, "_CHUNK_VALUES", 4096)
    values = drawn(5, 3, 5000)
    first = quantile_of(values[:, :], 0.8, [torch.arange(cut)])
    again = RunningQuantile(3, 0.8, 5000, tmp_path)
    assert isinstance(again._buffer, np.memmap)
    again.restore(first.state())
    again.add(values[:, cut:])
    assert np.array_equal(again.value().numpy(), numpy_quantile(values, 0.8))


def test_sifting_with_an_old_floor_loses_nothing() -> None:
    values = drawn(6, 2, 40_000)
    running = RunningQuantile(2, 0.95, 40_000)
    early = [running.select_candidates(part) for part in values[:, :20_000].split(5000, 1)]
    running.add(values[:, 20_000:])
    for sifted in early:
        running.add_candidates(sifted)
    assert np.array_equal(running.value().numpy(), numpy_quantile(values, 0.95))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0, 1))
def test_a_larger_count_never_needs_fewer_kept(count: int, more: int, quantile: float) -> None:
    assert 1 <= count_top_values(quantile, count) <= count_top_values(quantile, count + more) <= count + more


def test_sample_is_the_same_in_any_batch_and_as_large_as_said() -> None:
    ids = np.arange(300)
    whole = sample_positions(ids, 1000, 0.03)
    assert np.array_equal(
        np.concatenate([sample_positions(ids[:7], 1000, 0.03), sample_positions(ids[7:], 1000, 0.03)]), whole
    )
    assert abs(whole.mean() - 0.03) < 0.001
    assert whole.sum() <= bound_sample_size(300_000, 0.03) < 300_000 * 0.0335
    assert np.abs(np.corrcoef(whole[:-1].ravel(), whole[1:].ravel())[0, 1]) < 0.01
    assert sample_positions(ids, 10, 1.0).all()


def test_sampled_quantiles_keep_within_the_stated_error() -> None:
    values = drawn(8, 64, 400_000) ** 3
    kept = torch.from_numpy(sample_positions(np.arange(400), 1000, 0.05).ravel())
    running = RunningQuantile(64, 0.99, bound_sample_size(400_000, 0.05))
    running.add(values[:, kept])
    ranks = (values.double() <= running.value()[:, None]).double().mean(1)
    stated = bound_rank_error(0.99, running.count, 64)
    assert (ranks - 0.99).abs().max() < stated < 0.005
    assert (ranks - 0.99).abs().max() > stated / 20  # the bound is not idle


def test_range_counts_what_is_positive_and_odd() -> None:
    running, other = RunningRange(2), RunningRange(2)
    running.add(torch.tensor([[-1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[False, True]]))
    other.add(torch.tensor([[-3.0, 0.0]]), torch.tensor([[-1.0, 1.0]]), torch.tensor([[False, False]]))
    running.merge(other)
    again = RunningRange(2)
    again.restore(running.state())
    assert [again.least.tolist(), again.most.tolist()] == [[-3.0, 0.0], [2.0, 1.0]]
    assert [again.positive_images.tolist(), again.nonfinite_images.tolist()] == [[1, 1], [0, 1]]
