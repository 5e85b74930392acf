"""train.py: LightningCLI over MILAN's models, made so that a run stopped at any moment goes on as if it had not
been.
"""

import csv
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import yaml
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from milan.console.command_line import OptionErrors, run_program
from milan.errors import BadInput, MilanError
from milan.models.data_module import MilannotationsDataModule
from milan.models.model_files import CONFIG_FILE
from milan.storage.files import atomic_write, lock_folder

CHECKPOINT_FOLDER, LAST_CHECKPOINT, BEST_CHECKPOINT, SETTINGS_FILE = (
    "checkpoints",
    "last.ckpt",
    "best.ckpt",
    "config.yaml",
)
RESUME_SETTINGS = (
    "model",
    "data",
    "patience",
    "seed_everything",
)  # what a resumed run must have in common with the one it goes on with


class MetricsFile(Logger):
    """``metrics.csv``: a row for each time that metrics are logged, on disk at once; a resumed run keeps earlier rows.

    Args:
        file: the path.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.file = file
        self.rows: list[dict[str, str]] = []

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **values: Any) -> None:
        """Nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {name: str(float(value)) for name, value in metrics.items()} | {"step": str(step)}
        row |= {"epoch": str(int(metrics["epoch"]))} if "epoch" in metrics else {}
        known = self._columns()
        self.rows.append(row)
        if self._columns() == known and self.file.is_file():
            with self.file.open("a", newline="", encoding="utf-8") as opened:
                csv.DictWriter(opened, known).writerow(row)
        else:
            self._write()

    @rank_zero_only
    def keep_before(self, step: int) -> None:
        """Keep the rows of an earlier run for steps before this one; the others will be logged again."""
        if self.file.is_file():
            # without the last line, if a kill cut it off
            text = self.file.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
            rows = [{name: cell for name, cell in row.items() if name and cell} for row in csv.DictReader(lines)]
            self.rows = [row for row in rows if row.get("step", "").isdecimal() and int(row["step"]) < step]
            self._write()

    def _columns(self) -> list[str]:
        return sorted(set().union(*self.rows))

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file) as path, path.open("w", newline="", encoding="utf-8") as opened:
            table = csv.DictWriter(opened, self._columns())
            table.writeheader()
            table.writerows(self.rows)


