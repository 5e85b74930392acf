"""MILAN (Hernandez et al. 2022, section 3): the text with the highest PMI with a unit's masked exemplars."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from milan.describers._shared.base import Describer, DescriptionRequest, select_active
from milan.describers._shared.clip_reranking import ClipReranker
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, require_at_least
from milan.models import Captioner, Encoder, Prior, build_encoder, load_encoder
from milan.models.decoding import (
    DecodedTexts,
    DecoderState,
    ScoreMixture,
    TokenConstraints,
    beam_search,
    check_search,
    sample_texts,
)
from milan.models.exemplar_features import encode_exemplars
from milan.models.model_files import load_weights
from milan.models.released_checkpoint import ReleasedModels, load_released_checkpoint, read_released_prior
from milan.models.reranking import RankedTexts, rank_texts
from milan.pretrained.embedder import load_embedder
from milan.pretrained.milan_release import is_released
from milan.pretrained.stand_ins import STAND_IN, locate_milan_model
from milan.targets.target import Target
from milan.units import Description, Unit

Strategy = Literal["rerank", "beam", "greedy", "sample", "pmi", "clip"]
KEPT_CANDIDATES = 50  # candidates kept with a description


class MilanModels(NamedTuple):
    """The models that describe together."""

    captioner: Captioner
    prior: Prior | None
    encoder: Encoder


class Milan(Describer):
    """Describes a unit by the text of highest pointwise mutual information with its masked exemplars.

    A captioner trained on annotators' descriptions finds likely texts d for the exemplars E; the description maximizes
    log p(d|E) - λ log p(d). Each candidate keeps its log p(d|E), log p(d) and PMI; ``score`` is the value that it was
    chosen by.

    Strategies:
        - ``rerank``: MILAN's own, a beam of likely texts reranked by PMI.
        - ``beam``: the likeliest text of the same beam (the p(d|E) baseline).
        - ``greedy``: the likeliest word at each step.
        - ``sample``: a random text.
        - ``pmi``: a search by PMI word by word, as the 2022 code does for its ``beam``.
        - ``clip``: the ``+clip`` models of the release. The candidates of ``pmi`` are reranked by an image-text model:
          (1 - w) Σ cos(text, masked exemplar) + w Σ cos(text, whole exemplar), w being ``clip_weight``. At w = 1, which
          the release uses, masks have no effect; the default of its class is 0.5.

    Args:
        captioner: ``released:NAME`` (a model of the 2022 release, downloaded the first time: base, cls, gen, imagenet,
            places365, alexnet, resnet152, biggan), a checkpoint file of 2022, a folder that ``train.py`` wrote, a hub
            id, or the name of a stand-in.
        prior: a folder, a hub id, a checkpoint, or the ``lm.pth`` of the 2022 code; None for the one that belongs to
            the captioner; empty for none, which suffices for ``beam``, ``greedy`` and ``sample``.
        encoder: spec of the frozen encoder, if not the one that the captioner names.
        encoder_weights: its weights, if not its own.
        strategy: how the text is found.
        beam: number of texts kept at each step.
        steps: number of words at most, including the end of the text.
        prior_weight: λ.
        temperature: softmax temperature of ``sample``.
        seed: random seed of ``sample``.
        as_released: decode as the 2022 code does: special words and the empty text are possible, and the prior counts a
            token past the end.
        embedder: image-text model of ``clip``, as ``milan.pretrained.embedder.load_embedder`` takes it.
        clip_weight: weight of the whole exemplars in ``clip``, 0..1.
        batch_size: number of units that are searched for together; changes no description.
        device: device of all models.
    """

    name: ClassVar[str] = "milan"
    version: ClassVar[int] = 2
    words = "the annotators whose descriptions the captioner was trained on"

    def __init__(
        self,
        captioner: str = "released:base",
        prior: str | None = None,
        encoder: str = "",
        encoder_weights: str = "",
        strategy: Strategy = "rerank",
        beam: int = 50,
        steps: int = 15,
        prior_weight: float = 0.2,
        temperature: float = 1.0,
        seed: int = 0,
        as_released: bool = False,
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        clip_weight: float = 1.0,
        batch_size: int = 32,
        device: str = "cpu",
    ):
        check_search(beam, steps, temperature)
        require_at_least(1, batch_size=batch_size)
        if not 0 <= clip_weight <= 1:
            raise BadInput(f"clip_weight is {clip_weight}; give a number from 0 to 1")
        self.embedder, self.clip_weight = embedder, clip_weight
        self.captioner, self.prior, self.encoder, self.encoder_weights = captioner, prior, encoder, encoder_weights
        self.strategy, self.beam, self.steps, self.prior_weight = strategy, beam, steps, prior_weight
        self.temperature, self.seed, self.as_released = temperature, seed, as_released
        self.batch_size, self.device = batch_size, device
        # By dissection's key and unit: encoded by ``prepare`` and not yet described.
        self._features: dict[str, dict[Unit, Float[np.ndarray, "k features"]]] = {}

    @classmethod
    def from_released(cls, file: str | Path, **settings: Any) -> "Milan":
        """Load MILAN from a 2022 checkpoint, decoding as the 2022 code does; nothing in the file is executed.

        Strategy, beam, length and λ are those of the file unless given. A file without a prior, as of ``--no-lm`` in
        2022, is decoded by likelihood.
        """
        released = load_released_checkpoint(file)
        prior = str(file) if released.prior else ""
        own: dict[str, Any] = {"captioner": str(file), "prior": prior, "as_released": True}
        own |= {"strategy": released.strategy, "beam": released.beam, "steps": released.steps}
        own |= {"prior_weight": released.prior_weight}
        describer = cls(**own | settings)
        describer._released_models = released
        return describer

    @property
    def key(self) -> str:
        """Content key of the settings that change descriptions, and of all weights."""
        models, places = self.models, ("batch_size", "device", "captioner", "prior", "encoder", "encoder_weights")
        places = (*places, "embedder", *(() if self.strategy == "clip" else ("clip_weight",)))
        settings = {name: value for name, value in self.settings.items() if name not in places}
        prior = models.prior.fingerprint if models.prior else ""
        weights = [models.captioner.fingerprint, prior, models.encoder.key]
        weights += [self.reranker.embedder.key] if self.strategy == "clip" else []
        return self.key_of(weights=weights, **settings)

    @cached_property
    def reranker(self) -> ClipReranker:
        """The image-text model of ``clip``, loaded at the first access."""
        return ClipReranker(load_embedder(self.embedder, device=self.device), self.clip_weight)

    @cached_property
    def _released_models(self) -> ReleasedModels:
        return load_released_checkpoint(self.captioner)

    @cached_property
    def models(self) -> MilanModels:
        """Captioner, prior and encoder, loaded at the first access."""
        captioner = (
            self._released_models.captioner
            if _is_checkpoint(self.captioner)
            else Captioner.from_pretrained(locate_milan_model(self.captioner, "captioner"))
        )
        prior = self._load_prior()
        if prior and prior.vocabulary != captioner.vocabulary:
            differing = sorted(set(prior.vocabulary.words) ^ set(captioner.vocabulary.words))
            raise BadInput(
                f"the prior {self._prior_spec} and the captioner {self.captioner} have different vocabularies"
                f" ({len(differing)} words differ: {', '.join(differing[:5]) or 'their order'}); use two that were"
                " trained together"
            )
        prior = prior.to(self.device).eval() if prior else None
        return MilanModels(captioner.to(self.device).eval(), prior, self._load_encoder(captioner))

    @property
    def _prior_spec(self) -> str:
        """The prior by its spec; that of the captioner unless another was given."""
        if self.prior is not None:
            return self.prior
        return self.captioner if _is_checkpoint(self.captioner) or self.captioner == STAND_IN else ""

    def _load_prior(self) -> Prior | None:
        spec = self._prior_spec
        if spec == self.captioner and _is_checkpoint(spec):
            prior = self._released_models.prior
        elif _is_checkpoint(spec):
            prior = read_released_prior(spec)
        else:
            prior = Prior.from_pretrained(locate_milan_model(spec, "prior")) if spec else None
        if prior is None and self.strategy in ("rerank", "pmi"):
            found = f"strategy {self.strategy} needs a prior, and {spec or self.captioner} holds none"
            raise BadInput(f"{found}; give prior=FOLDER_OR_FILE, or strategy=beam")
        return prior

    def _load_encoder(self, captioner: Captioner) -> Encoder:
        if _is_checkpoint(self.captioner) and not self.encoder:
            return _load_released_encoder(self._released_models, self.device)
        settings: dict[str, Any] = dict(captioner.encoder)
        if self.encoder:
            settings |= {"spec": self.encoder}
        if self.encoder_weights:
            settings |= {"weights": self.encoder_weights}
        if "spec" not in settings:
            raise BadInput(
                f"the captioner {self.captioner} does not say what encoder it was trained with; give encoder=SPEC"
            )
        return load_encoder(**settings, device=self.device)

    def required_models(self) -> dict[str, str]:
        """Return captioner and prior, and the embedder if it reranks."""
        return self.specs("captioner", "prior", *(("embedder",) if self.strategy == "clip" else ()))

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the models by their specs, and the annotations that the captioner was trained on, if known."""
        captioner = self.models.captioner
        data = getattr(captioner, "trained_on", {}).get("data", ())
        annotations = data if isinstance(data, str) else ", ".join(map(str, data))
        encoder = self.encoder or str(captioner.encoder.get("spec", ""))
        if not annotations and is_released(self.captioner):
            annotations = "MILANNOTATIONS"
        found = {"captioner": self.captioner, "prior": self._prior_spec, "encoder": encoder, "annotations": annotations}
        found |= self.specs("embedder") if self.strategy == "clip" else {}
        return {role: spec for role, spec in found.items() if spec}

    def prepare(self, requests: Sequence[DescriptionRequest]) -> None:
        """Encode the exemplars of all layers; each distinct image is encoded once."""
        active = [(dissection, select_active(dissection, units)) for dissection, units in requests]
        encoded = encode_exemplars(self.models.encoder, active)
        for (dissection, units), features in zip(active, encoded, strict=True):
            self._features.setdefault(dissection.key, {}).update(zip(units, features, strict=True))

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description]:
        """Yield descriptions in batches of units with the same number of exemplars."""
        active = select_active(dissection, units)
        if not self._features.get(dissection.key, {}).keys() >= set(active):
            self.prepare([(dissection, active)])
        features = self._features.pop(dissection.key, {})
        for begin in range(0, len(active), self.batch_size):
            batch = active[begin : begin + self.batch_size]
            # The units of one search have the same number of exemplars.
            for _, group in groupby(batch, key=lambda unit: len(features[unit])):
                alike = list(group)
                stacked = torch.from_numpy(np.stack([features[unit] for unit in alike]))
                yield from self._describe_group(dissection, alike, stacked)

    def _describe_group(
        self, dissection: Dissection, units: Sequence[Unit], features: Float[Tensor, "units k features"]
    ) -> Iterator[Description]:
        found = self.search(features, units)
        for index, unit in enumerate(units):
            candidates = found.make_candidates(index, self.models.captioner.vocabulary)[:KEPT_CANDIDATES]
            if self.strategy == "clip":
                candidates = self.reranker.rank(dissection.exemplars(unit), candidates)
            yield Description(unit, candidates[0].text, candidates[0].score, candidates=candidates)

    @torch.no_grad()
    def search(self, features: Float[Tensor, "units k features"], units: Sequence[Unit] = ()) -> RankedTexts:
        """Return texts for units' features with their scores, best first; ``units`` seed the strategy ``sample``."""
        captioner, prior, _ = self.models
        found = self._decode(features.to(self.device), units)
        # Of these strategies the scores of the search are the likelihood itself.
        exact = self.strategy in ("rerank", "beam", "greedy")
        likelihood = found.scores if exact else captioner.score(features.to(self.device), found.tokens)
        by = {"rerank": "pmi", "pmi": "found", "clip": "found"}.get(self.strategy, "likelihood")
        unknown = torch.full_like(likelihood, torch.nan)
        of_prior = prior.score(found.tokens, trailing=self.as_released) if prior else unknown
        return rank_texts(found, likelihood, of_prior, weight=self.prior_weight, by=by)

    def _decode(self, features: Float[Tensor, "units k features"], units: Sequence[Unit]) -> DecodedTexts:
        captioner, prior, _ = self.models
        constraints = TokenConstraints(captioner.vocabulary, self.as_released)
        state = cast(DecoderState, captioner.start_decoding(features))
        if self.strategy == "sample":
            return sample_texts(
                state,
                constraints,
                self._draw_uniforms(units, len(features)).to(self.device),
                temperature=self.temperature,
            )
        if self.strategy in ("pmi", "clip") and prior:
            state = ScoreMixture([(1.0, state), (-self.prior_weight, prior.start_decoding(len(features)))])
        return beam_search(
            state, len(features), constraints, beam=1 if self.strategy == "greedy" else self.beam, steps=self.steps
        )

    def _draw_uniforms(self, units: Sequence[Unit], count: int) -> Float[Tensor, "units steps"]:
        """Return uniform samples that depend on each unit's name alone."""
        names = [str(unit) for unit in units] or [str(index) for index in range(count)]
        seeds = [int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7], "big") for name in names]
        return torch.stack([torch.rand(self.steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _is_checkpoint(source: str) -> bool:
    """Return whether a spec names a file of the 2022 release."""
    return is_released(source) or Path(source).is_file() or source.endswith((".pth", ".pth.gz", ".pt"))


def _load_released_encoder(released: ReleasedModels, device: str) -> Encoder:
    """Return the encoder with the weights of the checkpoint."""
    import torchvision

    model = torchvision.models.get_model(released.encoder, weights=None)
    load_weights(model, released.encoder_weights, f"the encoder {released.encoder} of the checkpoint")
    return build_encoder(Target(model.eval(), name=f"torchvision:{released.encoder}", image_size=224, device=device))
