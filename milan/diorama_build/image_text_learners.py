"""The losses by which the stand-ins for image-text models are trained."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, normalize, softplus

from milan.diorama.label_signatures import KIND_SIZES
from milan.diorama.scene_concepts import list_concepts
from milan.diorama.scene_vocabulary import COLOURS, PATTERNS, THINGS
from milan.diorama_build.image_text_batches import ImageTextBatch, ImageTextBatches
from milan.diorama_build.image_text_configs import CONTEXT_LENGTH, FEATURES, MEAN, STD, ImageTextConfig
from milan.diorama_build.vision_encoder_training import PLACED_KINDS, list_matrices

CALIBRATION_BATCHES = 24  # batches on which a SigLIP's scale and bias are fitted at the end
NAMING_SHARE = 0.45  # share of the CLIP's training, at its beginning, that uses the naming loss alone


class ImageTextLearner(nn.Module):
    """A CLIP of open_clip with its losses, and with heads for concepts that are used in training only.

    Attributes:
        naming_share: share of the training, at its beginning, that uses the naming loss alone.
    """

    naming_share = NAMING_SHARE

    def __init__(self, model: nn.Module, tokenizer: Any, config: ImageTextConfig):
        super().__init__()
        self.model, self.tokenizer, self.plan = model, tokenizer, config
        self.is_siglip = config.family == "transformers"
        width = config.vision["hidden_size"] if self.is_siglip else config.vision["width"] * 8
        numbers = {concept.name: number for number, concept in enumerate(list_concepts())}
        self.things = [numbers[name] for name in THINGS]
        self.names = nn.Linear(FEATURES if not self.is_siglip else width, len(list_concepts()))
        self.looks = nn.Linear(self.names.in_features, len(COLOURS) + len(PATTERNS))
        self._maps: Tensor | None = None
        if not self.is_siglip:
            self.heads = nn.ModuleList([nn.Conv2d(width, KIND_SIZES[kind], 1) for kind in PLACED_KINDS])
            tower: Any = model.visual
            tower.layer2.register_forward_hook(lambda _, __, maps: setattr(self, "_maps", maps))

    def forward(self, batch: ImageTextBatch) -> Tensor:
        """Return the loss of a batch: naming of concepts plus matching of images and texts."""
        pictures, loss = self._encode_pictures(batch)
        return loss + self._matching_loss(pictures @ self._encode_texts(batch.texts).T, batch)

    def naming_loss(self, batch: ImageTextBatch) -> Tensor:
        """Return the loss of naming alone, which needs no text tower and trains the image tower faster."""
        return self._encode_pictures(batch)[1]

    def _encode_pictures(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        """Return the images' unit vectors and their naming loss, with that of the labels at each place."""
        with torch.autocast("cpu", torch.bfloat16):
            pictures, maps = self._encode_images(_normalize(batch))
            place_loss = self._place_loss(maps, batch.place_labels.long())
        pictures = normalize(pictures.float(), dim=1)
        return pictures, place_loss + self._naming_loss(pictures, batch)

    def _place_loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of the labels of each kind, predicted from the maps at each place."""
        logits = [head(maps).float() for head in self.heads]
        losses = [cross_entropy(each, labels[..., kind]) for kind, each in zip(PLACED_KINDS, logits, strict=True)]
        return torch.stack(losses).mean()

    def muon_parameters(self) -> list[nn.Parameter]:
        """Return the matrices that Muon optimizes; none for a CLIP."""
        return []

    def calibrate(self, data: ImageTextBatches, first: int) -> None:
        """Do nothing: the logits of a CLIP compare texts and are no probabilities."""

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Limit the scale of the logits to 100 (Radford et al. 2021, section 2.5)."""
        scale: Any = self.model.logit_scale
        scale.clamp_(max=math.log(100))

    def _encode_texts(self, texts: list[str]) -> Tensor:
        model: Any = self.model
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        ).input_ids
        with torch.autocast("cpu", torch.bfloat16):
            vectors = model.text_model(input_ids=tokens).pooler_output if self.is_siglip else model.encode_text(tokens)
        return normalize(vectors.float(), dim=1)

    def _naming_loss(self, pictures: Tensor, batch: ImageTextBatch) -> Tensor:
        """Return the loss of predicting every visible concept, and the main thing with its colour and pattern."""
        class_logits = 10 * self.names(pictures)
        concepts = binary_cross_entropy_with_logits(
            class_logits, batch.has_concept.clamp_min(0).float(), (batch.has_concept >= 0).float()
        )
        known = (batch.main_looks[:, 0] >= 0).sum().clamp_min(1)
        logits = (
            class_logits[:, self.things],
            *(10 * self.looks(pictures)).split((len(COLOURS), len(PATTERNS)), dim=1),
        )
        looks = [
            cross_entropy(each, batch.main_looks[:, kind], ignore_index=-1, reduction="sum")
            for kind, each in enumerate(logits)
        ]
        return 10 * concepts + (looks[0] + 0.5 * looks[1] + 0.5 * looks[2]) / known

    def _encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images' vectors, and the maps of GRID x GRID places."""
        model: Any = self.model
        pictures = model.encode_image(pixels.contiguous(memory_format=torch.channels_last))
        assert self._maps is not None
        return pictures, self._maps

    def _matching_loss(self, cosines: Tensor, batch: ImageTextBatch) -> Tensor:
        """Return CLIP's loss (Radford et al. 2021, figure 3), whose negatives are the pairs known not to match."""
        model: Any = self.model
        logits = cosines * model.logit_scale.exp()
        own = logits[torch.arange(len(cosines)), batch.own_text]
        wrong = logits.masked_fill(batch.truth != 0, -1e4)
        by_picture, by_text = wrong.logsumexp(1), wrong.logsumexp(0)[batch.own_text]
        return (softplus(by_picture - own) + softplus(by_text - own)).mean() / 2


