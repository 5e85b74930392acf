"""``train.py``: trains the captioner or the prior with Lightning, or validates a trained one; runs can be resumed."""

import sys
from collections.abc import Sequence

from milan.cli.train_config import DataConfig, ModelConfig, TrainConfig, TrainerConfig
from milan.console.command_line import arguments_of, build_parser, run_program
from milan.storage.packaged_data import locate_packaged_data

# jsonargparse's words for an option of LightningCLI's form, and what to write instead.
HINTS = {
    "not accepted as class_path": "class_path and init_args are the form of version 0.1; write the values of init_args"
    " directly under model and data, and in place of class_path model.kind: captioner or prior"
}


def run_fit(
    config: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    model: ModelConfig = ModelConfig(),  # noqa: B008
    data: DataConfig = DataConfig(),  # noqa: B008
    trainer: TrainerConfig = TrainerConfig(),  # noqa: B008
) -> None:
    """Train a captioner or a prior, as ``train.py fit`` does.

    Args:
        config: output folder, patience and seed.
        model: the model.
        data: its annotations.
        trainer: how Lightning trains it.
    """
    # Lightning is imported when the options are known to be right.
    from milan.cli.train_run import fit

    fit(config, model, data, trainer)


def run_validate(
    config: TrainConfig = TrainConfig(),  # noqa: B008
    model: ModelConfig = ModelConfig(),  # noqa: B008
    data: DataConfig = DataConfig(),  # noqa: B008
    trainer: TrainerConfig = TrainerConfig(),  # noqa: B008
) -> None:
    """Validate a trained captioner or prior on the held-out units, as ``train.py validate`` does.

    Args:
        config: folder of the trained model, or a checkpoint.
        model: the model that was trained.
        data: its annotations.
        trainer: how Lightning validates it.
    """
    from milan.cli.train_run import validate

    validate(config, model, data, trainer)


COMMANDS = {
    "fit": (run_fit, "Train MILAN's captioner or prior. train.py validate validates a trained one."),
    "validate": (run_validate, "Validate a trained captioner or prior on the held-out units, with the options of fit."),
}


def train(args: Sequence[str]) -> None:
    """Run ``train.py`` with arguments.

    Args:
        args: ``fit`` or ``validate`` and its options; empty to train the prior and the captioner on Diorama's
            annotations.

    Raises:
        MilanError: the options or the data cannot be used.
        KeyboardInterrupt: training was interrupted.
    """
    if not args:
        _train_default()
        return
    command, words = ("fit", list(args)) if args[0].startswith("-") else (args[0], list(args[1:]))
    run, description = COMMANDS.get(command, COMMANDS["fit"])
    parser = build_parser(f"train.py {command}", description, run)
    if command not in COMMANDS:
        parser.error(f"unknown command {command!r}; the commands are {' and '.join(COMMANDS)}")
    parser.hints = HINTS
    run(**arguments_of(run, parser.parse_args(words).as_dict()))


def _train_default() -> None:
    root = TrainConfig().out
    for name in ("prior", "captioner"):
        out = root / name
        print(f"{name}: training on Diorama's annotations, in {out}", file=sys.stderr, flush=True)
        train(["fit", f"--config={locate_packaged_data(f'configs/{name}.yaml')}", f"--out={out}"])
    settings = " ".join(f"--settings.{name} {root / name}" for name in ("captioner", "prior"))
    print(f"describe with them: python describe.py {settings}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(lambda: train(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
