"""Searching for likely texts of many units at once: beam search, greedy, sampled. A ``DecoderState`` says what may come
next.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.errors import BadInput
from milan.models.vocabulary import Vocabulary

MAX_STEPS = 15  # words at most, <stop> included
# matrix products have a multiple of so many rows: then a row is the same to the last bit whatever is computed beside it
ROW_MULTIPLE = 16


@runtime_checkable
class DecoderState(Protocol):
    """A model on its way through many texts: each row is one beginning of a text. The first rows are the units, before
    any word.
    """

    device: torch.device

    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Goes on to new rows, each an old row (``parents``) with one more token, and says the log probability of each
        token to come.
        """
        ...


class ScoreMixture:
    """Walks weighted and added: with a prior of weight -λ, PMI token by token (what the 2022 code decodes with by
    default).
    """

    def __init__(self, states: Sequence[tuple[float, DecoderState]]):
        self.states = states
        self.device = states[0][1].device

    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        return torch.stack([weight * walk.advance(parents, tokens) for weight, walk in self.states]).sum(0)


class DecodedTexts(NamedTuple):
    """Texts found for each unit, best first; after ``<stop>`` come only ``<stop>``. Impossible ones have score -inf."""

    tokens: Int[Tensor, "units beams steps"]
    scores: Float[Tensor, "units beams"]  # sum of log probabilities up to and with <stop>


class TokenConstraints(NamedTuple):
    """Which tokens may be said, and when.

    Attributes:
        allow_specials: whether ``<pad> <start> <unk>`` may be said and a text may be empty, as in the 2022 release.
    """

    vocabulary: Vocabulary
    allow_specials: bool = False

    def mask_log_probs(
        self, log_probs: Float[Tensor, "rows vocabulary"], *, first: bool
    ) -> Float[Tensor, "rows vocabulary"]:
        """Makes what may not be said impossible (in place)."""
        if not self.allow_specials:
            log_probs[:, [self.vocabulary.start, self.vocabulary.pad, self.vocabulary.unk]] = -torch.inf
            if first:
                log_probs[:, self.vocabulary.stop] = -torch.inf
        return log_probs


def beam_search(
    state: DecoderState, units: int, constraints: TokenConstraints, *, beam: int = 50, steps: int = MAX_STEPS
) -> DecodedTexts:
    """The ``beam`` likeliest texts of each unit that a beam search finds; no length normalization, as in MILAN.

    Beams that have ended cost nothing more, and the search ends where all have.
    """
    if beam < 1 or steps < 1:
        raise BadInput(f"a beam of {beam} over {steps} steps finds nothing; give at least 1 of each")
    parents = torch.arange(units, device=state.device)
    logs = constraints.mask_log_probs(
        state.advance(parents, torch.full_like(parents, constraints.vocabulary.start)), first=True
    )
    scores, last = logs.topk(min(beam, logs.shape[1]))
    tokens = last.unsqueeze(-1)
    rows = parents.unsqueeze(1).expand_as(last)  # the walk's row that each beam grew out of
    for _ in range(1, steps):
        going = (last != constraints.vocabulary.stop) & scores.isfinite()
        if not going.any():
            break
        logs = constraints.mask_log_probs(state.advance(rows[going], last[going]), first=False)
        new, origin, last = _select_best(scores, logs, going, beam, constraints.vocabulary.stop)
        rows = (going.flatten().cumsum(0) - 1).view_as(going).gather(1, origin)
        tokens = torch.cat(
            [tokens.gather(1, origin.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])), last.unsqueeze(-1)], -1
        )
        scores = new
    rest = tokens.new_full((*tokens.shape[:2], steps - tokens.shape[2]), constraints.vocabulary.stop)
    return DecodedTexts(torch.cat([tokens, rest], -1), scores)


def _select_best(
    scores: Float[Tensor, "units beams"],
    log_probs: Float[Tensor, "rows vocabulary"],
    is_active: Bool[Tensor, "units beams"],
    beam: int,
    stop: int,
) -> tuple[Float[Tensor, "units new"], Int[Tensor, "units new"], Int[Tensor, "units new"]]:
    """Scores, origins and last tokens of the best continuations; a beam that has ended goes on as it is."""
    likeliest, words = log_probs.topk(min(beam, log_probs.shape[1]))
    total = scores.new_full((*scores.shape, likeliest.shape[1]), -torch.inf)
    total[..., 0] = scores
    total[is_active] = scores[is_active].unsqueeze(1) + likeliest
    token = words.new_full(total.shape, stop)
    token[is_active] = words
    best, index = total.flatten(1).topk(min(beam, total[0].numel()))
    return best, index // likeliest.shape[1], token.flatten(1).gather(1, index)


def greedy_search(
    state: DecoderState, units: int, constraints: TokenConstraints, *, steps: int = MAX_STEPS
) -> DecodedTexts:
    """The likeliest token at each step: a beam of one."""
    return beam_search(state, units, constraints, beam=1, steps=steps)


def sample_texts(
    state: DecoderState,
    constraints: TokenConstraints,
    uniforms: Float[Tensor, "units steps"],
    *,
    temperature: float = 1.0,
) -> DecodedTexts:
    """One text of each unit, drawn from the model by ``uniforms``: uniform numbers in [0, 1), so that a unit's text is
    its own dice's alone.
    """
    if temperature <= 0:
        raise BadInput(f"temperature {temperature} is not positive; for the likeliest words use the strategy greedy")
    units, steps = uniforms.shape
    rows = going = torch.arange(units, device=state.device)
    last = torch.full_like(rows, constraints.vocabulary.start)
    tokens, scores = rows.new_full((units, steps), constraints.vocabulary.stop), uniforms.new_zeros(units)
    for step in range(steps):
        logs = constraints.mask_log_probs(state.advance(rows, last), first=step == 0)
        chances = (logs / temperature).softmax(-1).cumsum(-1)
        last = torch.searchsorted(chances, (uniforms[going, step] * chances[:, -1]).unsqueeze(1), right=True).squeeze(1)
        last = last.clamp(max=logs.shape[1] - 1)
        tokens[going, step] = last
        scores[going] += logs.gather(1, last.unsqueeze(1)).squeeze(1)
        rows = (last != constraints.vocabulary.stop).nonzero().squeeze(1)
        going, last = going[rows], last[rows]
        if not len(going):
            break
    return DecodedTexts(tokens.unsqueeze(1), scores.unsqueeze(1))


def pad_rows(values: Float[Tensor, "rows ..."]) -> Float[Tensor, "filled ..."]:
    """The rows with as many of zeros after them as make a multiple of ``ROW_MULTIPLE``; see there."""
    return torch.cat([values, values.new_zeros(-len(values) % ROW_MULTIPLE, *values.shape[1:])])


def pad_index(index: Int[Tensor, " rows"]) -> Int[Tensor, " padded"]:
    """The index lengthened to a multiple of ``ROW_MULTIPLE`` by repeating its last entry; see ``ROW_MULTIPLE``."""
    lacking = -len(index) % ROW_MULTIPLE
    return torch.cat([index, index[-1:].expand(lacking)]) if lacking else index
