"""The stand-ins for large image-text models: architectures and training settings."""

from dataclasses import dataclass
from typing import Any

from milan.diorama_build.vision_encoder_training import VisionEncoderConfig

SCENES = 30_000  # of each world
CONTEXT_LENGTH = 28  # tokens of a text, start and end included
VOCABULARY_SIZE = 1_100
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
FEATURES = 128  # of the CLIP


@dataclass(frozen=True)
class ImageTextConfig:
    """The architecture and the training of a stand-in.

    Attributes:
        family: "open_clip" or "transformers", the library whose classes it uses.
        steps: number of training steps.
        vision, text: settings of the two towers, by the library's names.
        learning_rate: learning rate of the training.
        batch_size: images of a batch.
        vision_encoder: the image model, which is trained first (``milan.diorama_build.vision_encoder_training``) and
            then frozen; None to train it with the texts.
        seed_offset: number added to the seed, so that two stand-ins see different batches.
    """

    family: str
    steps: int
    vision: dict[str, Any]
    text: dict[str, Any]
    learning_rate: float = 1.2e-3
    batch_size: int = 64
    vision_encoder: VisionEncoderConfig | None = None
    seed_offset: int = 0


def _make_siglip_config(
    vision_encoder: VisionEncoderConfig, text: int, layers: int, steps: int, seed_offset: int
) -> ImageTextConfig:
    text_settings = {
        "hidden_size": text,
        "intermediate_size": 3 * text,
        "num_hidden_layers": layers,
        "num_attention_heads": text // 32,
        "max_position_embeddings": CONTEXT_LENGTH,
        "projection_size": vision_encoder.width,
    }
    return ImageTextConfig(
        "transformers",
        steps,
        vision_encoder.settings,
        text_settings,
        learning_rate=2e-3,
        vision_encoder=vision_encoder,
        seed_offset=seed_offset,
    )


SMALL_VISION_ENCODER = VisionEncoderConfig(96, 4, 3, 1_600)  # also that of Diorama's BLIP
CONFIGS: dict[str, ImageTextConfig] = {
    "clip": ImageTextConfig(
        "open_clip",
        3_200,
        {"image_size": 64, "layers": [2, 2, 2, 1], "width": 16, "head_width": 64},
        {"context_length": CONTEXT_LENGTH, "width": 128, "heads": 4, "layers": 2, "hf_tokenizer_name": "diorama"},
        learning_rate=2.5e-3,
        batch_size=128,
    ),
    "siglip-small": _make_siglip_config(SMALL_VISION_ENCODER, 96, 2, 800, seed_offset=0),
    # Another seed than that of siglip-small: the simulator must not share the errors of the model that describes.
    "siglip-large": _make_siglip_config(VisionEncoderConfig(128, 4, 4, 1_000), 128, 2, 800, seed_offset=1),
}
