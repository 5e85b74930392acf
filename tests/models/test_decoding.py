"""Beam search, greedy search and sampling against step-by-step references, and properties for any weights."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from milan.errors import BadInput
from milan.models.decoding import (
    BLOCK_WORDS,
    ScoreMixture,
    TokenConstraints,
    _select_best,
    beam_search,
    greedy_search,
    sample_texts,
)
from milan.models.vocabulary import Vocabulary
from tests.models.worlds import captioner, features, prior


class Table:
    """A decoder state whose next token depends on the unit and the last token alone, by a table."""

    device = torch.device("cpu")

    def __init__(self, logs: Tensor):
        self.logs, self.units = logs, torch.arange(len(logs))

    def advance(self, parents: Tensor, tokens: Tensor) -> Tensor:
        self.units = self.units[parents]
        return self.logs[self.units, tokens].clone()


def table(words: int, units: int, seed: int) -> tuple[Vocabulary, Tensor]:
    vocabulary = Vocabulary([f"w{index}" for index in range(words)])
    logits = 2 * torch.randn(units, len(vocabulary), len(vocabulary), generator=torch.Generator().manual_seed(seed))
    return vocabulary, logits.log_softmax(-1)


def texts(vocabulary: Vocabulary, steps: int) -> list[tuple[int, ...]]:
    """Return every allowed text of at most some tokens, finished or truncated."""
    words = range(len(vocabulary.words))
    ended = [(*said, vocabulary.stop) for length in range(1, steps) for said in itertools.product(words, repeat=length)]
    return ended + list(itertools.product(words, repeat=steps))


@given(st.integers(0, 1000))
def test_a_beam_wide_enough_finds_the_best_of_all_texts(seed: int) -> None:
    vocabulary, logs = table(words=3, units=2, seed=seed)
    found = beam_search(Table(logs), 2, TokenConstraints(vocabulary), beam=200, steps=4)
    every = texts(vocabulary, 4)
    for unit in range(2):
        scores = [
            sum(logs[unit, a, b].item() for a, b in itertools.pairwise((vocabulary.start, *text))) for text in every
        ]
        ranked = sorted(zip(scores, every, strict=True), reverse=True)
        possible = found.scores[unit].isfinite()
        assert possible.sum() == len(every)
        torch.testing.assert_close(
            found.scores[unit][possible], torch.tensor([score for score, _ in ranked]), atol=1e-4, rtol=0
        )
        # Texts of the same transitions in another order score the same.
        best = [[*text, *[vocabulary.stop] * (4 - len(text))] for score, text in ranked if score > ranked[0][0] - 1e-4]
        assert found.tokens[unit, 0].tolist() in best


@given(st.integers(0, 1000), st.integers(1, 8))
def test_special_tokens_and_empty_texts_are_never_decoded(seed: int, beam: int) -> None:
    vocabulary, logs = table(words=4, units=3, seed=seed)
    logs[:, :, [vocabulary.unk, vocabulary.start, vocabulary.pad, vocabulary.stop]] += (
        50  # they would be said if they might be
    )
    found = beam_search(Table(logs), 3, TokenConstraints(vocabulary), beam=beam, steps=5)
    assert (found.tokens[..., 0] < len(vocabulary.words)).all()
    assert not torch.isin(found.tokens, torch.tensor([vocabulary.start, vocabulary.pad, vocabulary.unk])).any()
    free = beam_search(Table(logs), 3, TokenConstraints(vocabulary, allow_specials=True), beam=beam, steps=5)
    assert torch.isin(
        free.tokens[:, 0, 0], torch.tensor([vocabulary.start, vocabulary.pad, vocabulary.unk, vocabulary.stop])
    ).all()


def test_finished_texts_keep_their_tokens_and_scores() -> None:
    vocabulary, logs = table(words=2, units=1, seed=3)
    logs[:] = -30.0
    logs[0, vocabulary.start, 0] = logs[0, 0, vocabulary.stop] = -0.5
    logs[0, vocabulary.stop] = 9.0  # what follows an end must not count
    found = beam_search(Table(logs), 1, TokenConstraints(vocabulary), beam=3, steps=6)
    assert found.tokens[0, 0].tolist() == [0, *[vocabulary.stop] * 5]
    assert found.scores[0, 0].item() == -1.0


@given(st.integers(0, 1000), st.sampled_from([1, 5, 20]), st.sampled_from([3, BLOCK_WORDS, BLOCK_WORDS + 1, 300]))
def test_the_best_continuations_are_those_of_all_words(seed: int, beam: int, words: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores, log_probs = torch.randn(2, beam, generator=rng), torch.randn(2, beam, words, generator=rng)
    log_probs[torch.rand(log_probs.shape, generator=rng) < 0.2] = -torch.inf
    is_active = torch.rand(2, beam, generator=rng) < 0.7
    is_active[0, 0] = True
    every = scores.unsqueeze(-1) + log_probs
    # A finished text has itself as its only continuation.
    every[~is_active] = -torch.inf
    every[..., 0] = torch.where(is_active, every[..., 0], scores)
    best, origin, last = _select_best(scores, log_probs[is_active], is_active, beam, 2)
    expected, place = every.flatten(1).topk(beam)
    known = expected.isfinite()
    assert torch.equal(best, expected)
    assert torch.equal(origin[known], (place // words)[known])
    assert torch.equal(last[known], torch.where(is_active.gather(1, origin), place % words, 2)[known])


def test_greedy_search_takes_the_most_likely_token() -> None:
    vocabulary, logs = table(words=5, units=4, seed=7)
    found = greedy_search(Table(logs), 4, TokenConstraints(vocabulary), steps=6)
    for unit in range(4):
        last, said = vocabulary.start, []
        while last != vocabulary.stop and len(said) < 6:
            row = logs[unit, last].clone()
            row[
                [vocabulary.start, vocabulary.pad, vocabulary.unk, *([vocabulary.stop] if not said else [])]
            ] = -torch.inf
            last = int(row.argmax())
            said.append(last)
        assert found.tokens[unit, 0].tolist() == said + [vocabulary.stop] * (6 - len(said))


def test_samples_have_the_frequencies_of_their_probabilities() -> None:
    vocabulary, logs = table(words=3, units=1, seed=5)
    rng = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
    found = sample_texts(Table(logs.expand(4000, -1, -1)), TokenConstraints(vocabulary), rng)
    shares = torch.bincount(found.tokens[:, 0, 0], minlength=3)[:3] / 4000
    chances = logs[0, vocabulary.start, :3].softmax(0)
    assert (shares - chances).abs().max() < 0.03
    cold = sample_texts(Table(logs.expand(50, -1, -1)), TokenConstraints(vocabulary), rng[:50], temperature=0.01)
    assert (cold.tokens[:, 0, 0] == chances.argmax()).all()
    with pytest.raises(BadInput, match="temperature"):
        sample_texts(Table(logs), TokenConstraints(vocabulary), rng[:1], temperature=0.0)


def test_a_mixture_is_pmi_token_by_token() -> None:
    vocabulary, logs = table(words=4, units=2, seed=1)
    _, other = table(words=4, units=2, seed=2)
    found = greedy_search(
        ScoreMixture([(1.0, Table(logs)), (-0.5, Table(other))]), 2, TokenConstraints(vocabulary), steps=3
    )
    direct = greedy_search(Table(logs - 0.5 * other), 2, TokenConstraints(vocabulary), steps=3)
    assert torch.equal(found.tokens, direct.tokens)
    torch.testing.assert_close(found.scores, direct.scores)


def test_beam_and_steps_must_be_positive() -> None:
    vocabulary, logs = table(words=2, units=1, seed=0)
    with pytest.raises(BadInput, match="beam is 0"):
        beam_search(Table(logs), 1, TokenConstraints(vocabulary), beam=0)


@pytest.mark.parametrize("others", [0, 1, 2, 7, 16, 30])
def test_results_do_not_depend_on_the_other_units_of_a_batch(others: int) -> None:
    model, language = captioner(), prior()
    own, speller = features(1, seed=9), TokenConstraints(model.vocabulary)
    alone = beam_search(model.start_decoding(own), 1, speller, beam=20)
    batch = torch.cat([features(others, seed=1), own, features(others, seed=2)])
    together = beam_search(model.start_decoding(batch), len(batch), speller, beam=20)
    assert torch.equal(together.tokens[others], alone.tokens[0])
    assert torch.equal(together.scores[others], alone.scores[0])
    assert torch.equal(language.score(together.tokens)[others], language.score(alone.tokens)[0])
    assert torch.equal(model.score(batch, together.tokens)[others], model.score(own, alone.tokens)[0])


def test_thread_counts_change_no_bit() -> None:
    model, batch = captioner(hidden=64, attention=32), features(12)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(beam_search(model.start_decoding(batch), 12, TokenConstraints(model.vocabulary), beam=20))
    torch.set_num_threads(1)
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert torch.equal(found[0].scores, found[1].scores)
