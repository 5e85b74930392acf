"""CLIP-Dissect (Oikarinen & Weng 2023): the concept whose similarity to images goes with the unit's activations."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from milan.concepts.concept_sets import load_concept_set
from milan.describers._shared.base import Describer, select_active
from milan.describers._shared.concept_similarity import (
    CONCEPTS_PER_BLOCK,
    IMAGES_PER_BLOCK,
    PRIOR_WEIGHT,
    TEMPERATURE,
    TOP,
    UNITS_PER_BLOCK,
    average_over_units,
    compute_log_likelihood,
    compute_log_norms,
    compute_soft_log_likelihood,
    cosine,
    cosine_cubed,
    find_ranked_images,
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
from milan.storage.files import cache_folder, new_scratch_array
from milan.units import Candidate, Description, Unit

Similarity = Literal["soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"]
KEPT_CANDIDATES = 10  # candidates stored with a description
BLOCK_VALUES = 2**24  # similarities, or scores of units, that are in memory at a time


class _LayerEvidence(NamedTuple):
    """How well each concept fits some units of a layer, before the prior, and the prior."""

    rows: dict[Unit, int]
    values: Float[Tensor, "units concepts"]
    prior: Float[Tensor, " concepts"]


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

    Similarities are computed for some concepts at a time: 50,000 images, 2,048 units and 20,000 concepts take 0.25 GB
    of memory beside the models and 37 s of processor time on one core after the embeddings, and scores of 164 MB in a
    temporary file in the cache folder (``benchmarks.many_images_describers``).

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
        batch_size: number of units whose activations are in memory at a time; changes no description.
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
        self._cached_layer: tuple[tuple, _LayerEvidence] | None = None

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
        layer = self._load_layer(dissection, active)
        for unit in active:
            yield self._make_description(unit, layer.values[layer.rows[unit]], layer.prior)

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

    def _load_layer(self, dissection: Dissection, units: Sequence[Unit]) -> _LayerEvidence:
        """Return the evidence of units, which is computed once for a dissection if it has a prior over its units."""
        indices, active = self.background_units, dissection.active_units()
        background = active if indices is None else [Unit(dissection.layer, index) for index in indices]
        every = list(dict.fromkeys([*active, *background]))
        chosen = every if self.similarity in TOP else list(units)
        if self._cached_layer is None or self._cached_layer[0] != (dissection.key, chosen):
            # Released first, so that there are never two in memory.
            self._cached_layer = None
            self._cached_layer = (dissection.key, chosen), self._compute_layer(dissection, every, chosen, background)
        return self._cached_layer[1]

    def _compute_layer(
        self, dissection: Dissection, every: list[Unit], units: list[Unit], background: list[Unit]
    ) -> _LayerEvidence:
        if len(background) < 2 and self.similarity in TOP:
            given = ", ".join(map(str, background)) or "none"
            text = f"{dissection.layer}: the prior is over {len(background)} background units ({given}); it says little"
            warnings.warn(text, MilanWarning, stacklevel=2)
        pictures = embed_probe(self.model, dissection.open_probe())
        seen = dissection.has_activations(self.pooling, every) & ~pictures.isnan().any(1)
        texts = embed_texts(self.model, [self.prompt.replace("{}", concept) for concept in self.concept_names])
        pictures = pictures if seen.all() else pictures[seen]

        def load(some: Sequence[Unit]) -> Tensor:
            activations = dissection.activations(self.pooling, some)
            return replace_nonfinite((activations if seen.all() else activations[seen]).float())

        score = self._make_scorer(pictures, texts, load, units)
        rows = {unit: row for row, unit in enumerate(units)}
        among = torch.tensor([rows[unit] for unit in background if unit in rows], dtype=torch.long)
        values = torch.from_numpy(new_scratch_array(cache_folder(), np.float32, (len(units), len(texts))))
        prior = torch.zeros(len(texts))
        blocks = max(1, BLOCK_VALUES // (max(len(pictures), len(units)) * CONCEPTS_PER_BLOCK))
        count = blocks * CONCEPTS_PER_BLOCK
        for begin in range(0, len(texts), count):
            block = score(pictures @ texts[begin : begin + count].T)
            values[:, begin : begin + count] = block
            if self.similarity in TOP:
                prior[begin : begin + count] = average_over_units(block[some] for some in among.split(UNITS_PER_BLOCK))
        return _LayerEvidence(rows, values, prior)

    def _make_scorer(
        self, pictures: Tensor, texts: Tensor, load: Callable[[Sequence[Unit]], Tensor], units: Sequence[Unit]
    ) -> Callable[[Tensor], Tensor]:
        """Return what computes how well concepts fit the units, from the similarities of all images and some concepts.

        Args:
            pictures: embeddings of the images.
            texts: embeddings of all concepts.
            load: returns the activations of some units in these images.
            units: the units.
        """
        batches = [units[begin : begin + self.batch_size] for begin in range(0, len(units), self.batch_size)]
        if self.similarity in TOP:
            count = self._resolve_setting("top", TOP, 1)
            best = torch.cat([find_top_images(load(batch), count) for batch in batches])
            temperature = self._resolved_temperature
            norms = compute_log_norms((rows @ texts.T for rows in pictures.split(IMAGES_PER_BLOCK)), temperature)
            if self.similarity == "wpmi":
                return lambda block: compute_log_likelihood(block, best, temperature, norms)
            surely = make_inclusion(best.shape[1])
            return lambda block: compute_soft_log_likelihood(block, best, surely, temperature, norms)
        if self.similarity == "rank_reorder":
            parts = zip(*(find_ranked_images(load(batch)) for batch in batches), strict=True)
            ranked, strengths = map(torch.cat, parts)
            return lambda block: rank_reorder(block, ranked, strengths)
        compare = cosine_cubed if self.similarity == "cos_similarity_cubed" else cosine
        return lambda block: torch.cat([self._compare(compare, block, load(batch)) for batch in batches])

    def _compare(
        self,
        compare: Callable[[Tensor, Tensor], Tensor],
        similarities: Float[Tensor, "images concepts"],
        activations: Float[Tensor, "images units"],
    ) -> Float[Tensor, "units concepts"]:
        """Return the cosines, always of as many units at once: a product's last digits vary with its shape."""
        units = activations.shape[1]
        together = torch.nn.functional.pad(activations, (0, self.batch_size - units))
        return compare(similarities, together)[:units]

    @property
    def _resolved_temperature(self) -> float:
        return self._resolve_setting("temperature", TEMPERATURE, 1.0)

    def _resolve_setting(self, name: str, published: Mapping[str, Any], other: Any) -> Any:
        """Return a setting, or its published value for the similarity if it is None."""
        given = getattr(self, name)
        return published.get(self.similarity, other) if given is None else given
