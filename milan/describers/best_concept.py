"""Best concept selection of Describe-and-Dissect (section 3.3) for the candidates of any other describer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, DescriptionRequest, select_active
from milan.describers._shared.candidate_selection import CandidateScoring, CandidateSelection, SelectionRequest
from milan.dissection.dissection import Dissection
from milan.errors import require_at_least
from milan.pretrained.embedder import load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.model_sources import Precision
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.storage.provenance import joined
from milan.targets.target import Target
from milan.units import Description, Unit

UNITS_PER_GROUP = 8  # units whose pictures are painted together


class BestConcept(Describer):
    """Paints the best candidates of another describer and chooses the one whose pictures activate the unit most.

    Args:
        of: the other describer, by name, as PATH/FILE.py:CLASS, or, in Python, an object; one with candidates, such as
            milan or clip_dissect.
        options: settings of the other describer, by name.
        candidates: number of candidates that are tried.
        painter: text-to-image model, as ``milan.pretrained.painter.load_painter`` takes it.
        embedder: image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        scoring: mean, topk_squared, image_products, or topk_squared_image_products (the paper's).
        pictures: number of pictures of each candidate.
        painting: prompt of the painter, with {} for the candidate.
        pooling: how an activation map becomes one number: mean (the paper's), or max.
        seed: random seed of the pictures.
        precision: of painter and embedder.
        device: device of all models.
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
        require_at_least(1, candidates=candidates, pictures=pictures)
        self.of, self.options, self.candidates, self.painter, self.embedder = of, options, candidates, painter, embedder
        self.scoring, self.pictures, self.painting, self.pooling = scoring, pictures, painting, pooling
        self.seed, self.precision, self.device = seed, precision, device

    @property
    def key(self) -> str:
        """Content key of the other describer, the number of its candidates and the selection by generated images."""
        return self.key_of(of=self.candidate_describer.key, candidates=self.candidates, selection=self.selection.key)

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the other describer."""
        return self.candidate_describer.words

    def find_missing_models(self) -> list[MissingModel]:
        """Return the missing models of this describer and of the one whose candidates it chooses from."""
        return [*super().find_missing_models(), *self.candidate_describer.find_missing_models()]

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the evidence of the describer of the candidates is missing."""
        self.candidate_describer.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return painter and image-text model, and the sources of the other describer."""
        return joined(
            {
                self.name: self.specs("painter", "embedder"),
                self.candidate_describer.name: self.candidate_describer.sources(dissection),
            }
        )

    def image_endpoint(self) -> str:
        """Return the endpoint that the describer of the candidates sends images to."""
        return self.candidate_describer.image_endpoint()

    def estimate_requests(self, probe: Probe, units: int, k: int) -> str:
        """Return the requests of the describer of the candidates; choosing among them makes none."""
        return self.candidate_describer.estimate_requests(probe, units, k)

    @cached_property
    def candidate_describer(self) -> Describer:
        """The describer whose candidates they are."""
        return load_describer(self.of, **self.options or {}) if isinstance(self.of, str) else self.of

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded at the first access."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def selection(self) -> CandidateSelection:
        """The selection of the best candidate; the painter is loaded at the first access."""
        return CandidateSelection.from_settings(self, self.model)

    def prepare(self, requests: Sequence[DescriptionRequest]) -> None:
        """Let the describer of the candidates prepare for the same requests."""
        self.candidate_describer.prepare(requests)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield each unit's best candidate, in groups whose images are generated together."""
        active = select_active(dissection, units)
        described = self.candidate_describer.describe(dissection, active) if active else iter(())
        waiting: list[Description | DescriptionFailure] = []
        for number, each in enumerate(described, 1):
            waiting.append(each)
            if len(waiting) == UNITS_PER_GROUP or number == len(active):
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
