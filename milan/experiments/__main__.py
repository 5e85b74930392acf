"""``python -m milan.experiments NAME --options`` runs an experiment; without a name it lists all experiments.

Options come from ``NameConfig`` in ``milan/experiments/NAME/config.py``, which imports no torch; ``NAME.py`` beside it
is imported only to run.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import milan.experiments
from milan.console.command_line import arguments_of, build_parser, run_program
from milan.console.processes import is_first_process
from milan.errors import UnknownName
from milan.experiments.core.config import ReportConfig
from milan.experiments.core.early_checks import check_options

if TYPE_CHECKING:
    from milan.experiments.core.report import Report

PROGRAM = "python -m milan.experiments"


def experiment_names() -> list[str]:
    """Return the names of all experiments, which are those of their folders.

    >>> "bench" in experiment_names(), "core" in experiment_names()
    (True, False)
    """
    modules = pkgutil.iter_modules(milan.experiments.__path__)
    return sorted(module.name for module in modules if module.ispkg and module.name != "core")


def load_config_class(name: str) -> type[ReportConfig]:
    """Return the options of an experiment, without importing the experiment itself.

    >>> load_config_class("cut_and_paste").__name__
    'CutAndPasteConfig'

    Raises:
        UnknownName: there is no such experiment; the message names the nearest ones.
    """
    names = experiment_names()
    if name not in names:
        raise UnknownName("experiment", name, names, f"choose one of {', '.join(names)}")
    return getattr(
        importlib.import_module(f"milan.experiments.{name}.config"), f"{name.title().replace('_', '')}Config"
    )


def load_experiment(name: str) -> "Callable[[ReportConfig], Report]":
    """Return the function that runs an experiment, which has the experiment's name."""
    return getattr(importlib.import_module(f"milan.experiments.{name}.{name}"), name)


def format_summary(name: str) -> str:
    """Return what an experiment does, in one sentence."""
    return (inspect.getdoc(load_config_class(name)) or "").partition("\n\n")[0].replace("\n", " ")


def list_experiments() -> str:
    """Return the usage of the program and every experiment with its summary."""
    lines = [f"  {name:16}{format_summary(name)}" for name in experiment_names()]
    usage = f"usage: {PROGRAM} NAME --options  ({PROGRAM} NAME --help lists the options)"
    return "\n".join([usage, "", "experiments:", *lines])


def main(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(lambda: _main(list(sys.argv[1:] if args is None else args)))


def parse_config(name: str, words: Sequence[str]) -> ReportConfig:
    """Return the options that the words of a command line state for an experiment.

    Words before the first option are those of the experiment's own first option, if that is a list: compare DIR DIR.
    """
    config_class = load_config_class(name)
    parser = build_parser(f"{PROGRAM} {name}", format_summary(name), config_class)
    first = next(iter(config_class.__annotations__))
    if first in parser.list_options and words and not words[0].startswith("-"):
        words = [f"--{first}", *words]
    return config_class(**arguments_of(config_class, parser.parse_args(words).as_dict()))


def _main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(list_experiments())
        return
    config = parse_config(name := words[0], words[1:])
    if config.dry_run:
        from milan.experiments.core.dry_run import format_plan

        print(format_plan(config))
        return
    check_options(config)
    report = load_experiment(name)(config)
    if is_first_process():
        report.print_summary()


if __name__ == "__main__":
    sys.exit(main())
