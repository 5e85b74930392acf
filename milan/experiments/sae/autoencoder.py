"""A top-k sparse autoencoder and its training (Gao et al. 2024, "Scaling and evaluating sparse autoencoders")."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.callbacks import Callback
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from milan.console.progress import track_progress
from milan.experiments.sae.activation_files import ActivationVectors
from milan.experiments.sae.config import SaeConfig
from milan.models.data_module import EpochBatchSampler, TrainingProgress
from milan.models.lightning_modules import TrainingModule
from milan.models.training import CHECKPOINT_FOLDER, TrainingConfig, make_trainer, quiet_lightning, train
from milan.storage.files import content_key
from milan.storage.integrity import made_once
from milan.targets.dictionary import Dictionary, DictionaryConfig

# Updates without activity after which a latent counts as dead during training.
DEAD_UPDATES = 50
# Shortest time between two checkpoints.
CHECKPOINT_SECONDS = 30.0
# Weight of the auxiliary loss (section A.2 of the paper).
AUXILIARY_WEIGHT = 1 / 32


class TopKAutoencoder(nn.Module):
    """A top-k autoencoder of activation vectors, which are centred and scaled to variance 1 first.

    Rows of the decoder have norm 1. Latents that have died are trained to reconstruct what the others leave.

    Args:
        mean: mean of the activation vectors, of shape (width).
        scale: factor that gives their values a variance of 1.
        latents: number of latents.
        top_k: largest number of active latents per vector.
        learning_rate: highest learning rate.
        seed: random seed of the initial directions.
    """

    mean: Tensor
    idle: Tensor

    def __init__(
        self, mean: Float[Tensor, " width"], scale: float, latents: int, top_k: int, learning_rate: float, seed: int
    ):
        super().__init__()
        self.scale, self.top_k, self.learning_rate = scale, top_k, learning_rate
        directions = torch.randn(latents, len(mean), generator=torch.Generator().manual_seed(seed))
        self.decoder = nn.Parameter(normalize(directions, dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().T.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(latents))
        self.decoder_bias = nn.Parameter(torch.zeros(len(mean)))
        self.register_buffer("mean", mean)
        # Number of updates since each latent was last active.
        self.register_buffer("idle", torch.zeros(latents, dtype=torch.int64))

    def loss(self, vectors: Float[Tensor, "b width"]) -> Tensor:
        """Return the mean squared error plus the auxiliary loss of dead latents, and count updates without activity."""
        inputs = (vectors - self.mean) * self.scale
        decoder = normalize(self.decoder, dim=1)
        projections = (inputs - self.decoder_bias) @ self.encoder + self.encoder_bias
        codes = _keep_largest(projections, self.top_k)
        residual = inputs - (codes @ decoder + self.decoder_bias)
        error = residual.square().mean()
        self.idle = (self.idle + 1) * (codes == 0).all(0)
        dead = self.idle > DEAD_UPDATES
        if not dead.any():
            return error
        count = min(int(dead.sum()), max(self.top_k, len(self.mean) // 2))
        others = _keep_largest(projections.masked_fill(~dead, -torch.inf), count) @ decoder
        return error + AUXILIARY_WEIGHT * (residual.detach() - others).square().mean()

    @torch.no_grad()
    def export(self) -> dict[str, Tensor]:
        """Return the weights of a :class:`Dictionary` of the activation vectors as they are, without scaling."""
        return {
            "encoder": self.encoder.detach().contiguous(),
            "decoder": normalize(self.decoder, dim=1),
            "encoder_bias": self.encoder_bias / self.scale,
            "decoder_bias": self.mean + self.decoder_bias / self.scale,
        }


def _keep_largest(values: Tensor, count: int) -> Tensor:
    largest = values.topk(count)
    return torch.zeros_like(values).scatter(1, largest.indices, largest.values.relu())


class _VectorBatches(pl.LightningDataModule):
    """Batches of activation vectors in an order that depends on the seed alone."""

    def __init__(self, vectors: ActivationVectors, batch_size: int, seed: int):
        super().__init__()
        self.vectors, self.batch_size, self.seed = vectors, batch_size, seed

    def train_dataloader(self) -> DataLoader:
        def progress() -> TrainingProgress:
            return TrainingProgress.read(self.trainer)

        sampler = EpochBatchSampler(len(self.vectors), self.batch_size, self.seed, progress)
        # A loader without a generator of its own draws a number from the global one in every epoch.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.vectors, batch_size=None, sampler=sampler, generator=generator)


class _UpdateProgress(Callback):
    """Shows the number of finished updates and the remaining time."""

    def __init__(self, updates: int):
        self.updates = updates
        self.ticks: Iterator[int] = iter(())

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        left = range(trainer.global_step, self.updates)
        self.ticks = iter(track_progress(left, description="training the autoencoder"))
        next(self.ticks, None)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        next(self.ticks, None)


def build_autoencoder(vectors: ActivationVectors, config: SaeConfig) -> TopKAutoencoder:
    """Return an untrained autoencoder for activation vectors."""
    mean, deviation = vectors.moments()
    # All vectors may be equal, as of a dead layer.
    scale = 1 / deviation if deviation > 0 else 1.0
    latents = config.expansion * vectors.width
    return TopKAutoencoder(mean, scale, latents, config.top_k, config.learning_rate, config.seed)


def make_dictionary(weights: dict[str, Tensor], **config: Any) -> Dictionary:
    """Return the dictionary of exported weights, whose decoder bias is subtracted from the input."""
    settings = DictionaryConfig(activation="topk", **config)
    return Dictionary(**weights, input_bias=weights["decoder_bias"], config=settings)


def train_autoencoder(vectors: ActivationVectors, config: SaeConfig, folder: Path) -> dict[str, Tensor]:
    """Train an autoencoder, or read the one that was trained before with the same options on the same vectors.

    Args:
        vectors: activation vectors.
        config: options of the experiment.
        folder: where weights and checkpoints are stored; an interrupted run resumes from its last checkpoint.

    Returns:
        the exported weights.
    """
    options = {name: getattr(config, name) for name in ("expansion", "top_k", "updates", "batch_size", "learning_rate")}
    key = content_key(format=1, vectors=vectors.key, seed=config.seed, **options)

    def make(path: Path) -> None:
        training = TrainingConfig(
            updates=config.updates, device=config.device, out=folder / key, checkpoint_seconds=CHECKPOINT_SECONDS
        )
        module = TrainingModule(build_autoencoder(vectors, config), config.updates)
        with quiet_lightning():
            trainer = make_trainer(
                module, training, folder / key / CHECKPOINT_FOLDER, callbacks=[_UpdateProgress(config.updates)],
                logger=False, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
        trained = train(module, _VectorBatches(vectors, config.batch_size, config.seed), training, trainer).model
        save_file({name: value.cpu().contiguous() for name, value in trained.export().items()}, path)
        shutil.rmtree(folder / key, ignore_errors=True)

    return made_once(folder / f"{key}.safetensors", make, load_file)
