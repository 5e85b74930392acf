"""``train.py``: trains the captioner or the prior through LightningCLI; interrupted runs can be resumed."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from milan.console.command_line import OptionErrors, run_program
from milan.errors import BadInput, MilanError
from milan.models import Captioner, Prior
from milan.models.data_module import MilannotationsDataModule
from milan.models.lightning_modules import make_training_module
from milan.models.model_files import CONFIG_FILE
from milan.models.training import CHECKPOINT_FOLDER, TrainingConfig, TrainingResult, make_trainer, quiet_lightning
from milan.models.training import train as train_model
from milan.models.training_callbacks import MetricsFile
from milan.storage.files import atomic_write, lock_folder
from milan.storage.packaged_data import locate_packaged_data

SETTINGS_FILE = "config.yaml"
DEFAULT_OUT = Path("runs/train")
# The options that a resumed run must have in common with the interrupted one.
RESUME_SETTINGS = ("model", "data", "patience", "seed_everything")
TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "max_epochs": 100,
    "log_every_n_steps": 10,
    "enable_model_summary": False,
}


class TrainParser(OptionErrors, LightningArgumentParser):
    """Lightning's parser with error messages of one line."""


class TrainCLI(LightningCLI):
    """LightningCLI for captioner and prior.

    It links the vocabulary and the encoder from the data to the model, resumes an interrupted run, and saves the best
    weights as a model.
    """

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        parser = TrainParser(**options)
        parser.add_argument(
            "-c", "--config", action="config", help="file of options; later options on the command line win"
        )
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(pl.Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
        parser.add_subclass_arguments((Captioner, Prior), "model", fail_untyped=False, required=True)
        parser.add_lightning_class_args(MilannotationsDataModule, "data", subclass_mode=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--out", type=str, default=str(DEFAULT_OUT), help="output folder of checkpoints, logs and the trained model"
        )
        parser.add_argument(
            "--patience", type=int, default=4, help="epochs without a better validation metric before training stops"
        )
        parser.add_argument(
            "--checkpoint_seconds", type=float, default=30.0, help="seconds between two checkpoints to resume from"
        )
        parser.link_arguments("data.words", "model.init_args.words", apply_on="instantiate")
        parser.link_arguments("data.feature_length", "model.init_args.features", apply_on="instantiate")
        parser.link_arguments("data.encoder_settings", "model.init_args.encoder", apply_on="instantiate")

    @property
    def options(self) -> Any:
        """The parsed options of the subcommand."""
        return self.config[self.subcommand]

    @property
    def out(self) -> Path:
        """The output folder."""
        return Path(self.options.out)

    @property
    def training_config(self) -> TrainingConfig:
        """The options of this program beside those of ``pl.Trainer``."""
        seconds = self.options.checkpoint_seconds
        return TrainingConfig(patience=self.options.patience, out=self.out, checkpoint_seconds=seconds)

    def instantiate_classes(self) -> None:
        """Instantiate data, model and trainer, with the model in its Lightning module."""
        self.config_init = self.parser.instantiate_classes(self.config)
        options = self.config_init[self.subcommand]
        self.datamodule, self.model = options.data, make_training_module(options.model)
        # for --optimizer and --lr_scheduler
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        options = {**self.config_init[self.subcommand].trainer, **options}
        if options["logger"] is None:
            metrics = MetricsFile(self.out / "logs" / "csv" / "metrics.csv")
            options["logger"] = [TensorBoardLogger(self.out, "logs", version=""), metrics]
        return make_trainer(self.model, self.training_config, self.out / CHECKPOINT_FOLDER, **options)

    def fit(self, model: pl.LightningModule, ckpt_path: str | None = None, **_: Any) -> None:
        """Train, or resume training, and save the model; LightningCLI calls it for ``train.py fit``."""
        # The other processes were started by the one that holds the lock.
        with lock_folder(self.out) if self.trainer.is_global_zero else nullcontext():
            self._check_same_run()
            if (self.out / CONFIG_FILE).is_file():
                print(
                    f"{self.out} holds the finished model; to train again choose another --out or delete the folder",
                    file=sys.stderr,
                )
                return
            self._save(train_model(model, self.datamodule, self.training_config, self.trainer, ckpt_path))

    @rank_zero_only
    def _check_same_run(self) -> None:
        """Write the settings of a new run; compare them with those of the run that is in the folder."""
        file = self.out / SETTINGS_FILE
        settings = yaml.safe_load(
            self._parser(self.subcommand).dump(self.options, skip_link_targets=True, skip_none=False)
        )
        if file.is_file():
            before, now = (
                _flatten({name: value for name, value in values.items() if name in RESUME_SETTINGS})
                for values in (yaml.safe_load(file.read_text()), settings)
            )
            names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
            if names:
                differences = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names[:5])
                raise BadInput(f"{self.out} holds a run with other settings ({differences}); choose another --out")
        with atomic_write(file) as path:
            path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))

    @rank_zero_only
    def _save(self, trained: TrainingResult) -> None:
        metric, epochs = self.model.metric, trained.log["epochs"]
        score = trained.log[metric]
        facts = {**self.datamodule.facts, "epochs": epochs, f"{metric} on held-out units": score}
        trained.model.trained_on = facts
        trained.model.save_pretrained(self.out)
        print(f"{metric} on held-out units: {score:.4g} (best of {epochs} epochs); model saved in {self.out}")


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names."""
    if not isinstance(values, Mapping):
        return {prefix: values}
    return {
        name: value
        for key, inner in values.items()
        for name, value in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def train(args: Sequence[str]) -> None:
    """Run ``train.py`` with arguments.

    Args:
        args: a subcommand and its options; empty to train the prior and the captioner on Diorama's annotations.

    Raises:
        MilanError: the options or the data cannot be used.
        KeyboardInterrupt: training was interrupted.
    """
    if not args:
        _train_default()
        return
    try:
        with quiet_lightning():
            TrainCLI(
                None,
                save_config_callback=None,
                seed_everything_default=0,
                load_from_checkpoint_support=False,
                parser_kwargs={"allow_abbrev": False, "prog": "train.py"},
                args=list(args),
            )
    except ValueError as error:
        # jsonargparse wraps what a constructor raises.
        if isinstance(error.__cause__, MilanError):
            raise error.__cause__ from None
        raise


def _train_default() -> None:
    for name in ("prior", "captioner"):
        out = DEFAULT_OUT / name
        print(f"{name}: training on Diorama's annotations, in {out}", file=sys.stderr, flush=True)
        train(["fit", f"--config={locate_packaged_data(f'configs/{name}.yaml')}", f"--out={out}"])
    settings = " ".join(f"--settings.{name} {DEFAULT_OUT / name}" for name in ("captioner", "prior"))
    print(f"describe with them: python describe.py {settings}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(lambda: train(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
