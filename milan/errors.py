"""What the package raises and warns with: one line that names the thing, shows its value, and says what to do."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class MilanError(Exception):
    """A fault of the input or the machine, told in one line; a program answers it with exit status 2."""


class BadInput(MilanError):
    """A file, option or tensor that cannot be used as it is."""


class MissingEvidence(MilanError):
    """Something was asked of a dissection that it does not hold; the text names what to run to get it."""


class UnknownName(MilanError):
    """A name that nothing answers to.

    >>> print(UnknownName("layer", "layer5", ["layer1", "layer4", "fc"], "list them with --list_layers"))
    unknown layer 'layer5'; nearest: layer4, layer1; list them with --list_layers
    """

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = ""):
        near = find_nearest_names(name, available)
        parts = [f"unknown {kind} {name!r}", f"nearest: {', '.join(near)}" if near else "", hint]
        super().__init__("; ".join(part for part in parts if part))
        self.nearest = near


class MilanWarning(UserWarning):
    """Something a user should know of a result; a program prints it once and keeps it in ``run.json``."""

    def __init__(self, *args: object):
        super().__init__(*args)
        for record in list(_recorders):
            record(str(self))


_recorders: list[Callable[[str], None]] = []


@contextmanager
def recorded_warnings(record: Callable[[str], None]) -> Iterator[None]:
    """Within it ``record`` is called with the text of every ``MilanWarning``, of any thread and whatever filters say.

    What is kept to be read again (a dissection, a journal) keeps the warnings of its making, and gives them again with
    ``warn_again``: they are part of the result.

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
    """Give each text as a ``MilanWarning``: those of a result that was made before."""
    for text in texts:
        warnings.warn(text, MilanWarning, stacklevel=3)


class MilanNotice(MilanWarning):
    """Something to know about a run but not about its result; a program prints it once and does not keep it."""


def find_nearest_names(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The names most like ``name``, likest first."""
    return get_close_matches(name, list(candidates), n=count, cutoff=0.3)
