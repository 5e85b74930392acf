"""How far a long loop has come, with an estimate of what is left, on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
BAR_DELAY = 2.0  # seconds before anything is shown: short loops need no bar
LOG_INTERVAL = 30.0  # seconds between two lines where stderr is a file


def track_progress(items: Iterable[T], *, total: int | None = None, description: str = "") -> Iterator[T]:
    """Yields ``items``, showing a bar on a terminal, or a line now and then in a log; short loops show nothing.

    ``total`` is taken from ``len(items)`` where it can be.
    """
    if total is None:
        with suppress(TypeError):
            total = len(items)  # type: ignore[arg-type]
    if sys.stderr is not None and sys.stderr.isatty():
        return iter(
            tqdm(items, total=total, desc=description or None, delay=BAR_DELAY, dynamic_ncols=True, file=sys.stderr)
        )
    return _log_progress(items, total, description)


def _log_progress(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    start = time.monotonic()
    due = start + LOG_INTERVAL
    for done, item in enumerate(items):
        now = time.monotonic()
        if now >= due:
            print(_format_progress(done, total, now - start, description), file=sys.stderr, flush=True)
            due = now + LOG_INTERVAL
        yield item


def _format_progress(done: int, total: int | None, seconds: float, description: str) -> str:
    """One line of a log.

    >>> _format_progress(25, 100, 61, "dissecting")
    'dissecting: 25 of 100 in 1:01, about 3:03 left'
    """
    of = f" of {total}" if total else ""
    left = (
        f", about {tqdm.format_interval(seconds / done * (total - done)).removeprefix('0')} left"
        if total and 0 < done <= total
        else ""
    )
    return f"{description or 'done'}: {done}{of} in {tqdm.format_interval(seconds).removeprefix('0')}{left}"
