"""Train a captioner or a prior by the options of ``train.py``; interrupted runs can be resumed."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger

from milan.cli.train_config import DataConfig, ModelConfig, TrainConfig, TrainerConfig
from milan.errors import BadInput
from milan.models import Captioner, Prior
from milan.models.data_module import MilannotationsDataModule
from milan.models.lightning_modules import TrainingModule, make_training_module
from milan.models.model_files import CONFIG_FILE
from milan.models.training import (
    CHECKPOINT_FOLDER,
    TrainingConfig,
    TrainingResult,
    make_trainer,
    quiet_lightning,
    train,
)
from milan.models.training_callbacks import MetricsFile
from milan.storage.files import atomic_write, lock_folder

SETTINGS_FILE = "config.yaml"
# The options that a resumed run must have in common with the interrupted one.
RESUME_SETTINGS = ("model", "data", "patience", "seed_everything")


def fit(config: TrainConfig, model: ModelConfig, data: DataConfig, trainer: TrainerConfig) -> None:
    """Train a model, or resume its training, and save it in ``config.out``.

    Raises:
        MilanError: the options or the data cannot be used, or the folder holds a run with other settings.
        KeyboardInterrupt: training was interrupted.
    """
    options = {
        **asdict(config),
        "out": str(config.out),
        "model": asdict(model),
        "data": {**asdict(data), "folders": list(data.folders)},
        "trainer": asdict(trainer),
    }
    with quiet_lightning():
        pl.seed_everything(config.seed_everything, workers=True, verbose=False)
        annotations = MilannotationsDataModule(**options["data"])
        module = make_training_module(_build_model(model, annotations))
        training = TrainingConfig(
            patience=config.patience, out=config.out, checkpoint_seconds=config.checkpoint_seconds
        )
        lightning = _build_trainer(module, training, config.out, trainer)
        # The other processes were started by the one that holds the lock.
        with lock_folder(config.out) if lightning.is_global_zero else nullcontext():
            _check_same_run(config.out, options)
            if (config.out / CONFIG_FILE).is_file():
                print(
                    f"{config.out} holds the finished model; to train again choose another --out or delete the folder",
                    file=sys.stderr,
                )
                return
            _save(train(module, annotations, training, lightning), module.metric, annotations, config.out)


def _build_model(config: ModelConfig, data: MilannotationsDataModule) -> Captioner | Prior:
    """Return a new model for the vocabulary and the features of the data."""
    if config.kind == "prior":
        return Prior(data.words, **config.arguments)
    return Captioner(data.words, features=data.feature_length, encoder=data.encoder_settings, **config.arguments)


def _build_trainer(module: TrainingModule, training: TrainingConfig, out: Path, config: TrainerConfig) -> pl.Trainer:
    metrics = MetricsFile(out / "logs" / "csv" / "metrics.csv")
    loggers = [TensorBoardLogger(out, "logs", version=""), metrics]
    return make_trainer(module, training, out / CHECKPOINT_FOLDER, logger=loggers, **config.arguments)


@rank_zero_only
def _check_same_run(out: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new run; compare them with those of the run that is in the folder."""
    file = out / SETTINGS_FILE
    if file.is_file():
        before, now = (
            _flatten({name: value for name, value in values.items() if name in RESUME_SETTINGS})
            for values in (yaml.safe_load(file.read_text()), settings)
        )
        names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if names:
            differences = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names[:5])
            raise BadInput(f"{out} holds a run with other settings ({differences}); choose another --out")
    with atomic_write(file) as path:
        path.write_text(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


@rank_zero_only
def _save(trained: TrainingResult, metric: str, data: MilannotationsDataModule, out: Path) -> None:
    epochs, score = trained.log["epochs"], trained.log[metric]
    trained.model.trained_on = {**data.facts, "epochs": epochs, f"{metric} on held-out units": score}
    trained.model.save_pretrained(out)
    print(f"{metric} on held-out units: {score:.4g} (best of {epochs} epochs); model saved in {out}")


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
