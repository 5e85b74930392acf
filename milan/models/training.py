"""The training function of captioner, prior and autoencoder, used by ``train.py`` and by experiments."""

import logging
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn

from milan.errors import BadInput
from milan.models.lightning_modules import TrainingModule, make_training_module
from milan.models.training_callbacks import LAST_CHECKPOINT, EpochProgress, ResumeCheckpoint

CHECKPOINT_FOLDER, BEST_CHECKPOINT = "checkpoints", "best.ckpt"
# Warnings of Lightning that do not apply: arguments are passed from Python on purpose, and the order of the batches is
# restored by ``EpochBatchSampler``.
EXPECTED_WARNINGS = (
    "LightningCLI's args parameter",
    "You're resuming from a checkpoint",
    "Checkpoint directory",
    ".*isinstance.treespec",
    ".*does not have many workers",
    "The number of training batches",
)


@dataclass(frozen=True)
class TrainingConfig:
    """How long a model is trained, and where.

    Attributes:
        max_epochs: largest number of epochs.
        patience: epochs without a better validation metric before training stops; the weights of the best epoch are
            kept.
        updates: number of optimizer steps, whatever the validation metric; the weights of the last step are kept. 0 to
            stop by patience.
        precision: precision of matrix products, as ``pl.Trainer`` takes it.
        device: a torch device.
        out: folder of the checkpoints from which an interrupted run resumes; None to keep nothing.
        checkpoint_seconds: shortest time between two checkpoints, in seconds.
    """

    max_epochs: int = 100
    patience: int = 4
    updates: int = 0
    precision: Any = "32-true"
    device: str = "cpu"
    out: Path | None = None
    checkpoint_seconds: float = 30.0


class TrainingResult(NamedTuple):
    """A trained model and the log of its training.

    Attributes:
        model: the model with its best weights, in evaluation mode.
        log: the number of epochs and the best validation metric, or the number of updates and the last loss; empty in
            processes other than the first.
    """

    model: Any
    log: dict[str, Any]


def train(
    model: nn.Module,
    data: pl.LightningDataModule,
    config: TrainingConfig,
    trainer: pl.Trainer | None = None,
    ckpt_path: str | Path | None = None,
) -> TrainingResult:
    """Train a captioner or a prior, or any model by its ``TrainingModule``.

    With ``config.out`` an interrupted run resumes where it stopped and ends with the same weights.

    Args:
        model: the model, or its ``TrainingModule``.
        data: training and validation batches.
        config: how long to train.
        trainer: a trainer made by ``make_trainer``, to set its other options.
        ckpt_path: a checkpoint to resume from instead of the one in ``config.out``.

    Raises:
        BadInput: no epoch was finished, or the trainer refuses its options.
        KeyboardInterrupt: training was interrupted.
    """
    module = model if isinstance(model, pl.LightningModule) else make_training_module(model, config.updates)
    with _checkpoint_folder(config) as folder, quiet_lightning():
        trainer = trainer or make_trainer(
            module, config, folder, logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        last = folder / LAST_CHECKPOINT
        resumed = ckpt_path or (last if last.is_file() else None)
        # weights_only: nothing but tensors and plain values is read from a checkpoint
        trainer.fit(module, datamodule=data, ckpt_path=resumed and str(resumed), weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        log = _restore_best(module, trainer, config, folder) if trainer.is_global_zero else {}
    return TrainingResult(module.model.to(config.device).eval(), log)


def _restore_best(module: TrainingModule, trainer: pl.Trainer, config: TrainingConfig, folder: Path) -> dict[str, Any]:
    if config.updates:
        return {"updates": trainer.global_step, "loss": round(float(module.last_loss), 4)}
    best = folder / BEST_CHECKPOINT
    if not best.is_file():
        raise BadInput("no epoch was finished and validated, so there is no model to keep; train longer")
    module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    stopping = next(one for one in trainer.early_stopping_callbacks if one.monitor == module.metric)
    return {"epochs": trainer.current_epoch, module.metric: round(float(stopping.best_score), 4)}


def make_trainer(module: TrainingModule, config: TrainingConfig, folder: Path, **options: Any) -> pl.Trainer:
    """Return a trainer that stops by ``config``, keeps the best weights, and writes resume checkpoints.

    Args:
        module: the module to train.
        config: how long to train.
        folder: the folder of the checkpoints.
        options: further arguments of ``pl.Trainer``; they win over ``config``.
    """
    callbacks: list[Callback] = [*(options.pop("callbacks", None) or [])]
    defaults: dict[str, Any] = {"num_sanity_val_steps": 0, "precision": config.precision}
    defaults |= {"use_distributed_sampler": False, **_get_accelerator(config.device)}
    if config.updates:
        defaults |= {"max_steps": config.updates, "max_epochs": -1, "limit_val_batches": 0}
        # Lightning's own checkpoints would be written to the working directory; ``ResumeCheckpoint`` needs none of it.
        defaults |= {"enable_checkpointing": False}
    else:
        best = ModelCheckpoint(
            folder, "best", module.metric, mode=module.mode, save_weights_only=True, enable_version_counter=False
        )
        defaults |= {"max_epochs": config.max_epochs}
        callbacks += [EarlyStopping(module.metric, patience=config.patience, mode=module.mode), best]
    if config.out is not None:
        callbacks.append(ResumeCheckpoint(folder, config.checkpoint_seconds))
    if options.get("enable_progress_bar") is not False:
        callbacks.append(EpochProgress(module.metric))
    return pl.Trainer(**defaults | options, callbacks=callbacks)


def _get_accelerator(device: str) -> dict[str, Any]:
    """Return the arguments of ``pl.Trainer`` that select one torch device."""
    kind = torch.device(device)
    return {"accelerator": kind.type, "devices": 1 if kind.type != "cuda" else [kind.index or 0]}


@contextmanager
def _checkpoint_folder(config: TrainingConfig) -> Iterator[Path]:
    if config.out is not None:
        yield config.out / CHECKPOINT_FOLDER
        return
    with tempfile.TemporaryDirectory(prefix="milan-training-") as folder:
        yield Path(folder)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's banners, and let an interrupted ``pl.Trainer`` raise KeyboardInterrupt instead of exiting.

    Raises:
        BadInput: Lightning refuses the options.
    """
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels, handler = [logger.level for logger in loggers], signal.getsignal(signal.SIGINT)
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", text)
            yield
    except SystemExit as end:
        # Lightning exits with status 1 on Ctrl-C, and leaves SIGINT ignored.
        if end.code != 1:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    except MisconfigurationException as error:
        raise BadInput(" ".join(str(error).split())) from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
