"""SAND (Srinivas et al. 2025): the concept most similar to a unit's exemplars outside whose masks all is black."""

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from milan.concepts.concept_sets import HARVEST_PREFIX, load_concept_set
from milan.describers._shared.base import Describer, select_active
from milan.dissection.dissection import Dissection
from milan.dissection.masks import fill_empty_masks, masks_from_maps
from milan.errors import BadInput, MilanWarning
from milan.pretrained.embedder import embed_texts, load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.model_sources import Precision
from milan.pretrained.published_models import MissingModel, ModelFacts
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.text_files import read_lines
from milan.targets.preprocessing import Size, as_size
from milan.units import Candidate, Description, Exemplars, Unit

MaskThreshold = Literal["peak", "dissection"]
MaskFill = Literal["black", "grey", "mean"]
# Captions of COCO and product texts of Amazon-Berkeley Objects (appendix A.1).
PUBLISHED_TEXT_FILES = "harvest:captions_train2017.json,harvest:listings_0.json.gz"
PUBLISHED_PARSER = "en_core_web_sm"
KEPT_CANDIDATES = 10  # candidates kept with a description
GREY = 128
INFERRED_NOTICE = (
    "SAND is built from its paper's appendix; inferred are: η as a share of each image's peak activation, black outside"
    " the mask, exemplars that count alike, and the mean cosine as the score"
)


