"""``python -m milan.experiments NAME --options`` makes an experiment; without a name it lists those there are."""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import milan.experiments
from milan.command import arguments_of, parser, run
from milan.errors import UnknownName

if TYPE_CHECKING:
    from milan.experiments.reporting.report import Report

PROGRAM = "python -m milan.experiments"


def experiment_names() -> list[str]:
    """The experiments of the package, by the names of their files; what they share is in packages.

    >>> "bench" in experiment_names(), "reporting" in experiment_names()
    (True, False)
    """
    found = pkgutil.iter_modules(milan.experiments.__path__)
    return sorted(module.name for module in found if not module.ispkg and not module.name.startswith("_"))


def experiment(name: str) -> "Callable[..., Report]":
    """The function of that name in the file of that name.

    Raises:
        UnknownName: there is none; the nearest are told.
    """
    if name not in experiment_names():
        raise UnknownName("experiment", name, experiment_names(), f"those there are: {', '.join(experiment_names())}")
    return getattr(importlib.import_module(f"milan.experiments.{name}"), name)


def listed() -> str:
    """Every experiment with the first line of what it says of itself."""
    said = {name: (inspect.getdoc(experiment(name)) or "").splitlines()[0] for name in experiment_names()}
    lines = [f"  {name:16}{text}" for name, text in said.items()]
    return "\n".join([f"usage: {PROGRAM} NAME --options  ({PROGRAM} NAME --help lists the options)", "", "experiments:", *lines])


def main(words: Sequence[str] | None = None) -> int:
    """The program: reads the options, makes the experiment, and gives the exit status."""
    return run(lambda: _main(list(sys.argv[1:] if words is None else words)))


def _main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(listed())
        return
    function = experiment(name := words.pop(0))
    options = parser(f"{PROGRAM} {name}", (inspect.getdoc(function) or "").splitlines()[0], function)
    chosen = options.parse_args(_spelled_out(words, function)).as_dict()
    _told(function, arguments_of(function, chosen))


def _spelled_out(words: Sequence[str], function: "Callable[..., Report]") -> list[str]:
    """Words before the first option are those of the first, where that one takes several: ``compare DIR DIR``."""
    first = next(iter(inspect.signature(function).parameters.values()))
    if not words or words[0].startswith("-") or not str(first.annotation).startswith("list"):
        return list(words)
    return [f"--{first.name}", *words]


def _told(function: "Callable[..., Report]", options: dict[str, Any]) -> None:
    report = function(**options)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        report.tell()


if __name__ == "__main__":
    sys.exit(main())
