"""Sentence encoders: what two texts mean, as vectors that lie near where the texts say the same (Reimers & Gurevych
2019).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from milan.errors import BadInput, UnknownName
from milan.pretrained.model_sources import check_device, resolve_model
from milan.storage.files import content_key
from milan.storage.hub_access import format_error_line, quiet
from milan.targets.fingerprints import network_hash

BATCH_SIZE = 64


class SentenceEncoder:
    """An encoder of transformers with mean pooling over tokens, as in all-mpnet-base-v2 and the MiniLM models.

    Args:
        name: id of the hub, or a folder written by ``save_pretrained``.
        device: where it runs.

    Raises:
        BadInput: there is no such model, or it cannot be loaded.
    """

    def __init__(self, name: str, device: str = "cpu"):
        from transformers import AutoModel, AutoTokenizer

        where, local = resolve_model(name)
        self.device = check_device(device)
        try:
            with quiet():
                options = {"local_files_only": local, "trust_remote_code": False}
                self.tokenizer = AutoTokenizer.from_pretrained(where, **options)
                self.model = AutoModel.from_pretrained(where, **options).to(self.device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"cannot load {name} as a sentence encoder: {format_error_line(error)}") from None
        self.max_tokens = min(
            self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512)
        )

    @property
    def key(self) -> str:
        """Content key of the weights."""
        return content_key(sentences=network_hash(self.model))

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Return unit vectors, float32 on the CPU; long texts are cut."""
        parts = [
            self._encode_batch(list(texts[start : start + BATCH_SIZE])) for start in range(0, len(texts), BATCH_SIZE)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.model.config.hidden_size)

    def _encode_batch(self, texts: list[str]) -> Tensor:
        given = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        with torch.no_grad():
            states = self.model(**given).last_hidden_state.float()
        weight = given["attention_mask"][:, :, None].float()
        return normalize((states * weight).sum(1) / weight.sum(1).clamp_min(1), dim=1).cpu()


def load_sentence_encoder(spec: str, *, device: str = "cpu") -> SentenceEncoder:
    """Load a sentence encoder by ``hf:ID_OR_FOLDER``, as in hf:sentence-transformers/all-mpnet-base-v2.

    Raises:
        UnknownName: there is no such family.
        BadInput: there is no such model.
    """
    family, _, name = spec.partition(":")
    if family != "hf" or not name:
        raise UnknownName("sentence encoder", spec, ["hf:ID_OR_FOLDER"], "write hf:ID_OR_FOLDER")
    return SentenceEncoder(name, device)