class Resumable(Callback):
    """Keeps ``last.ckpt``, from which the training goes on bit for bit: it holds the random states too.

    It is written before a batch, when all metrics of the batches before have been logged and no gradients wait, and
    before an epoch's first batch when its epoch begins.

    Args:
        folder: where it is written.
        seconds: at most so often.
    """

    def __init__(self, folder: Path, seconds: float = 30.0):
        self.path, self.seconds = folder / LAST_CHECKPOINT, seconds
        self.last_written = time.monotonic()
        self.states: list[dict[str, torch.Tensor]] = []  # of the random generators, by process
        self.restored = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.keep_before(trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch and not self.restored:
            self._write_if_due(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        if self.restored:
            state = self.states[trainer.global_rank % len(self.states)]
            torch.set_rng_state(state["cpu"])
            if "cuda" in state and module.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], module.device)
            self.restored = False
        elif index and index % trainer.accumulate_grad_batches == 0:
            self._write_if_due(trainer, module)

    def _write_if_due(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        due = time.monotonic() - self.last_written >= self.seconds
        # the first process's clock decides for all
        if not trainer.strategy.broadcast(due):
            return
        self.states = _gather_states(_get_random_state(module.device))
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as path:
                trainer.save_checkpoint(path, weights_only=False)
        else:
            trainer.save_checkpoint(
                self.path, weights_only=False
            )  # takes part in gathering the state, and writes nothing
        self.last_written = time.monotonic()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take back that an epoch or a batch is about to start, so that Lightning starts it when it resumes."""
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        if epochs["total"]["ready"] > epochs["total"]["started"]:
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
        for counts in (batches["total"], batches["current"], epochs["total"], epochs["current"]):
            counts["ready"] = counts["started"]

    def state_dict(self) -> dict[str, Any]:
        return {"states": self.states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.states, self.restored = state_dict["states"], True


def _get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _gather_states(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Every process's, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


class TrainParser(OptionErrors, LightningArgumentParser):
    """Lightning's parser, with faults in one line."""


class TrainCLI(LightningCLI):
    """Links vocabulary and encoder from the data to the model, goes on with a stopped run, and saves the best weights
    as a model.
    """

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        parser = TrainParser(**options)
        parser.add_argument(
            "-c", "--config", action="config", help="options from a file; later options on the line win"
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--out", type=str, default="runs/train", help="folder of the checkpoints, the logs and the model"
        )
        parser.add_argument(
            "--patience", type=int, default=4, help="epochs without a better held-out score before it stops"
        )
        parser.add_argument(
            "--checkpoint_seconds", type=float, default=30.0, help="how often the state to resume from is written"
        )
        parser.link_arguments("data.words", "model.init_args.words", apply_on="instantiate")
        parser.link_arguments("data.feature_length", "model.init_args.features", apply_on="instantiate")
        parser.link_arguments("data.encoder_settings", "model.init_args.encoder", apply_on="instantiate")

    @property
    def options(self) -> Any:
        return self.config[self.subcommand]

    @property
    def out(self) -> Path:
        return Path(self.options.out)

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        metric, mode = self.model.monitor
        checkpoints = self.out / CHECKPOINT_FOLDER
        best = ModelCheckpoint(
            checkpoints, "best", metric, mode=mode, save_weights_only=True, enable_version_counter=False
        )
        stopping = EarlyStopping(metric, patience=self.options.patience, mode=mode)
        given = self.config_init[self.subcommand].trainer
        options["callbacks"] = [
            *(given.callbacks or []),
            stopping,
            Resumable(checkpoints, self.options.checkpoint_seconds),
            best,
        ]
        if given.logger is None:
            metrics = MetricsFile(self.out / "logs" / "csv" / "metrics.csv")
            options["logger"] = [TensorBoardLogger(self.out, "logs", version=""), metrics]
        return super().instantiate_trainer(**options)

    def fit(self, model: pl.LightningModule, **options: Any) -> None:
        """Trains, or goes on training; called by Lightning for ``train.py fit``."""
        with (
            lock_folder(self.out) if self.trainer.is_global_zero else nullcontext()
        ):  # the others were started by one that holds it
            self._check_same_run()
            if (self.out / CONFIG_FILE).is_file():
                print(
                    f"{self.out} holds the finished model; to train anew choose another --out or delete it",
                    file=sys.stderr,
                )
                return
            last = self.out / CHECKPOINT_FOLDER / LAST_CHECKPOINT
            options["ckpt_path"] = options.get("ckpt_path") or (str(last) if last.is_file() else None)
            self.trainer.fit(
                model, **options | {"weights_only": True}
            )  # of a checkpoint nothing but tensors and plain values is read
            if self.trainer.interrupted:
                raise KeyboardInterrupt
            self._save_best(model)

    @rank_zero_only
    def _check_same_run(self) -> None:
        """Writes the settings, or compares them with those that began the run in this folder."""
        settings = self.out / SETTINGS_FILE
        plain = yaml.safe_load(
            self._parser(self.subcommand).dump(self.options, skip_link_targets=True, skip_none=False)
        )
        if settings.is_file():
            before = _flatten(
                {name: value for name, value in yaml.safe_load(settings.read_text()).items() if name in RESUME_SETTINGS}
            )
            now = _flatten({name: value for name, value in plain.items() if name in RESUME_SETTINGS})
            names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
            if names:
                differences = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names[:5])
                raise BadInput(f"{self.out} holds a run with other settings ({differences}); choose another --out")
        with atomic_write(settings) as path:
            path.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    @rank_zero_only
    def _save_best(self, model: Any) -> None:
        best = self.out / CHECKPOINT_FOLDER / BEST_CHECKPOINT
        if not best.is_file():
            raise BadInput(
                f"no epoch was finished and scored, so there is no model to save in {self.out}; train longer"
            )
        model.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
        metric, _ = model.monitor
        stopping = next(callback for callback in self.trainer.early_stopping_callbacks if callback.monitor == metric)
        score = float(stopping.best_score)
        model.trained_on = {
            **self.datamodule.facts,
            "epochs": self.trainer.current_epoch,
            f"{metric} on held-out units": round(score, 4),
        }
        model.cpu().eval().save_pretrained(self.out)
        print(
            f"{metric} on held-out units: {score:.4g} (best of {self.trainer.current_epoch} epochs); model in"
            f" {self.out}"
        )


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def train(args: list[str] | None = None) -> None:
    """Runs ``train.py`` with these arguments.

    Raises:
        MilanError: as the programs tell it.
    """
    defaults = {"use_distributed_sampler": False, "num_sanity_val_steps": 0, "max_epochs": 100, "log_every_n_steps": 10}
    for known in (
        "LightningCLI's args parameter",
        "You're resuming from a checkpoint",
        "Checkpoint directory",
        ".*isinstance.treespec",
    ):
        warnings.filterwarnings(
            "ignore", known
        )  # arguments are given on purpose, and the order of the batches is resumed by Shuffled
    try:
        TrainCLI(
            None,
            MilannotationsDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=defaults,
            parser_kwargs={"allow_abbrev": False, "prog": "train.py"},
            args=args,
        )
    except ValueError as error:
        if isinstance(error.__cause__, MilanError):  # jsonargparse wraps what a constructor raises
            raise error.__cause__ from None
        raise
    except SystemExit as end:
        if end.code == 1:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
        raise


def main(args: list[str] | None = None) -> int:
    """The program: gives its exit status."""
    return run_program(lambda: train(args))


if __name__ == "__main__":
    sys.exit(main())
