"""What the LLM explanations of *Tell me what you see* share: pairs of texts and integers in, an explanation in words out."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from milan.describers.base import Describer, Failure, living
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanWarning
from milan.pairs import CHOOSING, SHOWN, Example, Pairs, Signs, explaining, lines, parts, read_examples
from milan.pretrained.asking import Asker, NoAnswer, asker_for
from milan.pretrained.prompts import Prompt, Shot, load_prompt
from milan.pretrained.reading import an_explanation
from milan.simulated import Simulation
from milan.units import Candidate, Description, Unit

WORDS = 60  # of an explanation at most; the paper's longest has 46
GROUP = 16  # units that are asked about together


class Nothing(BadInput):
    """A unit has no pair to be explained from."""


class Explainer(Describer):
    """Asks a language model what a unit looks for, which is shown the strongest of its pairs, weakest first.

    Of several explanations the one is taken that best predicts pairs kept for choosing, which neither were shown nor are those that a later
    assessment judges by (the paper reports the best of ten by the very score it was chosen by, which flatters it).
    """

    llm: str
    base_url: str
    max_calls: int | None
    llm_options: dict[str, Any] | None
    prompts: str
    examples: str
    shots: int
    shown: int
    explanations: int
    share: float
    seed: int
    device: str
    signs: Signs = "positive"

    def _check(self) -> None:
        for name in ("shown", "explanations"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give at least 1")
        if self.explanations > 1 and self.share >= 1:
            raise BadInput(f"{self.explanations} explanations to choose from, but all pairs are shown: set share below 1, as 0.5")
        parts(1, self.share)

    @property
    def key(self) -> str:
        """Content key of the language model, the prompts, the examples and the settings that change answers."""
        names = ("shots", "shown", "explanations", "share", "seed", "signs")
        words = [self.prompt("").key, self.prompt("_simulate").key]
        told = [[str(each.unit), each.text] for each in self.described]
        settings = {name: getattr(self, name) for name in names}
        return self.key_of(llm=self.asker.key, prompts=words, examples=told, **settings)

    @cached_property
    def asker(self) -> Asker:
        """The language model, loaded when first asked for."""
        return asker_for(self.llm, base_url=self.base_url, max_calls=self.max_calls, options=self.llm_options, device=self.device)

    @cached_property
    def described(self) -> list[Example]:
        """The units that a person has described."""
        return read_examples(self.examples)

    def prompt(self, suffix: str) -> Prompt:
        """The prompt that explains, or with ``_simulate`` the one that predicts."""
        return load_prompt(f"{self.name}{'_signed' if self.signs == 'both' else ''}{suffix}", self.prompts)

    @abstractmethod
    def pairs(self, dissection: Dissection, unit: Unit) -> Pairs:
        """All pairs of a unit."""

    def question(self, dissection: Dissection, unit: Unit, draw: int = 0) -> tuple[Any, list[tuple[str, int]]]:
        """What the language model is asked of a unit, and the pairs in it.

        Raises:
            Nothing: none of its pairs is above 0.
        """
        items = self._items(self.pairs(dissection, unit))
        if not items:
            raise Nothing(f"{unit} has nothing above 0 to be explained from")
        return explaining(self.prompt(""), unit, items, self._shots(dissection, unit), draw), items

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | Failure]:
        if self.asker.llm.note:
            warnings.warn(f"{self.name}: {self.asker.llm.note}", MilanWarning, stacklevel=2)
        alive = living(dissection, units)
        for start in range(0, len(alive), GROUP):
            yield from self._group(dissection, alive[start : start + GROUP])

    def simulation(self, dissection: Dissection, unit: Unit) -> Simulation:
        """How what is said of a unit is put to the test."""
        known = [(each, self.pairs(dissection, each.unit)) for each in self._examples(dissection, unit)]
        return Simulation(self.asker, self.prompt("_simulate"), known, self.signs == "both", seed=self.seed)

    def _group(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | Failure]:
        asked: dict[Unit, tuple[list[Any], list[tuple[str, int]]]] = {}
        failed: dict[Unit, Failure] = {}
        for unit in units:
            try:
                found = [self.question(dissection, unit, draw) for draw in range(self.explanations)]
                asked[unit] = [question for question, _ in found], found[0][1]
            except Nothing as error:
                failed[unit] = Failure(unit, str(error))
        questions = [question for each, _ in asked.values() for question in each]
        answers = iter(self.asker.ask(questions, an_explanation(WORDS, self.asker.language)))
        said = {unit: [next(answers) for _ in each] for unit, (each, _) in asked.items()}
        for unit in units:
            yield failed[unit] if unit in failed else self._said(dissection, unit, said[unit], asked[unit][1])

    def _said(
        self, dissection: Dissection, unit: Unit, answers: Sequence[str | NoAnswer], items: Sequence[tuple[str, int]]
    ) -> Description | Failure:
        texts = list(dict.fromkeys(each for each in answers if isinstance(each, str)))
        if not texts:
            return Failure(unit, next(each.reason for each in answers if isinstance(each, NoAnswer)))
        shown = {"pairs": [list(item) for item in items]}
        if len(texts) == 1:
            return Description(unit, self._worded(texts[0]), 0.0, reasoning=shown)
        pairs, simulation = self.pairs(dissection, unit), self.simulation(dissection, unit)
        places = np.flatnonzero(parts(len(pairs.values), self.share, self.seed) == CHOOSING).tolist()
        candidates = []
        for text in texts:
            found = simulation.of(text, unit, pairs, places)
            if isinstance(found, NoAnswer):
                return Failure(unit, found.reason)
            told = (("half_width", found.half_width), ("rounds", float(len(found.rounds))))
            candidates.append(Candidate(self._worded(text), found.correlation, told))
        ranked = tuple(sorted(candidates, key=lambda each: -each.score))
        return Description(unit, ranked[0].text, ranked[0].score, candidates=ranked, reasoning=shown)

    def _worded(self, text: str) -> str:
        return f"against {text}" if self.signs == "negative" else text

    def _items(self, pairs: Pairs) -> list[tuple[str, int]]:
        """The strongest of those that may be shown."""
        allowed = parts(len(pairs.values), self.share, self.seed) == SHOWN
        return pairs.items(pairs.strongest(self.shown, allowed))

    def _examples(self, dissection: Dissection, unit: Unit) -> list[Example]:
        """Those of the unit's own layer, without itself."""
        same = [each for each in self.described if each.unit.layer == dissection.layer and each.unit != unit]
        return same[: self.shots]

    def _shots(self, dissection: Dissection, unit: Unit) -> list[Shot]:
        known = self._examples(dissection, unit)
        return [Shot(tuple(lines(self._items(self.pairs(dissection, each.unit)))), each.text, str(each.unit.index)) for each in known]
