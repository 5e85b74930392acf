"""Train or validate a captioner or a prior by the options of ``train.py``; interrupted runs can be resumed."""

import pickle
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger

from milan.cli.train_config import DataConfig, ModelConfig, TrainConfig, TrainerConfig
from milan.errors import BadInput
from milan.models import Captioner, Prior
from milan.models.data_module import MilannotationsDataModule
from milan.models.lightning_modules import TrainingModule, make_training_module
from milan.models.model_files import CONFIG_FILE, load_weights
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
MODELS: dict[str, type[Captioner] | type[Prior]] = {"captioner": Captioner, "prior": Prior}
# Arguments of a model that come from its annotations.
DATA_SETTINGS = ("words", "features", "encoder")


def fit(config: TrainConfig, model: ModelConfig, data: DataConfig, trainer: TrainerConfig) -> None:
    """Train a model, or resume its training, and save it in ``config.out``.

    Raises:
        MilanError: the options or the data cannot be used, or the folder holds a run with other settings.
        KeyboardInterrupt: training was interrupted.
    """
    options = {
        **asdict(config),
        "out": str(config.out),
        "ckpt_path": config.ckpt_path and str(config.ckpt_path),
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
            trained = train(module, annotations, training, lightning, config.ckpt_path)
            _save(trained, module.metric, annotations, config.out)


def validate(config: TrainConfig, model: ModelConfig, data: DataConfig, trainer: TrainerConfig) -> None:
    """Print the metric of a trained model on the held-out units of the data.

    The model is that of ``config.ckpt_path``, else the one saved in ``config.out``.

    Raises:
        MilanError: the options or the data cannot be used, or the model was trained on other data.
    """
    with quiet_lightning():
        source = config.ckpt_path or config.out
        state = _read_checkpoint(config.ckpt_path) if config.ckpt_path else None
        saved = None if state else MODELS[model.kind].from_pretrained(str(config.out))
        annotations = MilannotationsDataModule(**{**asdict(data), "folders": list(data.folders)})
        trained = _build_model(model, annotations)
        if state:
            load_weights(trained, state, source)
        elif saved and (names := _find_other_data(saved, trained)):
            raise BadInput(
                f"{source} was trained with other {', '.join(names)} than these annotations give; give the options of"
                f" its training, as in --config {config.out / SETTINGS_FILE}"
            )
        module = make_training_module(saved or trained)
        lightning = make_trainer(module, TrainingConfig(), config.out, logger=False, **trainer.arguments)
        [scores] = lightning.validate(module, annotations, verbose=False)
    if lightning.is_global_zero:
        print(f"{module.metric} on held-out units: {scores[module.metric]:.4g}; {source}")


def _find_other_data(one: Captioner | Prior, other: Captioner | Prior) -> list[str]:
    """Return the settings that come from annotations in which two models differ."""
    return [name for name in DATA_SETTINGS if one.config.get(name) != other.config.get(name)]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the weights of a checkpoint.

    Raises:
        BadInput: the file is no checkpoint of a training.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (RuntimeError, pickle.UnpicklingError, KeyError, TypeError, EOFError) as error:
        raise BadInput(f"{path} is no checkpoint of train.py: {type(error).__name__}; give best.ckpt") from None


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
