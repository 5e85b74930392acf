"""MILAN's models: the encoder, the captioner p(d|E), the prior p(d), their training and their decoding."""

from milan.models.captioner import CaptionBatch, Captioner, UnitBatch
from milan.models.encoder import Encoder, build_encoder, load_encoder
from milan.models.prior import Prior, TextBatch

__all__ = ["CaptionBatch", "Captioner", "Encoder", "Prior", "TextBatch", "UnitBatch", "build_encoder", "load_encoder"]