class Sand(Describer):
    """Chooses the concept whose prompts are most similar to the unit's masked exemplars, by an image-text model.

    Only the paper's appendix was available. From it: the concepts (nouns, noun phrases, verbs and adjectives of
    captions and product texts, at most four words, appendix A.1), an ensemble of twenty prompts (B), masks by a
    threshold η = 0.10 on the activation; values between 0.05 and 0.20 leave four descriptions in five unchanged (C).
    Inferred: that η is a share of the peak activation in each image (``threshold``); that masked pixels are black
    (``outside``); that exemplars have equal weights, and the score is the mean cosine with the mean of a concept's
    prompts. A warning in the results says so. The twenty prompts are our own wording; ``prompts`` takes a file with the
    published ones.

    Args:
        concepts: concept set, as ``milan.concepts.concept_sets.load_concept_set`` takes it; ``harvest:FILE`` makes it
            from captions.
        spacy_model: spaCy pipeline that finds the phrases of a harvest: en_core_web_sm (as published), another
            installed pipeline, ``lexicon``, or a folder.
        minimum: minimum number of occurrences of a harvested phrase.
        embedder: image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        prompts: ``sand`` (twenty), ``plain`` (the bare concept), or a text file with one prompt in each line, with {}
            for the concept.
        eta: η, the share of the peak activation above which a place belongs to the mask, 0 to below 1.
        threshold: ``peak`` for masks by η; ``dissection`` for the dissection's own masks, by its quantile over the
            probe.
        outside: colour of the pixels outside the mask: ``black``, ``grey``, or the ``mean`` colour of the image.
        precision: of the image-text model.
        device: device of the image-text model.
    """

    name: ClassVar[str] = "sand"
    version: ClassVar[int] = 1
    words = "phrases of the texts that the concept set was harvested from"

    def __init__(
        self,
        concepts: str | list[str] = PUBLISHED_TEXT_FILES,
        spacy_model: str = PUBLISHED_PARSER,
        minimum: int = 3,
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        prompts: str = "sand",
        eta: float = 0.10,
        threshold: MaskThreshold = "peak",
        outside: MaskFill = "black",
        precision: Precision = "float32",
        device: str = "cpu",
    ):
        if not 0 <= eta < 1:
            raise BadInput(f"eta is {eta}; give a share of the peak activation from 0 to below 1")
        self.concepts, self.spacy_model, self.minimum, self.embedder, self.prompts = (
            concepts,
            spacy_model,
            minimum,
            embedder,
            prompts,
        )
        self.eta, self.threshold, self.outside, self.precision, self.device = eta, threshold, outside, precision, device

    @property
    def key(self) -> str:
        """Content key of the concepts, the prompts, the image-text model and the settings that change answers."""
        settings = {"eta": self.eta, "threshold": self.threshold, "outside": self.outside}
        return self.key_of(choices=self.concept_names, templates=self.templates, model=self.model.key, **settings)

    def find_missing_models(self) -> list[MissingModel]:
        """Return what the base class returns, and the spaCy pipeline if the concepts are harvested with it."""
        missing = super().find_missing_models()
        needs_parser = HARVEST_PREFIX in str(self.concepts)
        if needs_parser and self.spacy_model == PUBLISHED_PARSER and find_spec(PUBLISHED_PARSER) is None:
            how = f"python -m spacy download {PUBLISHED_PARSER}"
            facts = ModelFacts("about 12 MB", "MIT")
            url = f"https://github.com/explosion/spacy-models ({how})"
            missing.append(MissingModel("spaCy pipeline", PUBLISHED_PARSER, url, "", facts, "or give spacy_model=ours"))
        return missing

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded at the first access."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def concept_names(self) -> list[str]:
        """The concepts without duplicates."""
        return load_concept_set(self.concepts, spacy_model=self.spacy_model, minimum=self.minimum)

    @cached_property
    def templates(self) -> list[str]:
        """The prompts, with {} for the concept."""
        if self.prompts == "plain":
            return ["{}"]
        path = (
            locate_packaged_data("data/concepts/prompts/sand.txt")
            if self.prompts == "sand"
            else Path(self.prompts).expanduser()
        )
        try:
            found = [line for line in read_lines(path) if line]
        except BadInput as error:
            raise BadInput(f"no prompts: {error}; give sand, plain or a text file with one in each line") from None
        if not found or any("{}" not in line for line in found):
            without = next((line for line in found if "{}" not in line), "nothing in it")
            raise BadInput(f"each prompt of {self.prompts} needs {{}} for the concept; found {without!r}")
        return found

    @cached_property
    def concept_embeddings(self) -> Float[Tensor, "concepts features"]:
        """The mean embedding of each concept's prompts, of unit length."""
        total = torch.zeros(len(self.concept_names), self.model.features)
        for template in self.templates:
            total += embed_texts(self.model, [template.replace("{}", concept) for concept in self.concept_names])
        return normalize(total, dim=1)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the concept most similar to each unit's masked exemplars; warn that parts are inferred."""
        warnings.warn(INFERRED_NOTICE, MilanWarning, stacklevel=2)
        for unit in select_active(dissection, units):
            exemplars = dissection.exemplars(unit)
            shown = mask_images(exemplars.images, self._make_masks(dissection, exemplars), self.outside)
            yield self._make_description(unit, self.model.encode_images(shown) @ self.concept_embeddings.T)

    def _make_masks(self, dissection: Dissection, exemplars: Exemplars) -> Bool[Tensor, "k 1 height width"]:
        if self.threshold == "dissection":
            return exemplars.masks
        return make_peak_masks(dissection.maps(exemplars.unit), self.eta, as_size(exemplars.images.shape[-2:]))

    def _make_description(self, unit: Unit, similarities: Float[Tensor, "k concepts"]) -> Description:
        scores = similarities.mean(0)
        mean, spread = float(scores.mean()), float(scores.std(correction=0)) or 1.0
        best = torch.sort(scores, descending=True, stable=True).indices[:KEPT_CANDIDATES].tolist()
        candidates = tuple(
            Candidate(
                self.concept_names[place],
                float(scores[place]),
                (("deviations", (float(scores[place]) - mean) / spread),),
            )
            for place in best
        )
        return Description(unit, candidates[0].text, candidates[0].score, candidates=candidates)


def make_peak_masks(maps: Float[Tensor, "k h w"], eta: float, size: Size) -> Bool[Tensor, "k 1 height width"]:
    """Return masks of the places where an upsampled activation map exceeds the share ``eta`` of its peak.

    A mask without any such place is the whole image.

    >>> make_peak_masks(torch.tensor([[[0.0, 8.0]], [[-2.0, -1.0]]]), 0.5, 4)[:, 0, 0]
    tensor([[False, False,  True,  True],
            [ True,  True,  True,  True]])
    """
    return fill_empty_masks(masks_from_maps(maps, maps.amax((1, 2)) * eta, size))[:, None]


def mask_images(
    images: UInt8[Tensor, "k 3 height width"], masks: Bool[Tensor, "k 1 height width"], outside: MaskFill = "black"
) -> UInt8[Tensor, "k 3 height width"]:
    """Return the images with one colour outside the masks."""
    if outside == "mean":
        return images.where(masks, images.float().mean((2, 3), keepdim=True).round().to(torch.uint8))
    return images.where(masks, torch.tensor(GREY if outside == "grey" else 0, dtype=torch.uint8))
