"""What describers that ask a language model share, and the LLM explanations of *Tell me what you see*."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanWarning
from milan.pretrained.llm_client import CallBudget, LlmClient, NoAnswer, load_llm_client
from milan.pretrained.prompts import Prompt, Shot, load_prompt
from milan.pretrained.reply_parsing import make_explanation_parser
from milan.scores.llm_simulation import LlmSimulation
from milan.scores.prediction_pairs import (
    CHOOSING,
    SHOWN,
    DescribedUnit,
    PredictionPairs,
    Signs,
    divide_pairs,
    format_items,
    make_explanation_question,
    read_examples,
)
from milan.storage.provenance import PHRASES
from milan.units import Candidate, Description, Unit

MAX_WORDS = 60  # maximum number of words of an explanation; the paper's longest has 46
LANGUAGE_MODELS = ("openai:", "hf:")  # specs of models that take sampling options, unlike stand-ins


class NoPairs(BadInput):
    """A unit has no pair that it could be explained from."""


class LlmDescriber(Describer):
    """A describer that asks a language model about several units at a time.

    Subclasses set the attributes without values below in their constructors, as settings.
    """

    llm: str
    base_url: str
    max_calls: int | None
    llm_options: dict[str, Any] | None
    device: str
    # Options of a language model, unless ``llm_options`` gives others.
    default_options: ClassVar[Mapping[str, Any]] = {}
    units_per_group: ClassVar[int] = 16

    @cached_property
    def budget(self) -> CallBudget:
        """The requests that this describer may send, to all its models together."""
        return CallBudget(self.max_calls)

    @cached_property
    def llm_client(self) -> LlmClient:
        """The language model, loaded when first used."""
        defaults = self.default_options if self.llm.startswith(LANGUAGE_MODELS) else {}
        options = {**defaults, **(self.llm_options or {})}
        return load_llm_client(
            self.llm, base_url=self.base_url, max_calls=self.budget, options=options, device=self.device
        )

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield descriptions group by group, so that the model is asked about ``units_per_group`` units at a time."""
        if self.llm_client.llm.note:
            warnings.warn(f"{self.name}: {self.llm_client.llm.note}", MilanWarning, stacklevel=2)
        alive = select_active(dissection, units)
        for start in range(0, len(alive), self.units_per_group):
            yield from self._describe_group(dissection, alive[start : start + self.units_per_group])

    @abstractmethod
    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        """Yield the descriptions of some active units, in their order."""


