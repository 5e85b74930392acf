"""Judges of examples: labels, an image-text model, or a multimodal model behind an endpoint.

A judge rates how well texts fit images or regions of them, and says how alike images are (see
``milan.scores.example_scores``).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milan.console.exemplar_rendering import highlight_masks
from milan.diorama.text_reader import parse_description
from milan.errors import MissingEvidence
from milan.pretrained.chat_images import encode_jpeg
from milan.pretrained.embedder import embed_probe, embed_texts, load_embedder
from milan.pretrained.llm import IMAGE_MARK, Message, Question
from milan.pretrained.llm_client import LlmClient, NoAnswer, load_llm_client
from milan.pretrained.prompts import load_prompt, sanitize_item
from milan.pretrained.reply_parsing import make_integer_parser
from milan.probes import Probe
from milan.probes.pixel_labels import DioramaLabels, shows_diorama

LABELS = "labels"  # the judge that reads the labels of the images
LLM_FAMILIES = ("openai:",)
# What a model is asked to rate where no description is given, to find the image that does not belong.
IN_COMMON = "what most of these pictures have in common"
LLM_IMAGE_SIZE = 256  # longer side in pixels of an image that is sent

Rows = Int[np.ndarray, " n"]
Regions = Bool[Tensor, "n 1 height width"]
Ratings = Float[np.ndarray, "texts n"]


class Judge(ABC):
    """Rates texts on images of a probe.

    Attributes:
        name: as reports call it.
    """

    name: str

    @abstractmethod
    def rate(self, texts: Sequence[str], rows: Rows, regions: Regions | None = None) -> Ratings:
        """Return how well each text fits each image, or its region; larger is better, NaN where there is no answer."""

    @abstractmethod
    def find_intruder(self, rows: Rows) -> int | None:
        """Return the place of the image that belongs least to the others; None where there is no answer."""

    @property
    def likeness(self) -> Float[np.ndarray, "images features"] | None:
        """Vectors of all images, near for images that look alike; None for a judge that has none."""
        return None


class LabelJudge(Judge):
    """Reads a text as Diorama's text reader does: its rating is the mean of what it denotes over the pixels.

    Raises:
        MissingEvidence: the probe's pixels have no such labels.
    """

    name = LABELS

    def __init__(self, probe: Probe):
        if not shows_diorama(probe.spec):
            raise MissingEvidence(
                f"nobody knows what the pixels of {probe.spec} show; set --judge to an image-text model or openai:MODEL"
            )
        self.probe = probe

    @cached_property
    def signatures(self) -> Any:
        """The ``milan.diorama.label_signatures.LabelSignatures`` of the probe's images."""
        return DioramaLabels(self.probe).signatures

    def rate(self, texts: Sequence[str], rows: Rows, regions: Regions | None = None) -> Ratings:
        """Return the mean over the pixels of each image, or region, of the values that a text denotes."""
        pixels = np.asarray(self.signatures.pixels[rows])
        ratings = []
        for text in texts:
            values = self.signatures.text_values(parse_description(text))[pixels]
            inside = np.ones_like(values) if regions is None else regions[:, 0].numpy().astype(np.float64)
            ratings.append((values * inside).sum((1, 2)) / inside.sum((1, 2)))
        return np.stack(ratings)

    def find_intruder(self, rows: Rows) -> int:
        """Return the image whose visible concepts are least like those of the others."""
        table = self.signatures.has_concept
        shares = []
        for row in rows.tolist():
            found, counts = np.unique(np.asarray(self.signatures.pixels[row]), return_counts=True)
            shares.append(np.sqrt(np.asarray(table[found].T @ counts).ravel()))
        vectors = np.stack(shares)
        return find_least_similar(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


class EmbedderJudge(Judge):
    """Rates by the cosine of text and image; of a region, by that of the image inside the region."""

    def __init__(self, spec: str, probe: Probe, device: str = "cpu"):
        self.name, self.probe, self.embedder = spec, probe, load_embedder(spec, device=device)
        self._known: dict[bytes, Tensor] = {}

    @cached_property
    def _vectors(self) -> Float[Tensor, "images features"]:
        return embed_probe(self.embedder, self.probe)

    @property
    def likeness(self) -> Float[np.ndarray, "images features"]:
        """Vectors of all images by the image-text model; zeros for unreadable images."""
        return np.nan_to_num(self._vectors.numpy())

    def rate(self, texts: Sequence[str], rows: Rows, regions: Regions | None = None) -> Ratings:
        """Return the cosines of texts and images, or regions."""
        images = self._vectors[torch.from_numpy(rows)] if regions is None else self._encode_regions(rows, regions)
        return (embed_texts(self.embedder, texts) @ images.T).numpy()

    def find_intruder(self, rows: Rows) -> int:
        """Return the image whose vector is least like those of the others."""
        return find_least_similar(self.likeness[rows])

    def _encode_regions(self, rows: Rows, regions: Regions) -> Float[Tensor, "n features"]:
        """Encode regions once for all describers: they are the same for each."""
        key = rows.tobytes() + np.packbits(regions.numpy()).tobytes()
        if key not in self._known:
            images = torch.stack([self.probe.image(row) for row in rows.tolist()])
            self._known[key] = self.embedder.encode_masked_images(images, regions)
        return self._known[key]


class LlmJudge(Judge):
    """Asks a multimodal model for an integer from 0 to 10 for each image; a region is outlined and the rest dimmed.

    All images of a unit go into one request.
    """

    def __init__(self, spec: str, probe: Probe, base_url: str = "", max_calls: int | None = None, prompts: str = ""):
        self.name, self.probe = spec, probe
        self.client: LlmClient = load_llm_client(spec, base_url=base_url, max_calls=max_calls)
        self.client.require_images()
        self._prompt = load_prompt("detection", prompts)

    def rate(self, texts: Sequence[str], rows: Rows, regions: Regions | None = None) -> Ratings:
        """Return the integers, 0 to 10, that the model answers for each image, or region; NaN without an answer."""
        images = torch.stack([self.probe.image(row) for row in rows.tolist()])
        shown = torch.ones(len(images), 1, *images.shape[-2:], dtype=torch.bool) if regions is None else regions
        files = tuple(encode_jpeg(picture) for picture in highlight_masks(images, shown, LLM_IMAGE_SIZE))
        names = [f"Picture {number}" for number in range(1, len(files) + 1)]
        kind = "The whole pictures count." if regions is None else "Only what is inside the outline counts."
        questions = []
        for text in texts:
            lines = [kind, *(f"{name}:\n{IMAGE_MARK}" for name in names)]
            *start, last = self._prompt.messages(lines, explanation=sanitize_item(text))
            items = tuple((name, 0) for name in names)
            messages = (*start, Message(last.role, last.text, files))
            questions.append(Question(messages, "simulate", items, explanation=text))
        answers = self.client.ask(questions, make_integer_parser(names))
        nothing = np.full(len(files), np.nan)
        return np.stack([nothing if isinstance(each, NoAnswer) else np.array(each, float) for each in answers])

    def find_intruder(self, rows: Rows) -> int | None:
        """Return the image that the model rates lowest for what most of them have in common; None without answers."""
        ratings = self.rate([IN_COMMON], rows)[0]
        return None if np.isnan(ratings).any() else int(ratings.argmin())


def find_least_similar(vectors: Float[np.ndarray, "n features"]) -> int:
    """Return the place of the vector whose mean cosine with the others is least; vectors have length 1.

    >>> find_least_similar(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    2
    """
    similarity = vectors @ vectors.T
    return int(np.argmin(similarity.sum(1) - np.diag(similarity)))


def load_judge(spec: str, probe: Probe, device: str = "cpu", base_url: str = "", max_calls: int | None = None) -> Judge:
    """Load a judge for the images of a probe.

    Args:
        spec: ``labels``, ``openai:MODEL``, or an image-text model as ``milan.pretrained.embedder.load_embedder`` takes
            it.
        probe: the images.
        device: of an image-text model.
        base_url: address of the endpoint.
        max_calls: maximal number of requests to it.

    Raises:
        MissingEvidence: there are no labels.
        UnknownName, BadInput: there is no such model.
    """
    if spec == LABELS:
        return LabelJudge(probe)
    if spec.startswith(LLM_FAMILIES):
        return LlmJudge(spec, probe, base_url, max_calls)
    return EmbedderJudge(spec, probe, device)
