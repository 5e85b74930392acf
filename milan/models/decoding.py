"""Decoding of many units at once: beam search, greedy search and sampling, over any ``DecoderState``."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.errors import BadInput, require_at_least
from milan.models.vocabulary import Vocabulary

MAX_STEPS = 15  # tokens per text, <stop> included
# Matrix products have a multiple of this number of rows: then the bits of a row do not depend on the other rows.
ROW_MULTIPLE = 16
BLOCK_WORDS = 64  # words of the vocabulary whose maximum is compared first


@runtime_checkable
class DecoderState(Protocol):
    """The state of a model that decodes many texts; each row is the beginning of a text.

    At first there is one row per unit, before any word.
    """

    device: torch.device

    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append one token to rows of the state and return the log probabilities of the token after it.

        Args:
            parents: the row of the current state that each new row continues.
            tokens: the token to append.
        """
        ...


class ScoreMixture:
    """The weighted sum of several decoder states' log probabilities.

    With a captioner of weight 1 and a prior of weight -λ it is PMI token by token, the default of the 2022 code.

    Args:
        states: weights and decoder states.
    """

    def __init__(self, states: Sequence[tuple[float, DecoderState]]):
        self.states = states
        self.device = states[0][1].device

    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Append one token to rows of all states and return the mixed scores of the token after it."""
        return torch.stack([weight * state.advance(parents, tokens) for weight, state in self.states]).sum(0)


class DecodedTexts(NamedTuple):
    """The texts of each unit, best first.

    Attributes:
        tokens: the texts, padded with ``<stop>``.
        scores: log probabilities, summed up to and including ``<stop>``; -inf for impossible texts.
    """

    tokens: Int[Tensor, "units beams steps"]
    scores: Float[Tensor, "units beams"]


class TokenConstraints(NamedTuple):
    """The tokens that may be decoded.

    Attributes:
        vocabulary: the vocabulary of the texts.
        allow_specials: whether ``<pad> <start> <unk>`` and empty texts are allowed, as in the 2022 release.
    """

    vocabulary: Vocabulary
    allow_specials: bool = False

    def mask_log_probs(
        self, log_probs: Float[Tensor, "rows vocabulary"], *, first: bool
    ) -> Float[Tensor, "rows vocabulary"]:
        """Set the log probabilities of forbidden tokens to -inf, in place.

        Args:
            log_probs: the log probabilities of the next token.
            first: whether the next token is the first of its text.
        """
        if not self.allow_specials:
            log_probs[:, [self.vocabulary.start, self.vocabulary.pad, self.vocabulary.unk]] = -torch.inf
            if first:
                log_probs[:, self.vocabulary.stop] = -torch.inf
        return log_probs


def check_search(beam: int = 1, steps: int = 1, temperature: float = 1.0) -> None:
    """Raise BadInput for a setting of a search that is out of range."""
    require_at_least(1, beam=beam, steps=steps)
    if not temperature > 0:
        raise BadInput(
            f"temperature is {temperature} and must be positive; for the most likely words use the strategy greedy"
        )


def beam_search(
    state: DecoderState, units: int, constraints: TokenConstraints, *, beam: int = 50, steps: int = MAX_STEPS
) -> DecodedTexts:
    """Return the texts of a beam search, without length normalization, as in MILAN.

    Finished texts cost no computation; the search ends when all texts are finished.

    Args:
        state: the decoder state before the first word.
        units: the number of units.
        constraints: the tokens that may be decoded.
        beam: the number of texts per unit.
        steps: the largest number of tokens per text, ``<stop>`` included.

    Raises:
        BadInput: ``beam`` or ``steps`` is less than 1.
    """
    check_search(beam, steps)
    parents = torch.arange(units, device=state.device)
    logs = constraints.mask_log_probs(
        state.advance(parents, torch.full_like(parents, constraints.vocabulary.start)), first=True
    )
    scores, last = logs.topk(min(beam, logs.shape[1]))
    tokens = last.unsqueeze(-1)
    # the row of the state that each beam continues
    rows = parents.unsqueeze(1).expand_as(last)
    for _ in range(1, steps):
        is_active = (last != constraints.vocabulary.stop) & scores.isfinite()
        if not is_active.any():
            break
        logs = constraints.mask_log_probs(state.advance(rows[is_active], last[is_active]), first=False)
        new, origin, last = _select_best(scores, logs, is_active, beam, constraints.vocabulary.stop)
        rows = (is_active.flatten().cumsum(0) - 1).view_as(is_active).gather(1, origin)
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
    """Return scores, parents and last tokens of the best continuations; a finished text continues as it is.

    Each of the best continuations lies in one of the ``beam`` blocks of the vocabulary with the highest maxima, so that
    only these blocks are searched.
    """
    maxima = _find_block_maxima(log_probs)
    blocks = maxima.shape[1]
    highest = scores.new_full((*scores.shape, blocks), -torch.inf)
    highest[is_active] = scores[is_active].unsqueeze(1) + maxima
    # A finished text is a block with one continuation.
    highest[..., 0] = torch.where(is_active, highest[..., 0], scores)
    place = highest.flatten(1).topk(min(beam, highest[0].numel())).indices
    origin, block = place // blocks, place % blocks
    places = (block * BLOCK_WORDS).unsqueeze(-1) + torch.arange(BLOCK_WORDS, device=block.device)
    words = log_probs.shape[1]
    tokens = places.clamp(max=words - 1)
    rows = (is_active.flatten().cumsum(0) - 1).clamp(min=0).view_as(is_active).gather(1, origin)
    total = scores.gather(1, origin).unsqueeze(-1) + log_probs[rows.unsqueeze(-1), tokens]
    total = total.masked_fill(places >= words, -torch.inf)
    finished = ~is_active.gather(1, origin)
    total[finished] = -torch.inf
    total[..., 0] = torch.where(finished & (block == 0), scores.gather(1, origin), total[..., 0])
    tokens[finished] = stop
    best, index = total.flatten(1).topk(min(beam, scores.shape[1] * words, total[0].numel()))
    return best, origin.gather(1, index // BLOCK_WORDS), tokens.flatten(1).gather(1, index)


def _find_block_maxima(log_probs: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows blocks"]:
    """Return the maximum of every ``BLOCK_WORDS`` words; the last block may be shorter."""
    whole = log_probs.shape[1] // BLOCK_WORDS * BLOCK_WORDS
    maxima = log_probs[:, :whole].unflatten(1, (-1, BLOCK_WORDS)).amax(-1)
    rest = log_probs[:, whole:]
    return torch.cat([maxima, rest.amax(-1, keepdim=True)], 1) if rest.shape[1] else maxima


def greedy_search(
    state: DecoderState, units: int, constraints: TokenConstraints, *, steps: int = MAX_STEPS
) -> DecodedTexts:
    """Return the text that takes the most likely token at each step: a beam search with a beam of 1."""
    return beam_search(state, units, constraints, beam=1, steps=steps)


def sample_texts(
    state: DecoderState,
    constraints: TokenConstraints,
    uniforms: Float[Tensor, "units steps"],
    *,
    temperature: float = 1.0,
) -> DecodedTexts:
    """Return one random text per unit.

    Args:
        state: the decoder state before the first word.
        constraints: the tokens that may be decoded.
        uniforms: uniform random numbers in [0, 1); a unit's text depends on its own numbers alone.
        temperature: the logits are divided by it.

    Raises:
        BadInput: the temperature is not positive.
    """
    check_search(temperature=temperature)
    units, steps = uniforms.shape
    rows = active = torch.arange(units, device=state.device)
    last = torch.full_like(rows, constraints.vocabulary.start)
    tokens, scores = rows.new_full((units, steps), constraints.vocabulary.stop), uniforms.new_zeros(units)
    for step in range(steps):
        logs = constraints.mask_log_probs(state.advance(rows, last), first=step == 0)
        cumulative = (logs / temperature).softmax(-1).cumsum(-1)
        last = torch.searchsorted(
            cumulative, (uniforms[active, step] * cumulative[:, -1]).unsqueeze(1), right=True
        ).squeeze(1)
        last = last.clamp(max=logs.shape[1] - 1)
        tokens[active, step] = last
        scores[active] += logs.gather(1, last.unsqueeze(1)).squeeze(1)
        rows = (last != constraints.vocabulary.stop).nonzero().squeeze(1)
        active, last = active[rows], last[rows]
        if not len(active):
            break
    return DecodedTexts(tokens.unsqueeze(1), scores.unsqueeze(1))


def pad_rows(values: Float[Tensor, "rows ..."]) -> Float[Tensor, "filled ..."]:
    """Append rows of zeros up to a multiple of ``ROW_MULTIPLE``."""
    return torch.cat([values, values.new_zeros(-len(values) % ROW_MULTIPLE, *values.shape[1:])])


def pad_index(index: Int[Tensor, " rows"]) -> Int[Tensor, " padded"]:
    """Repeat the last entry of an index up to a multiple of ``ROW_MULTIPLE``."""
    lacking = -len(index) % ROW_MULTIPLE
    return torch.cat([index, index[-1:].expand(lacking)]) if lacking else index
