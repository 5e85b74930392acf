"""Caption-Activation of *Tell me what you see* (section 3.1): a language model reads captions and activations."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch

from milan.describers._shared.llm_explainer import LlmExplainer, NoPairs
from milan.dissection.dissection import ActivationPooling, Dissection
from milan.errors import BadInput
from milan.pretrained.image_captioner import (
    EndpointOptions,
    ImageCaptioner,
    caption_with_cache,
    load_image_captioner,
)
from milan.pretrained.llm_client import NoAnswer
from milan.pretrained.openai_endpoint import find_endpoint
from milan.probes import Probe
from milan.probes.superclasses import format_class_names, known_labels
from milan.scores.prediction_pairs import PredictionPairs, scale_to_integers
from milan.storage.files import content_key
from milan.targets.target import Target
from milan.units import Unit

LABELS = "labels"


class CaptionActivation(LlmExplainer):
    """Asks a language model what a unit detects, from captions of its top-activating images with activations 1 to 10.

    The images are listed weakest first. Only images that are shown are captioned. The unit's largest activation on the
    probe is 10; negative activations count as 0.

    Args:
        captioner: image captioner, as ``milan.pretrained.image_captioner.load_image_captioner`` takes it; ``labels``
            for the names of the images' classes instead of captions.
        shown: maximum number of images in a question; 75 in the paper.
        pooling: how an activation map becomes one number per image.
        shared: options of ``LlmExplainer`` and ``LlmDescriber``.
    """

    name: ClassVar[str] = "caption_activation"
    version: ClassVar[int] = 1

    def __init__(
        self,
        captioner: str = "hf:Salesforce/blip-image-captioning-base",
        shown: int = 75,
        pooling: ActivationPooling = "max",
        **shared: Any,
    ):
        super().__init__(shown=shown, **shared)
        self.captioner, self.pooling = captioner, pooling
        # Captions by dissection and image.
        self._caption_cache: dict[str, dict[int, str]] = {}

    @property
    def key(self) -> str:
        """Content key of the explainer's settings, the captioner and the pooling."""
        captions = LABELS if self._captioner_model is None else self._captioner_model.key
        return content_key(explainer=super().key, captions=captions, pooling=self.pooling)

    def required_models(self) -> dict[str, str]:
        """Return the language model, and the captioner unless class labels stand for captions."""
        return self.specs("llm", *(() if self.captioner == LABELS else ("captioner",)))

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if captions are to be the classes' names and the probe's images have no labels."""
        if self.captioner == LABELS:
            known_labels(probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the language model, and the captioner unless class labels stand for captions."""
        return self.required_models()

    @cached_property
    def _captioner_model(self) -> ImageCaptioner | None:
        endpoint = EndpointOptions(self.base_url, self.llm_options, self.budget)
        return (
            None
            if self.captioner == LABELS
            else load_image_captioner(self.captioner, device=self.device, endpoint=endpoint)
        )

    def image_endpoint(self) -> str:
        """Return the endpoint of the captioner; the language model gets texts only."""
        return find_endpoint(self.captioner, self.base_url)

    def make_pairs(self, dissection: Dissection, unit: Unit) -> PredictionPairs:
        """Return captions of the probe's images with the unit's activations as integers from 0 to 10."""
        values = scale_to_integers(dissection.activations(self.pooling, [unit])[:, 0].numpy())

        def load_captions(places: Sequence[int]) -> list[str]:
            return self._load_captions(dissection, places)

        return PredictionPairs(values, load_captions, self.name, use_strongest=True, strong_share=0.5)

    def _load_captions(self, dissection: Dissection, places: Sequence[int]) -> list[str]:
        """Return captions of images of the probe, each of which is opened once."""
        if dissection.key not in self._caption_cache:
            self._caption_cache = {dissection.key: {}}
        known = self._caption_cache[dissection.key]
        new = [place for place in dict.fromkeys(places) if place not in known]
        if new:
            known |= dict(zip(new, self._caption_images(dissection.open_probe(), new), strict=True))
        return [known[place] for place in places]

    def _caption_images(self, probe: Probe, places: Sequence[int]) -> list[str]:
        if self._captioner_model is not None:
            images = torch.stack([probe.image(place) for place in places])
            captions = caption_with_cache(self._captioner_model, images)
            if failed := [caption for caption in captions if isinstance(caption, NoAnswer)]:
                raise NoPairs(f"{len(failed)} of its images have no caption: {failed[0].reason}")
            return [str(caption) or "nothing" for caption in captions]
        if probe.labels is None:
            raise BadInput(f"the images of {probe.spec} have no labels to use as captions; name a captioner")
        names, labels = format_class_names(probe), known_labels(probe)
        return [names[labels[place]] for place in places]
