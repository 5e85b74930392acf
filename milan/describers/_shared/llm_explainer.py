"""What describers that ask a language model share, and the LLM explanations of *Tell me what you see*."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, MilanWarning, require_at_least
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

    Args:
        llm: language model: ``openai:MODEL``, ``hf:ID_OR_FOLDER``, ``phrases``, or a custom one; see
            ``milan.pretrained.llm_loading.load_llm``.
        base_url: address of an endpoint, as http://localhost:8000/v1; if empty $OPENAI_BASE_URL, else OpenAI's. The key
            is read from $OPENAI_API_KEY.
        max_calls: maximum number of requests to all models together, retries included; None for no limit.
        llm_options: temperature, longest, timeout, workers, tries, pause and others; see
            ``milan.pretrained.llm_client.load_llm_client``.
        prompts: folder with files that replace those of configs/prompts.
        seed: random seed of everything that is sampled.
        device: device of all models in this process.
    """

    # Options of a language model, unless ``llm_options`` gives others.
    default_options: ClassVar[Mapping[str, Any]] = {}
    units_per_group: ClassVar[int] = 16

    def __init__(
        self,
        llm: str = "openai:gpt-3.5-turbo",
        base_url: str = "",
        max_calls: int | None = 5000,
        llm_options: dict[str, Any] | None = None,
        prompts: str = "",
        seed: int = 0,
        device: str = "cpu",
    ):
        self.llm, self.base_url, self.max_calls, self.llm_options = llm, base_url, max_calls, llm_options
        self.prompts, self.seed, self.device = prompts, seed, device

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
        active = select_active(dissection, units)
        for start in range(0, len(active), self.units_per_group):
            yield from self._describe_group(dissection, active[start : start + self.units_per_group])

    @abstractmethod
    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        """Yield the descriptions of some active units, in their order."""


class LlmExplainer(LlmDescriber):
    """A describer that asks what a unit detects, from its strongest pairs of a text and a number, weakest first.

    Of several explanations the one is chosen that best predicts held-out pairs, which are neither shown nor used by a
    later assessment. (The paper reports the best of ten by the same score that it was chosen by, which overestimates
    it.)

    Args:
        examples: csv of units described by hand (layer, unit, description); those of the same layer are few-shot
            examples.
        shots: maximum number of examples; 2 in the paper.
        shown: maximum number of pairs in a question.
        explanations: number of explanations asked for; the best predictor of held-out pairs is chosen. 10 in the paper.
        share: share of the pairs that may be shown; half of the others is for choosing, half for
            ``milan.scores.explanation_assessment``. Which pairs these are depends on ``seed``.
    """

    signs: Signs = "positive"

    def __init__(
        self,
        examples: str = "",
        shots: int = 2,
        shown: int = 25,
        explanations: int = 10,
        share: float = 0.5,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.examples, self.shots, self.shown, self.explanations, self.share = (
            examples,
            shots,
            shown,
            explanations,
            share,
        )
        require_at_least(1, shown=shown, explanations=explanations)
        if explanations > 1 and share >= 1:
            raise BadInput(
                f"{explanations} explanations to choose from, but all pairs are shown: set share below 1, as 0.5"
            )
        divide_pairs(1, share)

    @property
    def words(self) -> str:  # type: ignore[override]
        """The language model, or the texts that a program counts in its place."""
        return "the texts that are counted" if self.llm == PHRASES else "the language model"

    @property
    def key(self) -> str:
        """Content key of the language model, the prompts, the examples and the settings that change answers."""
        names = ("shots", "shown", "explanations", "share", "seed", "signs")
        prompts = [self.load_prompt("").key, self.load_prompt("_simulate").key]
        examples = [[str(each.unit), each.text] for each in self.described_units]
        settings = {name: getattr(self, name) for name in names}
        return self.key_of(llm=self.llm_client.key, prompts=prompts, examples=examples, **settings)

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
        examples = [(each, self.make_pairs(dissection, each.unit)) for each in self._select_examples(dissection, unit)]
        return LlmSimulation(
            self.llm_client, self.load_prompt("_simulate"), examples, self.signs == "both", seed=self.seed
        )

    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        questions: dict[Unit, list[Any]] = {}
        items: dict[Unit, list[tuple[str, int]]] = {}
        failures: dict[Unit, DescriptionFailure] = {}
        for unit in units:
            try:
                samples = [self.make_question(dissection, unit, index) for index in range(self.explanations)]
                questions[unit], items[unit] = [question for question, _ in samples], samples[0][1]
            except NoPairs as error:
                failures[unit] = DescriptionFailure(unit, str(error))
        parser = make_explanation_parser(MAX_WORDS, self.llm_client.language)
        replies = iter(self.llm_client.ask([each for group in questions.values() for each in group], parser))
        answers = {unit: [next(replies) for _ in group] for unit, group in questions.items()}
        for unit in units:
            yield (
                failures[unit]
                if unit in failures
                else self._make_description(dissection, unit, answers[unit], items[unit])
            )

    def _make_description(
        self, dissection: Dissection, unit: Unit, answers: Sequence[str | NoAnswer], items: Sequence[tuple[str, int]]
    ) -> Description | DescriptionFailure:
        texts = list(dict.fromkeys(each for each in answers if isinstance(each, str)))
        if not texts:
            return DescriptionFailure(unit, next(each.reason for each in answers if isinstance(each, NoAnswer)))
        reasoning = {"pairs": [list(item) for item in items]}
        if len(texts) == 1:
            return Description(unit, self._shorten(texts[0]), 0.0, reasoning=reasoning)
        pairs, simulation = self.make_pairs(dissection, unit), self.make_simulation(dissection, unit)
        places = np.flatnonzero(divide_pairs(len(pairs.values), self.share, self.seed) == CHOOSING).tolist()
        candidates = []
        for text in texts:
            result = simulation.run(text, unit, pairs, places)
            if isinstance(result, NoAnswer):
                return DescriptionFailure(unit, result.reason)
            parts = (("half_width", result.half_width), ("rounds", float(len(result.rounds))))
            candidates.append(Candidate(self._shorten(text), result.correlation, parts))
        ranked = tuple(sorted(candidates, key=lambda each: -each.score))
        return Description(unit, ranked[0].text, ranked[0].score, candidates=ranked, reasoning=reasoning)

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
        return [
            Shot(
                tuple(format_items(self._make_items(self.make_pairs(dissection, each.unit)))),
                each.text,
                str(each.unit.index),
            )
            for each in self._select_examples(dissection, unit)
        ]
