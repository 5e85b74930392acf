"""Errors and warnings of the package: one line that names the subject, shows its value, and says what to do."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class MilanError(Exception):
    """Base class of errors shown to the user in one line; the programs then exit with status 2."""


class BadInput(MilanError):
    """A file, option or tensor that cannot be used as it is."""


def require_at_least(least: int, **values: int | None) -> None:
    """Raise BadInput for a number, given by its name, below the least that it can be; None is no number."""
    for name, value in values.items():
        if value is not None and value < least:
            raise BadInput(f"{name} is {value}; give at least {least}")


class MissingEvidence(MilanError):
    """A dissection, target or probe lacks the requested data; the message names what provides it."""


class UnknownName(MilanError):
    """An unknown name; the message lists the nearest known ones.

    >>> print(UnknownName("layer", "layer5", ["layer1", "layer4", "fc"], "list them with --list_layers"))
    unknown layer 'layer5'; nearest: layer4, layer1; list them with --list_layers
    """

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = ""):
        near = find_nearest_names(name, available)
        parts = [f"unknown {kind} {name!r}", f"nearest: {', '.join(near)}" if near else "", hint]
        super().__init__("; ".join(part for part in parts if part))
        self.nearest = near


class MilanWarning(UserWarning):
    """A fact about a result that the user should know; the programs print it once and store it in ``run.json``."""

    def __init__(self, *args: object):
        super().__init__(*args)
        for record in list(_recorders):
            record(str(self))


_recorders: list[Callable[[str], None]] = []


@contextmanager
def recorded_warnings(record: Callable[[str], None]) -> Iterator[None]:
    """Call ``record`` with the text of each ``MilanWarning`` within the block, in any thread and under any filter.

    Stored results (a dissection, a journal) contain the warnings of the run that computed them, and repeat them with
    :func:`warn_again` when they are read.

    >>> import warnings
    >>> texts: list[str] = []
    >>> with recorded_warnings(texts.append), warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     warnings.warn("2 images skipped", MilanWarning)
    >>> texts
    ['2 images skipped']
    """
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.remove(record)


def warn_again(texts: Iterable[str]) -> None:
    """Issue each text as a ``MilanWarning``, for a result that was computed earlier."""
    for text in texts:
        warnings.warn(text, MilanWarning, stacklevel=3)


class MilanNotice(MilanWarning):
    """A fact about a run that does not concern its result; the programs print it once and do not store it."""


def find_nearest_names(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most similar to ``name``, most similar first."""
    return get_close_matches(name, list(candidates), n=count, cutoff=0.3)
