"""Best concept selection of Describe-and-Dissect (section 3.3), of the candidates that any other describer has."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.describers._shared.candidate_selection import CandidateScoring, CandidateSelection, SelectionRequest
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.pretrained.embedder import Embedder, load_embedder
from milan.pretrained.model_sources import Precision
from milan.pretrained.painter import load_painter
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.storage.provenance import joined
from milan.targets.target import Target
from milan.units import Description, Unit

UNITS_PER_GROUP = 8  # units whose pictures are painted together


class BestConcept(Describer):
    """Paints the best few candidates of another describer; the one whose pictures move the unit most is the
    description.

    Args:
        of: the other describer, by name, as PATH/FILE.py:CLASS, or, in Python, itself; one with candidates, such as
            milan or clip_dissect.
        options: settings of the other describer, by name.
        candidates: how many of its best are tried.
        painter: draws them, as ``milan.pretrained.painter.load_painter`` takes it.
        embedder: compares pictures, as ``milan.pretrained.embedder.load_embedder`` takes it.
        scoring: mean, topk_squared, image_products, or topk_squared_image_products (the paper's).
        pictures: of each candidate.
        painting: what a candidate is put into for the painter, {} standing for it.
        pooling: of an activation map into one number: mean (the paper's), or max.
        seed: of the pictures.
        precision: of painter and embedder.
        device: where they and the other describer run.
    """

    name: ClassVar[str] = "best_concept"
    version: ClassVar[int] = 1

    def __init__(
        self,
        of: str | Describer = "clip_dissect",
        options: dict[str, Any] | None = None,
        candidates: int = 5,
        painter: str = "diffusers:CompVis/stable-diffusion-v1-4",
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        scoring: CandidateScoring = "topk_squared_image_products",
        pictures: int = 10,
        painting: str = "a realistic photograph of {}",
        pooling: Literal["mean", "max"] = "mean",
        seed: int = 0,
        precision: Precision = "float32",
        device: str = "cpu",
    ):
        if candidates < 1:
            raise BadInput(f"{candidates} candidates; give at least 1")
        self.of, self.options, self.candidates, self.painter, self.embedder = of, options, candidates, painter, embedder
        self.scoring, self.pictures, self.painting, self.pooling = scoring, pictures, painting, pooling
        self.seed, self.precision, self.device = seed, precision, device

    @property
    def key(self) -> str:
        return self.key_of(of=self.candidate_describer.key, candidates=self.candidates, selection=self.selection.key)

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the other describer."""
        return self.candidate_describer.words

    def find_missing_models(self) -> list[MissingModel]:
        return [*super().find_missing_models(), *self.candidate_describer.find_missing_models()]

    def check_evidence(self, target: Target, probe: Probe) -> None:
        self.candidate_describer.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Painter and image-text model, and what the other describer uses."""
        return joined(
            {
                self.name: self.specs("painter", "embedder"),
                self.candidate_describer.name: self.candidate_describer.sources(dissection),
            }
        )

    def image_endpoint(self) -> str:
        return self.candidate_describer.image_endpoint()

    def estimate_requests(self, probe: Probe, units: int, k: int) -> str:
        return self.candidate_describer.estimate_requests(probe, units, k)

    @cached_property
    def candidate_describer(self) -> Describer:
        """The describer whose candidates they are."""
        return load_describer(self.of, **self.options or {}) if isinstance(self.of, str) else self.of

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded when first asked for."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def selection(self) -> CandidateSelection:
        """How the best candidate is found; the painter is loaded when it is first asked for."""
        painter = load_painter(self.painter, device=self.device, precision=self.precision)
        return CandidateSelection(
            painter,
            self.model,
            prompt=self.painting,
            scoring=self.scoring,
            count=self.pictures,
            pooling=self.pooling,
            seed=self.seed,
        )

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        alive = select_active(dissection, units)
        said = self.candidate_describer.describe(dissection, alive) if alive else iter(())
        waiting: list[Description | DescriptionFailure] = []
        for number, each in enumerate(said, 1):
            waiting.append(each)
            if len(waiting) == UNITS_PER_GROUP or number == len(alive):
                yield from self._describe_group(dissection, waiting)
                waiting = []

    def _describe_group(
        self, dissection: Dissection, descriptions: Sequence[Description | DescriptionFailure]
    ) -> Iterator[Description | DescriptionFailure]:
        wishes = [self._make_request(dissection, each) for each in descriptions if isinstance(each, Description)]
        chosen = iter(self.selection.choose(dissection.open_target(), wishes))
        for each in descriptions:
            if isinstance(each, DescriptionFailure):
                yield each
                continue
            choices = next(chosen)
            found = self.selection.make_candidates(choices)
            yield replace(
                each,
                text=found[0].text,
                score=found[0].score,
                candidates=found,
                reasoning=self.selection.make_reasoning(choices),
            )

    def _make_request(self, dissection: Dissection, description: Description) -> SelectionRequest:
        texts = dict.fromkeys([description.text, *(candidate.text for candidate in description.candidates)])
        images = dissection.exemplars(description.unit).images[: self.selection.top]
        return SelectionRequest(description.unit, tuple(texts)[: self.candidates], images)
