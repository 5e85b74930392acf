"""Progress of long loops on stderr, with an estimate of the remaining time."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

from milan.console.processes import is_first_process

T = TypeVar("T")
BAR_DELAY = 2.0  # seconds before a bar appears
LOG_INTERVAL = 30.0  # seconds between two lines if stderr is not a terminal


def track_progress(items: Iterable[T], *, total: int | None = None, description: str = "") -> Iterator[T]:
    """Yield ``items`` and show a progress bar on a terminal, or a line every 30 seconds in a log.

    Under ``torchrun`` the first process shows it.

    Args:
        items: what to iterate over.
        total: the number of items; ``len(items)`` by default, where it is defined.
        description: what the loop does.
    """
    if not is_first_process():
        return iter(items)
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
    """Return one line of a log.

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
