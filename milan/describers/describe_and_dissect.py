"""Describe-and-Dissect (Bai et al.): names proposed by a language model from captions, chosen by painting them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from milan.concepts.concept_sets import load_concept_set
from milan.describers._shared.base import DescriptionFailure
from milan.describers._shared.candidate_selection import (
    CandidateScoring,
    CandidateSelection,
    ScoredCandidate,
    SelectionRequest,
    measure_maps,
    round_or_none,
)
from milan.describers._shared.llm_explainer import LlmDescriber
from milan.dissection.attention_crops import CROPS, Box, crop_and_resize, find_attention_boxes, make_heat_maps
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, require_at_least
from milan.pretrained.embedder import embed_texts, load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.image_captioner import (
    EndpointOptions,
    ImageCaptioner,
    caption_with_cache,
    load_image_captioner,
)
from milan.pretrained.llm import Question
from milan.pretrained.llm_client import NoAnswer
from milan.pretrained.model_sources import Precision
from milan.pretrained.openai_endpoint import find_endpoint
from milan.pretrained.prompts import Prompt, load_prompt, sanitize_item
from milan.pretrained.reply_parsing import make_label_parser
from milan.probes import Probe
from milan.storage.provenance import PHRASES
from milan.targets.preprocessing import as_size
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit

LABEL_WORDS, SIMPLE_WORDS = 10, 20  # at most; asked for are five and a few (released labels have up to 8)
BARE_WORDS = (
    "design",
    "designs",
    "graphic",
    "graphics",
)  # which painters take for a task: "background" is added (released code)
TEMPERATURE = 0.3  # with which the names are sampled (released code)


@dataclass(frozen=True)
class ImageRegion:
    """An image of the probe, or a crop of one, and the activation it causes."""

    image: int  # in the probe
    box: Box | None  # the part of it; None for all
    activation: float
    pixels: UInt8[Tensor, "3 height width"]


@dataclass(frozen=True)
class CandidateNames:
    """Result of step 2: image regions with captions and shorter labels, and candidate names with their counts."""

    regions: tuple[ImageRegion, ...]
    captions: tuple[str, ...]
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    counts: tuple[int, ...]


class DescribeAndDissect(LlmDescriber):
    """Captions a unit's top images, lets a language model propose names, and chooses by painting them.

    (1) Attention crops are cut out of the 10 images that activate a unit most; of images and crops together the 10 that
    activate it most are kept. (2) They are captioned; a language model shortens each caption and names five times what
    they have in common, reading them in another order each time. (3) Ten pictures of each name are painted, at the
    target's own size, and ranked by the activations they cause and by their similarity to the first images.

    Differences of the released code from the paper: it wraps heat maps above 1, shrinks painted pictures to 32 pixels,
    uses only those pictures for Image Products that are among the ten best of all candidates, counts ranks from 0 (so
    that its TopK Squared squares other numbers, and the first factor of the product is larger by 1), and asks a newer
    language model. This implementation follows the paper. The prompts are neither the paper's nor the code's: those of
    the language model, their examples and the painter's are our own wording, which ``prompts`` and ``painting``
    replace.

    Args:
        captioner: image captioner, as ``milan.pretrained.image_captioner.load_image_captioner`` takes it.
        llm: language model: ``openai:MODEL``, ``hf:ID_OR_FOLDER``, ``phrases``, or a custom one; see
            ``milan.pretrained.llm_loading.load_llm``.
        painter: text-to-image model, as ``milan.pretrained.painter.load_painter`` takes it.
        embedder: image-text model that compares pictures and labels, as ``milan.pretrained.embedder.load_embedder``
            takes it; CLIP ViT-B/16 in the paper.
        concepts: concept set, as ``milan.concepts.concept_sets.load_concept_set`` takes it; if not empty, each image is
            named by its nearest concept instead of a caption (section 4.4.1).
        select: whether step 3 is done; without it the most frequent name, the first among equals, is the description.
        scoring: mean, topk_squared, image_products, or topk_squared_image_products (the paper's).
        labels: maximum number of names in the description, joined by ";", of which no two are similar (appendix A.7).
        images: K, number of images and crops that are captioned.
        crops: whether attention crops are cut out; without them the K whole images are captioned (appendix A.4.1).
        count: N, number of names that are asked for.
        pictures: Q, number of pictures of each name.
        painting: prompt of the painter, with {} for the name.
        pooling: how an activation map becomes one number: mean (the paper's), or max.
        base_url: address of an endpoint, as http://localhost:8000/v1; if empty $OPENAI_BASE_URL, else OpenAI's. The key
            is read from $OPENAI_API_KEY.
        max_calls: maximum number of requests, retries included; a unit takes 15, and ten more if the captioner is
            ``openai:MODEL``. None for no limit.
        llm_options: temperature, longest, timeout, workers, tries, pause and others; see
            ``milan.pretrained.llm_client.load_llm_client``.
        prompts: folder with files that replace those of configs/prompts.
        seed: random seed of the order of captions and of the pictures.
        precision: of captioner, painter and embedder.
        device: device of all models.
    """

    name: ClassVar[str] = "describe_and_dissect"
    version: ClassVar[int] = 1
    default_options: ClassVar[Mapping[str, Any]] = {"temperature": TEMPERATURE}
    # Images of a group are captioned and painted together.
    units_per_group: ClassVar[int] = 8

    def __init__(
        self,
        captioner: str = "hf:Salesforce/blip-image-captioning-base",
        llm: str = "openai:gpt-3.5-turbo",
        painter: str = "diffusers:CompVis/stable-diffusion-v1-4",
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        concepts: str | list[str] = "",
        select: bool = True,
        scoring: CandidateScoring = "topk_squared_image_products",
        labels: int = 1,
        images: int = 10,
        crops: bool = True,
        count: int = 5,
        pictures: int = 10,
        painting: str = "a realistic photograph of {}",
        pooling: Literal["mean", "max"] = "mean",
        base_url: str = "",
        max_calls: int | None = 5000,
        llm_options: dict[str, Any] | None = None,
        prompts: str = "",
        seed: int = 0,
        precision: Precision = "float32",
        device: str = "cpu",
    ):
        require_at_least(1, labels=labels, images=images, count=count, pictures=pictures)
        if "{}" not in painting:
            raise BadInput(f"the painting prompt {painting!r} has no {{}} for the name")
        self.captioner, self.llm, self.painter = captioner, llm, painter
        self.embedder, self.concepts = embedder, concepts
        self.select, self.scoring, self.labels = select, scoring, labels
        self.images, self.crops, self.count = images, crops, count
        self.pictures, self.painting, self.pooling = pictures, painting, pooling
        self.base_url, self.max_calls, self.llm_options = base_url, max_calls, llm_options
        self.prompts, self.seed, self.precision, self.device = prompts, seed, precision, device

    @property
    def key(self) -> str:
        """Content key of the models, the prompts and the settings that change answers."""
        names = ("select", "labels", "images", "count", "pooling", "seed")
        seeing = [self.model.key, *self._concept_names] if self.concepts else self._captioner_model.key
        prompts = [prompt.key for prompt in self._loaded_prompts]
        chosen, llm = self.selection.key if self.select else "", self.llm_client.key
        settings = {name: getattr(self, name) for name in names}
        parts: dict[str, Any] = {"seeing": seeing, "llm": llm, "prompts": prompts, "selection": chosen}
        parts["crops"] = CROPS if self.crops else None
        return self.key_of(**parts, **settings)

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded at the first access."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def selection(self) -> CandidateSelection:
        """The selection of the best candidate; the painter is loaded at the first access."""
        return CandidateSelection.from_settings(self, self.model)

    @cached_property
    def _captioner_model(self) -> ImageCaptioner:
        endpoint = EndpointOptions(self.base_url, self.llm_options, self.budget)
        return load_image_captioner(self.captioner, device=self.device, precision=self.precision, endpoint=endpoint)

    @cached_property
    def _concept_names(self) -> list[str]:
        return load_concept_set(self.concepts)

    @cached_property
    def _loaded_prompts(self) -> tuple[Prompt, Prompt]:
        return load_prompt("simplify", self.prompts), load_prompt("summarize", self.prompts)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the models and the concept set that the steps use."""
        return self.required_models()

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the language model, or of the captions or concepts that a program counts in its place."""
        texts = "concepts" if self.concepts else "captions"
        return f"the {texts} that are counted" if self.llm == PHRASES else f"the language model, from {texts}"

    def required_models(self) -> dict[str, str]:
        """Return captioner, or concepts and embedder; the language model; and painter and embedder for step 3."""
        seeing = ("concepts", "embedder") if self.concepts else ("captioner",)
        return self.specs(*seeing, "llm", *(("painter", "embedder") if self.select else ()))

    def image_endpoint(self) -> str:
        """Return the endpoint of the captioner; empty if concepts take the place of captions."""
        return "" if self.concepts else find_endpoint(self.captioner, self.base_url)

    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        target, probe = dissection.open_target(), dissection.open_probe()
        finder = RegionFinder(target, probe, dissection, self.images, self.pooling, self.crops)
        looks = {unit: finder.find(unit) for unit in units}
        found = self._propose_names(looks)
        wishes = [
            SelectionRequest(unit, each.texts, torch.stack([look.pixels for look in each.regions]))
            for unit, each in found.items()
            if isinstance(each, CandidateNames)
        ]
        chosen = self.selection.choose(target, wishes) if self.select else [[] for _ in wishes]
        choices = {wish.unit: each for wish, each in zip(wishes, chosen, strict=True)}
        for unit in units:
            each = found[unit]
            yield each if isinstance(each, DescriptionFailure) else self._make_description(unit, each, choices[unit])

    def _make_description(self, unit: Unit, names: CandidateNames, scored: Sequence[ScoredCandidate]) -> Description:
        seen = [_make_region_facts(*each) for each in zip(names.regions, names.captions, names.labels, strict=True)]
        if not scored:
            ranked = sorted(zip(names.texts, names.counts, strict=True), key=lambda each: -each[1])
            candidates = tuple(Candidate(text, given / self.count) for text, given in ranked)
            return Description(
                unit, candidates[0].text, candidates[0].score, candidates=candidates, reasoning={"seen": seen}
            )
        candidates = self.selection.make_candidates(scored)
        text = "; ".join(self.selection.select_labels(scored, self.labels))
        if self.labels > 1 and text != candidates[0].text:
            candidates = (Candidate(text, candidates[0].score), *candidates)
        reasoning = {"seen": seen, **self.selection.make_reasoning(scored)}
        return Description(unit, text, candidates[0].score, candidates=candidates, reasoning=reasoning)

    def _propose_names(self, regions: dict[Unit, list[ImageRegion]]) -> dict[Unit, CandidateNames | DescriptionFailure]:
        """Step 2 for several units at once."""
        captioned = self._caption_regions(regions)
        captions = {unit: each for unit, each in captioned.items() if not isinstance(each, NoAnswer)}
        labels = self._simplify_captions(captions)
        found: dict[Unit, CandidateNames | DescriptionFailure] = {
            unit: DescriptionFailure(unit, each.reason)
            for unit, each in [*captioned.items(), *labels.items()]
            if isinstance(each, NoAnswer)
        }
        answered = {unit: each for unit, each in labels.items() if not isinstance(each, NoAnswer)}
        questions = {
            unit: [self._make_summary_question(unit, texts, draw) for draw in range(self.count)]
            for unit, texts in answered.items()
        }
        flat = [each for those in questions.values() for each in those]
        answers = iter(self.llm_client.ask(flat, make_label_parser(LABEL_WORDS, self.llm_client.language)))
        for unit, those in questions.items():
            named = [next(answers) for _ in those]
            texts = [clean_candidate(each) for each in named if isinstance(each, str)]
            if not texts:
                found[unit] = DescriptionFailure(
                    unit, next(each.reason for each in named if isinstance(each, NoAnswer))
                )
                continue
            once = tuple(dict.fromkeys(texts))
            found[unit] = CandidateNames(
                tuple(regions[unit]), tuple(captions[unit]), tuple(answered[unit]), once, tuple(map(texts.count, once))
            )
        return {unit: found[unit] for unit in regions}

    def _caption_regions(self, regions: dict[Unit, list[ImageRegion]]) -> dict[Unit, list[str] | NoAnswer]:
        """Return a caption or the nearest concept of each region, empty where the captioner says nothing of it; or why
        a unit has no captions.
        """
        flat = torch.stack([look.pixels for each in regions.values() for look in each])
        if self.concepts:
            nearest = (self.model.encode_images(flat) @ embed_texts(self.model, self._concept_names).T).argmax(1)
            texts: Iterator[str | NoAnswer] = iter([self._concept_names[place] for place in nearest.tolist()])
        else:
            texts = iter(caption_with_cache(self._captioner_model, flat))
        captions = {unit: [next(texts) for _ in each] for unit, each in regions.items()}
        return {
            unit: _find_failure(each) or [sanitize_item(str(text)) for text in each] for unit, each in captions.items()
        }

    def _simplify_captions(self, captions: dict[Unit, list[str]]) -> dict[Unit, list[str] | NoAnswer]:
        """Return a shorter label for each caption; concepts stay as they are."""
        if self.concepts:
            return dict(captions)
        prompt, _ = self._loaded_prompts
        said = [text for texts in captions.values() for text in texts if text]
        questions = [Question(prompt.messages([text]), "simplify", ((text, 0),)) for text in said]
        short = dict(
            zip(
                said,
                self.llm_client.ask(questions, make_label_parser(SIMPLE_WORDS, self.llm_client.language)),
                strict=True,
            )
        )
        found: dict[Unit, list[str] | NoAnswer] = {}
        for unit, texts in captions.items():
            labels = [short[text] if text else "" for text in texts]
            none = NoAnswer("the captioner says nothing of any of its images")
            found[unit] = _find_failure(labels) or ([str(each) for each in labels] if any(labels) else none)
        return found

    def _make_summary_question(self, unit: Unit, labels: Sequence[str], sample_index: int) -> Question:
        """Make the question what the labels have in common, in another order for each sample."""
        shown = [label for label in labels if label]
        rng = np.random.default_rng([self.seed, unit.index, sample_index])
        order = [shown[place] for place in rng.permutation(len(shown))]
        return Question(
            self._loaded_prompts[1].messages(order),
            "summarize",
            tuple((text, 0) for text in order),
            sample_index=sample_index,
        )


def _find_failure(answers: Sequence[str | NoAnswer]) -> NoAnswer | None:
    """Return the first answer that is missing."""
    return next((each for each in answers if isinstance(each, NoAnswer)), None)


@dataclass(frozen=True)
class RegionFinder:
    """Finds the images and attention crops of a layer's units that are captioned (step 1).

    Attributes:
        count: K, number of images and crops.
        pooling: how an activation map becomes one number.
        crops: whether attention crops compete with the whole images.
    """

    target: Target
    probe: Probe
    dissection: Dissection
    count: int
    pooling: Literal["mean", "max"]
    crops: bool = True

    def find(self, unit: Unit) -> list[ImageRegion]:
        """Return the strongest of the images that activate a unit most and of their attention crops.

        Strongest first; ties by image and box.
        """
        column = self.dissection.activations(self.pooling, [unit])[:, 0]
        order = torch.sort(column.nan_to_num(nan=-torch.inf), descending=True, stable=True).indices
        ids = order[: self.count].tolist()
        images = torch.stack([self.probe.image(id) for id in ids])
        values, maps = measure_maps(self.target, [unit], images, self.pooling, len(images))[unit]
        regions = [
            ImageRegion(id, None, float(each), image) for id, each, image in zip(ids, values, images, strict=True)
        ]
        regions += self._find_crops(unit, regions, maps) if self.crops else []
        return sorted(regions, key=lambda region: (-region.activation, region.image, region.box or ()))[: self.count]

    def _find_crops(
        self, unit: Unit, regions: Sequence[ImageRegion], maps: Float[Tensor, "k h w"]
    ) -> list[ImageRegion]:
        heat_maps = make_heat_maps(maps, as_size(regions[0].pixels.shape[-2:]))
        boxes = [
            (region, box) for region, heat in zip(regions, heat_maps, strict=True) for box in find_attention_boxes(heat)
        ]
        if not boxes:
            return []
        parts = torch.stack([crop_and_resize(region.pixels, box) for region, box in boxes])
        values = measure_maps(self.target, [unit], parts, self.pooling, len(regions))[unit][0]
        return [
            ImageRegion(region.image, box, float(value), part)
            for (region, box), value, part in zip(boxes, values, parts, strict=True)
        ]


def _make_region_facts(region: ImageRegion, caption: str, label: str) -> dict[str, Any]:
    """Return an image region as plain values."""
    box = list(region.box) if region.box else None
    return {
        "image": region.image,
        "box": box,
        "activation": round_or_none(region.activation),
        "caption": caption,
        "label": label,
    }


def clean_candidate(text: str) -> str:
    """Return a candidate in lower case, without full stops, and with "background" after a bare "designs".

    >>> clean_candidate("Red."), clean_candidate("Striped designs")
    ('red', 'striped designs background')
    """
    name = " ".join(text.lower().replace(".", "").split())
    return f"{name} background" if name.split()[-1:] and name.split()[-1] in BARE_WORDS else name
