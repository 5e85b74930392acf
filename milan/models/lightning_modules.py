"""Lightning modules around the captioner and the prior: optimizer, training steps and validation metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from sacrebleu import corpus_bleu
from torch import Tensor, nn

from milan.models.captioner import CaptionBatch, UnitBatch
from milan.models.prior import Prior, TextBatch

WARMUP_UPDATES = 20  # updates in which the learning rate rises, where a number of updates is given


class TrainingModule(pl.LightningModule):
    """Trains a model by its ``loss`` with AdamW.

    The state dict is that of the model, so that checkpoints hold plain model weights.

    Args:
        model: a ``Captioner``, a ``Prior``, or any module with ``loss(batch)``, ``vocabulary`` and ``learning_rate``.
        updates: total number of optimizer steps, over which the learning rate rises linearly for 20 steps and falls
            linearly to zero from the first step to the last; 0 for a constant learning rate.

    Attributes:
        metric: the validation metric that selects the best epoch.
        mode: whether the metric is best at its minimum or at its maximum.
        last_loss: the loss of the last training batch.
    """

    metric: ClassVar[str]
    mode: ClassVar[Literal["min", "max"]]

    def __init__(self, model: nn.Module, updates: int = 0):
        super().__init__()
        self.model: Any = model
        self.updates = updates
        self.last_loss = torch.tensor(torch.nan)

    def training_step(self, batch: CaptionBatch | TextBatch | Tensor, _index: int) -> Tensor:
        """Return the loss of a batch; log it where the trainer writes a row."""
        loss = self.model.loss(batch)
        self.last_loss = loss.detach()
        # A call of ``log`` costs up to ten percent of a small step: it is made only where a row is written.
        if self.trainer.loggers and (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("loss", loss, batch_size=len(batch if isinstance(batch, Tensor) else batch.tokens))
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW, with a linear warm-up and decay over ``updates`` steps unless that is 0."""
        optimizer = torch.optim.AdamW(self.model.parameters(), self.model.learning_rate, fused=True)
        if not self.updates:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARMUP_UPDATES, 1 - step / self.updates)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the state dict of the model, without a prefix."""
        return self.model.state_dict(*args, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Load the state dict of the model, without a prefix."""
        return self.model.load_state_dict(state_dict, *args, **options)


class CaptionerTraining(TrainingModule):
    """Trains a captioner; the validation metric is the BLEU of greedy descriptions of held-out units."""

    metric, mode = "bleu", "max"

    def on_validation_epoch_start(self) -> None:
        """Forget the descriptions of the last validation."""
        self._texts: list[str] = []
        self._references: list[list[str]] = []

    def validation_step(self, batch: UnitBatch, _index: int) -> None:
        """Keep the greedy descriptions of a batch's units and their annotations."""
        self._texts += self.model.decode_greedily(batch.features)
        self._references += batch.references

    def on_validation_epoch_end(self) -> None:
        """Log the BLEU of all descriptions of the epoch."""
        self.log(self.metric, compute_bleu(self._texts, self._references), prog_bar=True)


class PriorTraining(TrainingModule):
    """Trains a prior; the validation metric is the mean cross entropy per token of held-out annotations."""

    metric, mode = "held_out_loss", "min"

    def validation_step(self, batch: TextBatch, _index: int) -> None:
        """Log the mean cross entropy of a batch, weighted by its number of tokens."""
        tokens = int((batch.tokens != self.model.vocabulary.pad).sum())
        # Weighted by tokens, the mean does not depend on how the annotations are batched.
        self.log(self.metric, self.model.loss(batch), batch_size=tokens, prog_bar=True)


def make_training_module(model: nn.Module, updates: int = 0) -> TrainingModule:
    """Return the Lightning module that trains a captioner or a prior."""
    return (PriorTraining if isinstance(model, Prior) else CaptionerTraining)(model, updates)


def compute_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the corpus BLEU in points (0 to 100), computed as in the 2022 code.

    Texts are lower-cased and full stops at their ends removed. Texts may have different numbers of references.
    """
    most = max(len(several) for several in references)
    # sacrebleu takes streams of references, in which None stands for a missing one.
    streams: Any = [
        [_normalize_text(several[i]) if i < len(several) else None for several in references] for i in range(most)
    ]
    return float(corpus_bleu([_normalize_text(text) for text in texts], streams).score)


def _normalize_text(text: str) -> str:
    return text.lower().strip(". ")
