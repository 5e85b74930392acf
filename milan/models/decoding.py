"""Searching for likely texts of many units at once: beam search, greedy, sampled. A ``Walk`` says what may come next."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.errors import BadInput
from milan.vocabulary import Vocabulary

STEPS = 15  # words at most, <stop> included
ROWS = 16  # matrix products have a multiple of so many rows: then a row is the same to the last bit whatever is computed beside it


@runtime_checkable
class Walk(Protocol):
    """A model on its way through many texts: each row is one beginning of a text. The first rows are the units, before any word."""

    device: torch.device

    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Goes on to new rows, each an old row (``parents``) with one more token, and says the log probability of each token to come."""
        ...


class Mixture:
    """Walks weighted and added: with a prior of weight -λ, PMI token by token (what the 2022 code decodes with by default)."""

    def __init__(self, walks: Sequence[tuple[float, Walk]]):
        self.walks = walks
        self.device = walks[0][1].device

    def advance(self, parents: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        return torch.stack([weight * walk.advance(parents, tokens) for weight, walk in self.walks]).sum(0)


class Found(NamedTuple):
    """Texts found for each unit, best first; after ``<stop>`` come only ``<stop>``. Impossible ones have score -inf."""

    tokens: Int[Tensor, "units beams steps"]
    scores: Float[Tensor, "units beams"]  # sum of log probabilities up to and with <stop>


class Speller(NamedTuple):
    """Which tokens may be said, and when.

    Attributes:
        specials: whether ``<pad> <start> <unk>`` may be said and a text may be empty, as in the 2022 release.
    """

    vocabulary: Vocabulary
    specials: bool = False

    def forbid(self, logs: Float[Tensor, "rows vocabulary"], *, first: bool) -> Float[Tensor, "rows vocabulary"]:
        """Makes what may not be said impossible (in place)."""
        if not self.specials:
            logs[:, [self.vocabulary.start, self.vocabulary.pad, self.vocabulary.unk]] = -torch.inf
            if first:
                logs[:, self.vocabulary.stop] = -torch.inf
        return logs


def beam_search(walk: Walk, units: int, speller: Speller, *, beam: int = 50, steps: int = STEPS) -> Found:
    """The ``beam`` likeliest texts of each unit that a beam search finds; no length normalization, as in MILAN.

    Beams that have ended cost nothing more, and the search ends where all have.
    """
    if beam < 1 or steps < 1:
        raise BadInput(f"a beam of {beam} over {steps} steps finds nothing; give at least 1 of each")
    parents = torch.arange(units, device=walk.device)
    logs = speller.forbid(walk.advance(parents, torch.full_like(parents, speller.vocabulary.start)), first=True)
    scores, last = logs.topk(min(beam, logs.shape[1]))
    tokens = last.unsqueeze(-1)
    rows = parents.unsqueeze(1).expand_as(last)  # the walk's row that each beam grew out of
    for _ in range(1, steps):
        going = (last != speller.vocabulary.stop) & scores.isfinite()
        if not going.any():
            break
        logs = speller.forbid(walk.advance(rows[going], last[going]), first=False)
        new, origin, last = _best(scores, logs, going, beam, speller.vocabulary.stop)
        rows = (going.flatten().cumsum(0) - 1).view_as(going).gather(1, origin)
        tokens = torch.cat([tokens.gather(1, origin.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])), last.unsqueeze(-1)], -1)
        scores = new
    rest = tokens.new_full((*tokens.shape[:2], steps - tokens.shape[2]), speller.vocabulary.stop)
    return Found(torch.cat([tokens, rest], -1), scores)


def _best(
    scores: Float[Tensor, "units beams"], logs: Float[Tensor, "rows vocabulary"], going: Bool[Tensor, "units beams"], beam: int, stop: int
) -> tuple[Float[Tensor, "units new"], Int[Tensor, "units new"], Int[Tensor, "units new"]]:
    """Scores, origins and last tokens of the best continuations; a beam that has ended goes on as it is."""
    likeliest, words = logs.topk(min(beam, logs.shape[1]))
    total = scores.new_full((*scores.shape, likeliest.shape[1]), -torch.inf)
    total[..., 0] = scores
    total[going] = scores[going].unsqueeze(1) + likeliest
    token = words.new_full(total.shape, stop)
    token[going] = words
    best, index = total.flatten(1).topk(min(beam, total[0].numel()))
    return best, index // likeliest.shape[1], token.flatten(1).gather(1, index)


def greedy(walk: Walk, units: int, speller: Speller, *, steps: int = STEPS) -> Found:
    """The likeliest token at each step: a beam of one."""
    return beam_search(walk, units, speller, beam=1, steps=steps)


def sample(walk: Walk, speller: Speller, dice: Float[Tensor, "units steps"], *, temperature: float = 1.0) -> Found:
    """One text of each unit, drawn from the model by ``dice``: uniform numbers in [0, 1), so that a unit's text is its own dice's alone."""
    if temperature <= 0:
        raise BadInput(f"temperature {temperature} is not positive; for the likeliest words use the strategy greedy")
    units, steps = dice.shape
    rows = going = torch.arange(units, device=walk.device)
    last = torch.full_like(rows, speller.vocabulary.start)
    tokens, scores = rows.new_full((units, steps), speller.vocabulary.stop), dice.new_zeros(units)
    for step in range(steps):
        logs = speller.forbid(walk.advance(rows, last), first=step == 0)
        chances = (logs / temperature).softmax(-1).cumsum(-1)
        last = torch.searchsorted(chances, (dice[going, step] * chances[:, -1]).unsqueeze(1), right=True).squeeze(1)
        last = last.clamp(max=logs.shape[1] - 1)
        tokens[going, step] = last
        scores[going] += logs.gather(1, last.unsqueeze(1)).squeeze(1)
        rows = (last != speller.vocabulary.stop).nonzero().squeeze(1)
        going, last = going[rows], last[rows]
        if not len(going):
            break
    return Found(tokens.unsqueeze(1), scores.unsqueeze(1))


def filled(values: Float[Tensor, "rows ..."]) -> Float[Tensor, "filled ..."]:
    """The rows with as many of zeros after them as make a multiple of ``ROWS``; see there."""
    return torch.cat([values, values.new_zeros(-len(values) % ROWS, *values.shape[1:])])


def padded(index: Int[Tensor, " rows"]) -> Int[Tensor, " padded"]:
    """The index lengthened to a multiple of ``ROWS`` by repeating its last entry; see ``ROWS``."""
    lacking = -len(index) % ROWS
    return torch.cat([index, index[-1:].expand(lacking)]) if lacking else index
