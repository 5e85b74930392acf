"""Builds things that need each other side by side, each in a process of its own on one thread, and keeps how long each took."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from milan.errors import MilanError
from milan.storage import atomic, in_turn

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
TOLD = 15  # lines of a failed part's log that are shown


class NotBuilt(MilanError):
    """Some parts could not be built; the text names them, and why."""


@dataclass(frozen=True)
class Took:
    """What building a part took: seconds by the clock, and of processors, with those of its worker processes."""

    seconds: float
    cpu: float


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch uses one thread: with more, sums are split otherwise and the same seed gives other weights."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed(make: Callable[[], None]) -> Took:
    """Calls ``make`` on one thread, and gives what that took."""
    started, used = monotonic(), _used()
    with one_thread():
        make()
    return Took(monotonic() - started, _used() - used)


def _used() -> float:
    """Seconds of processors that this process and its ended children have used."""
    return sum(os.times()[:4])


def side_by_side(needs: Mapping[str, Sequence[str]], jobs: int, make: Callable[[str], bool]) -> dict[str, str]:
    """Makes each of the names once all that it needs is made, at most ``jobs`` at a time, the first named first.

    needs: of each name to be made, what it needs; what is not among the names is taken to be there.
    make: makes one, and says whether it could; called from threads.

    Returns why each that was not made was not: "failed", or "needs NAME".
    """
    waiting, missing, running = list(needs), {}, dict[Future[bool], str]()
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for name in list(waiting):
                if lost := [need for need in needs[name] if need in missing]:
                    missing[name] = f"needs {lost[0]}"
                    waiting.remove(name)
                elif len(running) < jobs and not {*needs[name]} & {*waiting, *running.values()}:
                    running[pool.submit(make, name)] = name
                    waiting.remove(name)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(done)
                if not done.result():
                    missing[name] = "failed"
    return missing


def in_process(name: str, command: Sequence[str], log: Path) -> bool:
    """Runs a command that builds a part; prints what it says, each line after the part's name, and whether it succeeded.

    log: keeps all that it says, with how far it is; the end of it is shown if it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **ONE_THREAD})
        try:
            assert process.stdout is not None
            for line in process.stdout:
                errors.write(line)
                errors.flush()
                print(line if line.startswith(name) else f"{name}: {line}", end="", flush=True)
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            status = process.wait()
    if status:
        end = "".join(f"  {line}\n" for line in log.read_text().splitlines()[-TOLD:])
        print(f"{name}: failed (exit status {status}); the end of {log}:\n{end}", end="", file=sys.stderr, flush=True)
    return status == 0


def record(file: Path, name: str, took: Took, turn: Path) -> None:
    """Keeps in ``file`` what a part took, beside what the others did, and their sum.

    turn: a folder that all builds which write to ``file`` share, so that they do it one after the other.
    """

    def added(known: dict[str, Any]) -> dict[str, Any]:
        parts = {**known.get("parts", {}), name: {"cpu seconds": round(took.cpu), "seconds": round(took.seconds)}}
        return known | {"cpu seconds in all": sum(part["cpu seconds"] for part in parts.values()), "parts": dict(sorted(parts.items()))}

    _rewritten(file, added, turn)


def record_whole(file: Path, seconds: float, jobs: int, turn: Path) -> None:
    """Keeps in ``file`` how long all parts took together, made in one go and so many side by side."""
    _rewritten(file, lambda known: known | {"in one go": {"jobs": jobs, "seconds": round(seconds)}}, turn)


def _rewritten(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]], turn: Path) -> None:
    with in_turn(turn):
        changed = change(json.loads(file.read_text()) if file.is_file() else {})
        with atomic(file) as path:
            path.write_text(json.dumps(dict(sorted(changed.items())), indent=1) + "\n")
