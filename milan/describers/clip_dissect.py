"""CLIP-Dissect (Oikarinen & Weng 2023): the concept whose similarity to images goes with the unit's activations."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from milan.concepts.concept_sets import load_concept_set
from milan.describers._shared.base import Describer, select_active
from milan.describers._shared.concept_similarity import (
    PRIOR_WEIGHT,
    TEMPERATURE,
    TOP,
    average_over_units,
    compute_log_likelihood,
    compute_soft_log_likelihood,
    cosine,
    cosine_cubed,
    find_top_images,
    make_inclusion,
    rank_reorder,
    replace_nonfinite,
)
from milan.dissection.dissection import ActivationPooling, Dissection
from milan.errors import BadInput, MilanWarning, require_at_least
from milan.pretrained.embedder import embed_probe, embed_texts, load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.model_sources import Precision
from milan.units import Candidate, Description, Unit

Similarity = Literal["soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"]
KEPT_CANDIDATES = 10  # candidates stored with a description


class _LayerEvidence(NamedTuple):
    """What is computed once for all units of a layer."""

    similarities: Tensor  # images concepts
    load: Callable[[Sequence[Unit]], Tensor]  # activations of units in these images
    prior: Tensor  # concepts


class ClipDissect(Describer):
    """Chooses the concept whose similarity to images, by an image-text model, goes with the unit's activations.

    ``soft_wpmi`` is the best of the paper's similarity functions: how likely a concept is for the images that activate
    the unit most, relative to how likely it is for those of the layer's units in general. The released code takes "in
    general" over the units that are dissected together, so that a single unit scores 0 for every concept; here it is
    over ``background_units``, by default the whole layer, so that a description does not depend on which other units
    are described. Scores compare concepts of one unit and grow as the concept set shrinks; the part ``deviations`` of a
    candidate is its distance from the unit's mean concept in standard deviations.

    Differences from the released code: the baseline of rank_reorder is the exact mean over all orders, not over five
    random ones; soft_wpmi adds no 1e-7 inside the logarithm; ties between images go by their index. Unreadable images
    are left out.

    Args:
        similarity: soft_wpmi, wpmi, rank_reorder, cos_similarity, or cos_similarity_cubed (in the released code, not in
            the paper).
        concepts: concept set, as ``milan.concepts.concept_sets.load_concept_set`` takes it.
        embedder: image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        prompt: text that a concept is put into, with {} for the concept; the released code takes the bare concept.
        pooling: how an activation map becomes one number per image: mean (published), max, cls or tokens.
        background_units: indices of the units over which the prior of soft_wpmi and wpmi is taken; None for all active
            units of the layer.
        top: number of top-activating images; None for 100 (soft_wpmi) or 28 (wpmi), or all if there are fewer.
        temperature: factor of the similarity before the softmax over concepts; None for the published 10 (soft_wpmi) or
            2 (wpmi).
        prior_weight: λ; None for 1 (soft_wpmi) or 0.6 (wpmi).
        spacy_model: spaCy pipeline that finds phrases if ``concepts`` is a harvest.
        precision: of the image-text model.
        batch_size: number of units that are scored together; changes no description.
        device: device of the image-text model.
    """

    name: ClassVar[str] = "clip_dissect"
    version: ClassVar[int] = 1
    words = "the concept set"

    def __init__(
        self,
        similarity: Similarity = "soft_wpmi",
        concepts: str | list[str] = "20k",
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        prompt: str = "{}",
        pooling: ActivationPooling = "mean",
        background_units: list[int] | None = None,
        top: int | None = None,
        temperature: float | None = None,
        prior_weight: float | None = None,
        spacy_model: str = "lexicon",
        precision: Precision = "float32",
        batch_size: int = 256,
        device: str = "cpu",
    ):
        require_at_least(1, batch_size=batch_size)
        if "{}" not in prompt:
            raise BadInput(f"the prompt {prompt!r} has no {{}} for the concept")
        self.similarity, self.concepts, self.embedder, self.prompt, self.pooling = (
            similarity,
            concepts,
            embedder,
            prompt,
            pooling,
        )
        self.background_units, self.top, self.temperature, self.prior_weight = (
            background_units,
            top,
            temperature,
            prior_weight,
        )
        self.spacy_model, self.precision, self.batch_size, self.device = spacy_model, precision, batch_size, device
        self._cached_layer: tuple[str, _LayerEvidence] | None = None

    @property
    def key(self) -> str:
        """Content key of the settings that change answers, of the concepts themselves and of the image-text model."""
        places = ("batch_size", "device", "concepts", "embedder", "precision", "spacy_model")
        settings = {name: value for name, value in self.settings.items() if name not in places} | {
            "temperature": self._resolved_temperature
        }
        return self.key_of(choices=self.concept_names, model=self.model.key, **settings)

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded when first used."""
        return load_embedder(self.embedder, device=self.device, precision=self.precision)

    @cached_property
    def concept_names(self) -> list[str]:
        """The concepts without duplicates."""
        return load_concept_set(self.concepts, spacy_model=self.spacy_model)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield the concept whose similarity to the probe's images matches each unit's activations best."""
        active = select_active(dissection, units)
        if not active:
            return
        layer = self._load_layer(dissection)
        for begin in range(0, len(active), self.batch_size):
            batch = active[begin : begin + self.batch_size]
            evidence = self._compute_evidence(layer, batch)
            for unit, row in zip(batch, evidence, strict=True):
                yield self._make_description(unit, row, layer.prior)

    def _make_description(
        self, unit: Unit, evidence: Float[Tensor, " concepts"], prior: Float[Tensor, " concepts"]
    ) -> Description:
        scores = evidence - self._resolve_setting("prior_weight", PRIOR_WEIGHT, 0.0) * prior
        spread = float(scores.std(correction=0)) or 1.0
        best = torch.sort(scores, descending=True, stable=True).indices[:KEPT_CANDIDATES].tolist()
        candidates = []
        for place in best:
            score = float(scores[place])
            parts = (("deviations", (score - float(scores.mean())) / spread),)
            if self.similarity in TOP:
                parts += (("likelihood", float(evidence[place])), ("prior", float(prior[place])))  # type: ignore[assignment]
            candidates.append(Candidate(self.concept_names[place], score, parts))
        return Description(unit, candidates[0].text, candidates[0].score, candidates=tuple(candidates))

    def _load_layer(self, dissection: Dissection) -> _LayerEvidence:
        """Return the layer's evidence, which is computed once per dissection."""
        if self._cached_layer is None or self._cached_layer[0] != dissection.key:
            self._cached_layer = dissection.key, self._compute_layer(dissection)
        return self._cached_layer[1]

    def _compute_layer(self, dissection: Dissection) -> _LayerEvidence:
        background = self._select_background(dissection)
        units = list(dict.fromkeys([*dissection.active_units(), *background]))
        active = dissection.has_activations(self.pooling, units)
        pictures = embed_probe(self.model, dissection.open_probe())
        seen = active & ~pictures.isnan().any(1)
        texts = embed_texts(self.model, [self.prompt.replace("{}", concept) for concept in self.concept_names])
        layer = _LayerEvidence(
            pictures[seen] @ texts.T,
            lambda some: replace_nonfinite(dissection.activations(self.pooling, some)[seen].float()),
            texts[:, 0] * 0,
        )
        if self.similarity not in TOP:
            return layer
        parts = (
            self._compute_evidence(layer, background[begin : begin + self.batch_size])
            for begin in range(0, len(background), self.batch_size)
        )
        return layer._replace(prior=average_over_units(parts))

    def _select_background(self, dissection: Dissection) -> list[Unit]:
        indices = self.background_units
        found = dissection.active_units() if indices is None else [Unit(dissection.layer, index) for index in indices]
        if len(found) < 2 and self.similarity in TOP:
            given = ", ".join(map(str, found)) or "none"
            text = f"{dissection.layer}: the prior is over {len(found)} background units ({given}); it says little"
            warnings.warn(text, MilanWarning, stacklevel=2)
        return found

    def _compute_evidence(self, layer: _LayerEvidence, units: Sequence[Unit]) -> Float[Tensor, "units concepts"]:
        """Return how well each concept fits each unit, before the prior."""
        activations = layer.load(units)
        if self.similarity in TOP:
            best = find_top_images(activations, self._resolve_setting("top", TOP, 1))
            temperature = self._resolved_temperature
            if self.similarity == "wpmi":
                return compute_log_likelihood(layer.similarities, best, temperature)
            return compute_soft_log_likelihood(layer.similarities, best, make_inclusion(best.shape[1]), temperature)
        if self.similarity == "rank_reorder":
            return rank_reorder(layer.similarities, activations)
        # Always as many at once: a product's last digits vary with its shape.
        together = torch.zeros(len(activations), max(self.batch_size, len(units)))
        together[:, : len(units)] = activations
        return (cosine_cubed if self.similarity == "cos_similarity_cubed" else cosine)(layer.similarities, together)[
            : len(units)
        ]

    @property
    def _resolved_temperature(self) -> float:
        return self._resolve_setting("temperature", TEMPERATURE, 1.0)

    def _resolve_setting(self, name: str, published: Mapping[str, Any], other: Any) -> Any:
        """Return a setting, or its published value for the similarity if it is None."""
        given = getattr(self, name)
        return published.get(self.similarity, other) if given is None else given
