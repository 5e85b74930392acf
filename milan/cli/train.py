"""``train.py``: trains the captioner or the prior with Lightning; interrupted runs can be resumed."""

import sys
from collections.abc import Sequence

from milan.cli.train_config import DataConfig, ModelConfig, TrainConfig, TrainerConfig
from milan.console.command_line import arguments_of, build_parser, run_program
from milan.storage.packaged_data import locate_packaged_data

COMMAND = "fit"


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


def train(args: Sequence[str]) -> None:
    """Run ``train.py`` with arguments.

    Args:
        args: ``fit`` and its options; empty to train the prior and the captioner on Diorama's annotations.

    Raises:
        MilanError: the options or the data cannot be used.
        KeyboardInterrupt: training was interrupted.
    """
    if not args:
        _train_default()
        return
    command, words = args[0], list(args[1:])
    if command.startswith("-"):
        command, words = COMMAND, list(args)
    parser = build_parser(f"train.py {COMMAND}", "Train MILAN's captioner or prior.", run_fit)
    if command != COMMAND:
        parser.error(f"unknown command {command!r}; the only command is {COMMAND}")
    run_fit(**arguments_of(run_fit, parser.parse_args(words).as_dict()))


def _train_default() -> None:
    root = TrainConfig().out
    for name in ("prior", "captioner"):
        out = root / name
        print(f"{name}: training on Diorama's annotations, in {out}", file=sys.stderr, flush=True)
        train([COMMAND, f"--config={locate_packaged_data(f'configs/{name}.yaml')}", f"--out={out}"])
    settings = " ".join(f"--settings.{name} {root / name}" for name in ("captioner", "prior"))
    print(f"describe with them: python describe.py {settings}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(lambda: train(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
