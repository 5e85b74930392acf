"""Descriptions by a vision-language model, from a unit's exemplars and from images that do not activate it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from milan.console.exemplar_rendering import highlight_masks
from milan.describers._shared.base import DescriptionFailure
from milan.describers._shared.llm_explainer import LlmDescriber
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, require_at_least
from milan.pretrained.chat_images import encode_jpeg
from milan.pretrained.concept_matcher import CONTRAST
from milan.pretrained.embedder import embed_probe, load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.llm import IMAGE_MARK, Message, Question
from milan.pretrained.llm_client import NoAnswer
from milan.pretrained.model_sources import Precision
from milan.pretrained.openai_endpoint import find_endpoint, is_on_this_machine
from milan.pretrained.prompts import Prompt, load_prompt
from milan.pretrained.reply_parsing import STRUCTURED_SCHEMA, StructuredDescription, make_structured_parser
from milan.probes import Probe
from milan.scores.prediction_pairs import scale_to_integers
from milan.units import Candidate, Description, Exemplars, Unit

View = Literal["outlined", "masked", "cropped"]
VIEW_NOTES: dict[View, str] = {
    "outlined": "The region that activates it is outlined in yellow, and the rest of the picture is dimmed.",
    "masked": "Only the region that activates it is shown, and the rest of the picture is black.",
    "cropped": "Each picture is cropped to the region that activates it.",
}
MAX_WORDS = 30  # of a description
CROP_MARGIN = 0.1  # around the region of view "cropped", as a share of the image's longer side
SIZED_IMAGES = 8  # encoded to estimate how many bytes are sent
BASE64_GROWTH = 4 / 3  # bytes of text for each byte of an image


class Vlm(LlmDescriber):
    """Asks a vision-language model what the exemplars of a unit have in common that other images lack.

    Each unit takes one chat request with up to ``exemplars`` + ``contrast`` images, to any endpoint of OpenAI's
    protocol. The reply is a JSON object: a description with a confidence, alternatives, or that there is nothing in
    common, which counts as no description. Images are sent as JPEG files without names and metadata.

    Args:
        llm: ``openai:MODEL`` with a model that reads images, ``PATH/FILE.py:NAME``, or a stand-in, see
            ``milan.pretrained.llm_loading.load_llm``.
        exemplars: maximal number of exemplars, strongest first.
        view: how exemplars are shown: whole with the region outlined and the rest dimmed, masked or cropped.
        contrast: number of images that do not activate the unit: whose activation is below 5% of the largest on the
            probe and at most the median; the weakest ones where there are too few.
        embedder: image-text model by which the contrast images most like the exemplars are taken, see
            ``milan.pretrained.embedder.load_embedder``; empty for random ones.
        activations: whether each image comes with its activation as an integer from 0 to 10.
        size: longer side of each image in pixels.
        precision: data type of the embedder.
        shared: further options of ``LlmDescriber``. Temperature is 0 and timeout 180 s by default; ``prompts`` is a
            folder with a file vlm.txt; ``seed`` samples contrast images.
    """

    name: ClassVar[str] = "vlm"
    version: ClassVar[int] = 1
    default_options: ClassVar[Mapping[str, Any]] = {"temperature": 0.0, "timeout": 180.0}

    def __init__(
        self,
        llm: str = "openai:gpt-4o",
        exemplars: int = 15,
        view: View = "outlined",
        contrast: int = 5,
        embedder: str = "",
        activations: bool = False,
        size: int = 256,
        precision: Precision = "float32",
        **shared: Any,
    ):
        require_at_least(1, exemplars=exemplars)
        require_at_least(0, contrast=contrast)
        require_at_least(16, size=size)
        super().__init__(llm=llm, **shared)
        self.exemplars, self.view, self.contrast = exemplars, view, contrast
        self.embedder, self.activations, self.size, self.precision = embedder, activations, size, precision

    @property
    def key(self) -> str:
        """Content key of the models, the prompt and the settings that change descriptions."""
        names = ("exemplars", "view", "contrast", "activations", "size", "seed")
        settings = {name: getattr(self, name) for name in names}
        self.llm_client.require_images()
        embedder = self._embedder.key if self._uses_embedder else ""
        return self.key_of(llm=self.llm_client.key, prompt=self._prompt.key, embedder=embedder, **settings)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the language model, and the embedder if contrast images are chosen by it."""
        return self.specs("llm", *(("embedder",) if self._uses_embedder else ()))

    def image_endpoint(self) -> str:
        """Return the endpoint of the vision-language model; empty if it runs in this process."""
        return find_endpoint(self.llm, self.base_url)

    def estimate_requests(self, probe: Probe, units: int, k: int) -> str:
        """Return one request for each unit, with its exemplars and contrast images at their size as JPEG in base64."""
        url = self.image_endpoint()
        if not url:
            return f"no requests: {self.llm} runs in this process"
        requests = units if self.max_calls is None else min(units, self.max_calls)
        images = requests * (min(k, self.exemplars) + self.contrast)
        sizes = [0]
        for index in np.linspace(0, len(probe) - 1, min(SIZED_IMAGES, len(probe))).round().astype(int).tolist():
            with suppress(BadInput):
                sizes.append(len(self._encode_whole(probe.image(index))))
        size = images * BASE64_GROWTH * sum(sizes) / max(1, len(sizes) - 1)
        where = "on this machine" if is_on_this_machine(url) else "not on this machine"
        return (
            f"at most {requests:,} requests with {images:,} images, about {size / 1e6:,.1f} MB, to {self.llm} at {url}"
            f" ({where}); repeated requests not counted"
        )

    @cached_property
    def _embedder(self) -> Embedder:
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def _prompt(self) -> Prompt:
        return load_prompt(self.name, self.prompts)

    @property
    def _uses_embedder(self) -> bool:
        return bool(self.embedder) and self.contrast > 0

    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit]
    ) -> Iterator[Description | DescriptionFailure]:
        vectors = embed_probe(self._embedder, dissection.open_probe()) if self._uses_embedder else None
        shown = [self._select_images(dissection, unit, vectors) for unit in units]
        questions = [
            self._make_question(dissection, exemplars, contrast, integers) for exemplars, contrast, integers in shown
        ]
        parse = make_structured_parser(MAX_WORDS, self.llm_client.language)
        for (exemplars, contrast, _), answer in zip(shown, self.llm_client.ask(questions, parse), strict=True):
            yield self._make_description(exemplars, contrast, answer)

    def _make_description(
        self, exemplars: Exemplars, contrast: Sequence[int], answer: StructuredDescription | NoAnswer
    ) -> Description | DescriptionFailure:
        if isinstance(answer, NoAnswer):
            return DescriptionFailure(exemplars.unit, answer.reason)
        if not answer.candidates:
            return DescriptionFailure(exemplars.unit, f"{self.llm} finds nothing in common in its exemplars")
        candidates = tuple(Candidate(text, confidence) for text, confidence in answer.candidates)
        reasoning = {"exemplars": exemplars.ids.tolist(), "contrast": list(contrast)}
        return Description(
            exemplars.unit, candidates[0].text, candidates[0].score, candidates=candidates, reasoning=reasoning
        )

    def _select_images(
        self, dissection: Dissection, unit: Unit, vectors: Float[Tensor, "images features"] | None
    ) -> tuple[Exemplars, list[int], list[int]]:
        """Return the exemplars, the contrast images as rows of the probe, and the activations of both as integers."""
        every = dissection.exemplars(unit)
        fields = (each[: self.exemplars] for each in (every.images, every.masks, every.activations, every.ids))
        exemplars = Exemplars(unit, *fields)
        integers = scale_to_integers(exemplars.activations.numpy()).tolist()
        if not self.contrast:
            return exemplars, [], integers
        values = dissection.activations("max", [unit])[:, 0].numpy()
        if vectors is None:
            likeness = np.random.default_rng([self.seed, unit.index]).random(len(values))
        else:
            likeness = (vectors @ vectors[exemplars.ids].mean(0)).numpy()
        contrast = select_contrast(values, every.ids.tolist(), likeness, self.contrast)
        return exemplars, contrast, integers + scale_to_integers(values)[contrast].tolist()

    def _make_question(
        self, dissection: Dissection, exemplars: Exemplars, contrast: Sequence[int], integers: Sequence[int]
    ) -> Question:
        files = [encode_jpeg(picture) for picture in render_exemplars(exemplars, self.view, self.size)]
        count = len(files)
        probe = dissection.open_probe() if contrast else None
        files += [self._encode_whole(probe.image(row)) for row in contrast] if probe else []
        lines = [f"{count} pictures that activate the unit, the strongest first. {VIEW_NOTES[self.view]}"]
        for number, value in enumerate(integers):
            if number == count:
                lines.append(f"{len(contrast)} contrast pictures, which do not activate it.")
            kind = f"Picture {number + 1}" if number < count else f"Contrast picture {number + 1 - count}"
            activation = f" (activation {value})" if self.activations else ""
            lines.append(f"{kind}{activation}:\n{IMAGE_MARK}")
        *start, last = self._prompt.messages(lines, unit=str(exemplars.unit.index))
        kinds = ["exemplar"] * count + [CONTRAST] * len(contrast)
        return Question(
            (*start, Message(last.role, last.text, tuple(files))),
            "describe",
            tuple(zip(kinds, integers, strict=True)),
            schema=STRUCTURED_SCHEMA,
        )

    def _encode_whole(self, image: UInt8[Tensor, "3 height width"]) -> bytes:
        whole = torch.ones(1, 1, *image.shape[-2:], dtype=torch.bool)
        return encode_jpeg(highlight_masks(image[None], whole, self.size)[0])