class SiglipLearner(ImageTextLearner):
    """A SigLIP of transformers with its losses; the image model is frozen, except for its pooling head."""

    naming_share = 0

    def muon_parameters(self) -> list[nn.Parameter]:
        """Return the matrices of the text model and of the pooling head; the image model is frozen."""
        pooling = self.model.get_submodule("vision_model.head")
        return [
            *list_matrices(self.model.get_submodule("text_model")),
            *(value for name, value in pooling.named_parameters() if value.ndim == 2),
        ]

    def calibrate(self, data: ImageTextBatches, first: int) -> None:
        """Fit scale and bias, so that the sigmoid of a concept's logit is the frequency of the concept in such images.

        Args:
            data: batches of the training scenes.
            first: number of the first batch that is used.
        """
        model: Any = self.model.eval()
        names = [concept.name for concept in list_concepts()]
        with torch.no_grad():
            texts, batches = (
                self._encode_texts(names),
                [data.make_batch(first + number) for number in range(CALIBRATION_BATCHES)],
            )
            cosines = torch.cat([self._encode_pictures(batch)[0] @ texts.T for batch in batches])
        has_concept = torch.cat([batch.has_concept for batch in batches])
        known, truth = has_concept >= 0, (has_concept > 0).float()
        parameters = [model.logit_scale.requires_grad_(), model.logit_bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

        def evaluate_loss() -> Tensor:
            optimizer.zero_grad()
            logits = cosines * model.logit_scale.exp() + model.logit_bias
            loss = binary_cross_entropy_with_logits(logits[known], truth[known])
            loss.backward()
            return loss

        optimizer.step(evaluate_loss)

    def _encode_pictures(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            pictures = self.model.get_submodule("vision_model")(pixel_values=_normalize(batch)).pooler_output
        pictures = normalize(pictures.float(), dim=1)
        return pictures, self._naming_loss(pictures, batch)

    def _matching_loss(self, cosines: Tensor, batch: ImageTextBatch) -> Tensor:
        """Return SigLIP's loss over all pairs (Zhai et al. 2023, section 3.2)."""
        model: Any = self.model
        signs, known = batch.truth.float() * 2 - 1, (batch.truth >= 0).float()
        # An image's own text describes it better than a text that is true of many images.
        known[torch.arange(len(cosines)), batch.own_text] *= 3
        logits = cosines * model.logit_scale.exp() + model.logit_bias
        return -(logsigmoid(signs * logits) * known).sum() / len(cosines)


def _normalize(batch: ImageTextBatch) -> Tensor:
    return (batch.images.float() / 255 - MEAN[0]) / STD[0]
