"""``python -m milan.experiments NAME --options`` makes an experiment; without a name it lists those there are."""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import milan.experiments
from milan.console.command_line import arguments_of, build_parser, run_program
from milan.errors import UnknownName

if TYPE_CHECKING:
    from milan.experiments.core.report import Report

PROGRAM = "python -m milan.experiments"


def experiment_names() -> list[str]:
    """The experiments of the package, by the names of their files; what they share is in packages.

    >>> "bench" in experiment_names(), "core" in experiment_names()
    (True, False)
    """
    found = pkgutil.iter_modules(milan.experiments.__path__)
    return sorted(module.name for module in found if module.ispkg and module.name != "core")


def load_experiment(name: str) -> "Callable[..., Report]":
    """The function of that name in the file of that name.

    Raises:
        UnknownName: there is none; the nearest are told.
    """
    if name not in experiment_names():
        raise UnknownName("experiment", name, experiment_names(), f"those there are: {', '.join(experiment_names())}")
    return getattr(importlib.import_module(f"milan.experiments.{name}.{name}"), name)


def list_experiments() -> str:
    """Every experiment with the first line of what it says of itself."""
    said = {name: (inspect.getdoc(load_experiment(name)) or "").splitlines()[0] for name in experiment_names()}
    lines = [f"  {name:16}{text}" for name, text in said.items()]
    return "\n".join(
        [f"usage: {PROGRAM} NAME --options  ({PROGRAM} NAME --help lists the options)", "", "experiments:", *lines]
    )


def main(args: Sequence[str] | None = None) -> int:
    """The program: reads the options, makes the experiment, and gives the exit status."""
    return run_program(lambda: _main(list(sys.argv[1:] if args is None else args)))


def _main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(list_experiments())
        return
    function = load_experiment(name := words.pop(0))
    options = build_parser(f"{PROGRAM} {name}", (inspect.getdoc(function) or "").splitlines()[0], function)
    chosen = options.parse_args(_normalize_arguments(words, function)).as_dict()
    _run_and_report(function, arguments_of(function, chosen))


def _normalize_arguments(words: Sequence[str], function: "Callable[..., Report]") -> list[str]:
    """Words before the first option are those of the first, where that one takes several: ``compare DIR DIR``."""
    first = next(iter(inspect.signature(function).parameters.values()))
    if not words or words[0].startswith("-") or not str(first.annotation).startswith("list"):
        return list(words)
    return [f"--{first.name}", *words]


def _run_and_report(function: "Callable[..., Report]", options: dict[str, Any]) -> None:
    report = function(**options)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        report.print_summary()


if __name__ == "__main__":
    sys.exit(main())