def render_exemplars(exemplars: Exemplars, view: View, size: int) -> list[UInt8[np.ndarray, "rows columns 3"]]:
    """Return the exemplars as pictures whose longer side has ``size`` pixels, strongest first."""
    images, masks = exemplars.images, exemplars.masks
    if view == "outlined":
        return list(highlight_masks(images, masks, size))
    if view == "masked":
        return list(highlight_masks(images * masks, torch.ones_like(masks), size))
    crops = [_crop(image, mask[0]) for image, mask in zip(images, masks, strict=True)]
    whole = [torch.ones(1, 1, *crop.shape[-2:], dtype=torch.bool) for crop in crops]
    return [highlight_masks(crop[None], mask, size)[0] for crop, mask in zip(crops, whole, strict=True)]


def select_contrast(
    activations: Float[np.ndarray, " images"],
    exemplars: Sequence[int],
    likeness: Float[np.ndarray, " images"],
    count: int,
) -> list[int]:
    """Return the rows of images that do not activate a unit, those with the largest likeness first.

    >>> values = np.array([9.0, 0.1, 0.0, 0.0, 5.0, np.nan])
    >>> select_contrast(values, [0], np.array([0.9, 0.2, 0.1, 0.3, 0.8, 0.9]), 2)
    [3, 2]

    Args:
        activations: activation of each image; NaN for images that could not be read.
        exemplars: rows of the exemplars, which are never taken.
        likeness: what the choice is ordered by; ties go to the earlier row.
        count: number of images, or fewer where the probe has no more.
    """
    usable = np.isfinite(activations)
    usable[list(exemplars)] = False
    rows = np.flatnonzero(usable)
    if not len(rows):
        return []
    inactive = (scale_to_integers(activations)[rows] == 0) & (activations[rows] <= np.median(activations[rows]))
    weakest = rows[np.argsort(activations[rows], kind="stable")[:count]]
    pool = rows[inactive] if inactive.sum() >= count else np.sort(weakest)
    order = np.argsort(-np.nan_to_num(likeness[pool], nan=-np.inf), kind="stable")
    return pool[order[:count]].tolist()


def _crop(
    image: UInt8[Tensor, "3 height width"], mask: Bool[Tensor, "height width"]
) -> UInt8[Tensor, "3 rows columns"]:
    """Return the image around the mask's bounding box."""
    margin = round(CROP_MARGIN * max(mask.shape))
    (top, bottom), (left, right) = (_find_extent(mask.any(axis), margin) for axis in (1, 0))
    return image[:, top:bottom, left:right]


def _find_extent(inside: Bool[Tensor, " side"], margin: int) -> tuple[int, int]:
    places: Int[Tensor, " n"] = inside.nonzero()[:, 0]
    return max(0, int(places[0]) - margin), min(len(inside), int(places[-1]) + 1 + margin)
