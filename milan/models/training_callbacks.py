"""What a training run writes: its metrics, the state from which it resumes, and its progress on the console."""

import csv
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.loggers import Logger
from tqdm import tqdm

from milan.console.progress import track_progress
from milan.storage.files import atomic_write

LAST_CHECKPOINT = "last.ckpt"


class MetricsFile(Logger):
    """Writes ``metrics.csv``, one row each time that metrics are logged; a resumed run keeps the earlier rows.

    Args:
        file: the path of the csv file.
    """

    def __init__(self, file: Path):
        super().__init__()
        self.file = file
        self.rows: list[dict[str, str]] = []

    @property
    def name(self) -> str:
        """The name of the file without its suffix."""
        return self.file.stem

    @property
    def version(self) -> str:
        """Empty: there is one file per run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **values: Any) -> None:
        """Do nothing: the settings are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one row; a metric that is new becomes a column, for which the file is rewritten."""
        row = {name: str(float(value)) for name, value in metrics.items()} | {"step": str(step)}
        row |= {"epoch": str(int(metrics["epoch"]))} if "epoch" in metrics else {}
        columns = self._columns()
        self.rows.append(row)
        if self._columns() == columns and self.file.is_file():
            with self.file.open("a", newline="", encoding="utf-8") as opened:
                csv.DictWriter(opened, columns).writerow(row)
        else:
            self._write()

    @rank_zero_only
    def keep_before(self, step: int) -> None:
        """Read the rows of an earlier run and keep those of steps before ``step``; the later ones are logged again."""
        if self.file.is_file():
            # A killed run may have left an incomplete last line.
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


class ResumeCheckpoint(Callback):
    """Writes ``last.ckpt``, from which a run resumes bit for bit, random state included.

    The checkpoint is written before a batch, when the metrics of earlier batches are logged and no gradients are
    accumulated, or before an epoch.

    Args:
        folder: the folder of the checkpoint.
        seconds: the shortest time between two checkpoints.
    """

    def __init__(self, folder: Path, seconds: float = 30.0):
        self.path, self.seconds = folder / LAST_CHECKPOINT, seconds
        self.last_written = time.monotonic()
        # the random state of each process
        self.states: list[dict[str, torch.Tensor]] = []
        self.restored = False

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Delete the rows of the metrics' file that were logged after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.keep_before(trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the checkpoint if it is due, except before the first epoch and just after resuming."""
        if trainer.current_epoch and not self.restored:
            self._write_if_due(trainer, module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        """Restore the random state just after resuming; otherwise write the checkpoint if it is due."""
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
        # The clock of the first process decides for all.
        if not trainer.strategy.broadcast(due):
            return
        self.states = _gather_states(_get_random_state(module.device))
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as path:
                trainer.save_checkpoint(path, weights_only=False)
        else:
            # The other processes take part in gathering the state and write nothing.
            trainer.save_checkpoint(self.path, weights_only=False)
        self.last_written = time.monotonic()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the epoch or batch that is about to start as not started, so that a resumed run starts it."""
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        if epochs["total"]["ready"] > epochs["total"]["started"]:
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
        for counts in (batches["total"], batches["current"], epochs["total"], epochs["current"]):
            counts["ready"] = counts["started"]

    def state_dict(self) -> dict[str, Any]:
        """Return the random states of all processes."""
        return {"states": self.states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random states, which are restored before the next batch."""
        self.states, self.restored = state_dict["states"], True


def _get_random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _gather_states(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return the states of all processes, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


class EpochProgress(ProgressBar):
    """Prints the progress of an epoch and, after each epoch, the metric that selects the best one, on stderr.

    Args:
        metric: the validation metric that selects the best epoch.
    """

    def __init__(self, metric: str):
        super().__init__()
        self.metric, self.enabled = metric, True
        self.started = time.monotonic()
        self.ticks: Iterator[int] = iter(())

    def disable(self) -> None:
        """Print nothing; Lightning calls it in all processes but the first."""
        self.enabled = False

    def enable(self) -> None:
        """Print progress again."""
        self.enabled = True

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the progress of an epoch, at the batch where a resumed run continues."""
        self.started = time.monotonic()
        if self.enabled and math.isfinite(self.total_train_batches):
            finished = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            left = int(self.total_train_batches) - finished
            self.ticks = iter(track_progress(range(left), total=left, description=f"epoch {trainer.current_epoch + 1}"))
            next(self.ticks, None)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Advance the progress by one batch."""
        next(self.ticks, None)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Print the epoch's line of metrics."""
        if self.enabled:
            print(self._format_epoch(trainer, module), file=sys.stderr, flush=True)

    def _format_epoch(self, trainer: pl.Trainer, module: Any) -> str:
        epoch, most, seconds = trainer.current_epoch + 1, trainer.max_epochs or -1, time.monotonic() - self.started
        of, left = "", ""
        if most > 0:
            of, left = f" of at most {most}", f", at most {tqdm.format_interval(seconds * (most - epoch))} left"
        scores = [f"training loss {float(module.last_loss):.4g}"]
        if self.metric in trainer.callback_metrics:
            best = [f" (best {one.best_score:.4g})" for one in trainer.early_stopping_callbacks]
            scores.insert(0, f"{self.metric} {trainer.callback_metrics[self.metric]:.4g}{''.join(best[-1:])}")
        return f"epoch {epoch}{of}: {', '.join(scores)}; {seconds:.1f} s{left}"