class LlmExplainer(LlmDescriber):
    """Asks a language model what a unit detects, from the strongest of its pairs, weakest first.

    Of several explanations the one is chosen that best predicts held-out pairs, which are neither shown nor used by a
    later assessment. (The paper reports the best of ten by the same score that it was chosen by, which overestimates
    it.)
    """

    prompts: str
    examples: str
    shots: int
    shown: int
    explanations: int
    share: float
    seed: int
    signs: Signs = "positive"

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the language model, or of the texts that a program counts in its place."""
        return "the texts that are counted" if self.llm == PHRASES else "the language model"

    def _check(self) -> None:
        for name in ("shown", "explanations"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give at least 1")
        if self.explanations > 1 and self.share >= 1:
            raise BadInput(
                f"{self.explanations} explanations to choose from, but all pairs are shown: set share below 1, as 0.5"
            )
        divide_pairs(1, self.share)

    @property
    def key(self) -> str:
        """Content key of the language model, the prompts, the examples and the settings that change answers."""
        names = ("shots", "shown", "explanations", "share", "seed", "signs")
        words = [self.load_prompt("").key, self.load_prompt("_simulate").key]
        examples = [[str(each.unit), each.text] for each in self.described_units]
        settings = {name: getattr(self, name) for name in names}
        return self.key_of(llm=self.llm_client.key, prompts=words, examples=examples, **settings)

    @cached_property
    def described_units(self) -> list[DescribedUnit]:
        """The units described by hand."""
        return read_examples(self.examples)

    def load_prompt(self, suffix: str) -> Prompt:
        """Load the prompt of explanations, or with ``_simulate`` that of predictions."""
        return load_prompt(f"{self.name}{'_signed' if self.signs == 'both' else ''}{suffix}", self.prompts)

    @abstractmethod
    def make_pairs(self, dissection: Dissection, unit: Unit) -> PredictionPairs:
        """Return all pairs of a unit."""

    def make_question(
        self, dissection: Dissection, unit: Unit, sample_index: int = 0
    ) -> tuple[Any, list[tuple[str, int]]]:
        """Return the question about a unit, and the pairs in it.

        Raises:
            NoPairs: none of its pairs is above 0.
        """
        items = self._make_items(self.make_pairs(dissection, unit))
        if not items:
            raise NoPairs(f"{unit} has nothing above 0 to be explained from")
        return make_explanation_question(
            self.load_prompt(""), unit, items, self._make_shots(dissection, unit), sample_index
        ), items

    def make_simulation(self, dissection: Dissection, unit: Unit) -> LlmSimulation:
        """Return the simulation that explanations of a unit are evaluated by."""
        known = [(each, self.make_pairs(dissection, each.unit)) for each in self._select_examples(dissection, unit)]
        return LlmSimulation(
            self.llm_client, self.load_prompt("_simulate"), known, self.signs == "both", seed=self.seed
        )

    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        asked: dict[Unit, tuple[list[Any], list[tuple[str, int]]]] = {}
        failed: dict[Unit, DescriptionFailure] = {}
        for unit in units:
            try:
                found = [self.make_question(dissection, unit, draw) for draw in range(self.explanations)]
                asked[unit] = [question for question, _ in found], found[0][1]
            except NoPairs as error:
                failed[unit] = DescriptionFailure(unit, str(error))
        questions = [question for each, _ in asked.values() for question in each]
        answers = iter(self.llm_client.ask(questions, make_explanation_parser(MAX_WORDS, self.llm_client.language)))
        said = {unit: [next(answers) for _ in each] for unit, (each, _) in asked.items()}
        for unit in units:
            yield (
                failed[unit] if unit in failed else self._make_description(dissection, unit, said[unit], asked[unit][1])
            )

    def _make_description(
        self, dissection: Dissection, unit: Unit, answers: Sequence[str | NoAnswer], items: Sequence[tuple[str, int]]
    ) -> Description | DescriptionFailure:
        texts = list(dict.fromkeys(each for each in answers if isinstance(each, str)))
        if not texts:
            return DescriptionFailure(unit, next(each.reason for each in answers if isinstance(each, NoAnswer)))
        shown = {"pairs": [list(item) for item in items]}
        if len(texts) == 1:
            return Description(unit, self._shorten(texts[0]), 0.0, reasoning=shown)
        pairs, simulation = self.make_pairs(dissection, unit), self.make_simulation(dissection, unit)
        places = np.flatnonzero(divide_pairs(len(pairs.values), self.share, self.seed) == CHOOSING).tolist()
        candidates = []
        for text in texts:
            found = simulation.run(text, unit, pairs, places)
            if isinstance(found, NoAnswer):
                return DescriptionFailure(unit, found.reason)
            parts = (("half_width", found.half_width), ("rounds", float(len(found.rounds))))
            candidates.append(Candidate(self._shorten(text), found.correlation, parts))
        ranked = tuple(sorted(candidates, key=lambda each: -each.score))
        return Description(unit, ranked[0].text, ranked[0].score, candidates=ranked, reasoning=shown)

    def _shorten(self, text: str) -> str:
        return f"against {text}" if self.signs == "negative" else text

    def _make_items(self, pairs: PredictionPairs) -> list[tuple[str, int]]:
        """Return the strongest of the pairs that may be shown."""
        allowed = divide_pairs(len(pairs.values), self.share, self.seed) == SHOWN
        return pairs.make_items(pairs.select_strongest(self.shown, allowed))

    def _select_examples(self, dissection: Dissection, unit: Unit) -> list[DescribedUnit]:
        """Return the examples of the unit's own layer, without the unit itself."""
        same = [each for each in self.described_units if each.unit.layer == dissection.layer and each.unit != unit]
        return same[: self.shots]

    def _make_shots(self, dissection: Dissection, unit: Unit) -> list[Shot]:
        known = self._select_examples(dissection, unit)
        return [
            Shot(
                tuple(format_items(self._make_items(self.make_pairs(dissection, each.unit)))),
                each.text,
                str(each.unit.index),
            )
            for each in known
        ]
