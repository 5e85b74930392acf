"""How far a long loop has come, with an estimate of what is left, on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
QUIET = 2.0  # seconds before anything is shown: short loops need no bar
PAUSE = 30.0  # seconds between two lines where stderr is a file


def progress(items: Iterable[T], *, total: int | None = None, text: str = "") -> Iterator[T]:
    """Yields ``items``, showing a bar on a terminal, or a line now and then in a log; short loops show nothing.

    ``total`` is taken from ``len(items)`` where it can be.
    """
    if total is None:
        with suppress(TypeError):
            total = len(items)  # type: ignore[arg-type]
    if sys.stderr is not None and sys.stderr.isatty():
        return iter(tqdm(items, total=total, desc=text or None, delay=QUIET, dynamic_ncols=True, file=sys.stderr))
    return _logged(items, total, text)


def _logged(items: Iterable[T], total: int | None, text: str) -> Iterator[T]:
    start = time.monotonic()
    due = start + PAUSE
    for done, item in enumerate(items):
        now = time.monotonic()
        if now >= due:
            print(_line(done, total, now - start, text), file=sys.stderr, flush=True)
            due = now + PAUSE
        yield item


def _line(done: int, total: int | None, seconds: float, text: str) -> str:
    """One line of a log.

    >>> _line(25, 100, 61, "dissecting")
    'dissecting: 25 of 100 in 1:01, about 3:03 left'
    """
    of = f" of {total}" if total else ""
    left = f", about {tqdm.format_interval(seconds / done * (total - done)).removeprefix('0')} left" if total and 0 < done <= total else ""
    return f"{text or 'done'}: {done}{of} in {tqdm.format_interval(seconds).removeprefix('0')}{left}"
