"""Builds things that need each other side by side, each in a process of its own on one thread, and keeps how long each
took.
"""

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
from milan.storage.files import atomic_write, wait_for_folder

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
LOG_TAIL_LINES = 15  # lines of a failed part's log that are shown


class BuildFailed(MilanError):
    """Some parts could not be built; the text names them, and why."""


@dataclass(frozen=True)
class BuildTime:
    """What building a part took: seconds by the clock, and of processors, with those of its worker processes."""

    seconds: float
    cpu: float


@contextmanager
def limit_to_one_thread() -> Iterator[None]:
    """Within it torch uses one thread: with more, sums are split otherwise and the same seed gives other weights."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_time(build: Callable[[], None]) -> BuildTime:
    """Calls ``build`` on one thread, and gives what that took."""
    started, used = monotonic(), _cpu_seconds()
    with limit_to_one_thread():
        build()
    return BuildTime(monotonic() - started, _cpu_seconds() - used)


def _cpu_seconds() -> float:
    """Seconds of processors that this process and its ended children have used."""
    return sum(os.times()[:4])


def run_in_parallel(
    requirements: Mapping[str, Sequence[str]], jobs: int, build: Callable[[str], bool]
) -> dict[str, str]:
    """Makes each of the names once all that it needs is made, at most ``jobs`` at a time, the first named first.

    requirements: of each name to be made, what it needs; what is not among the names is taken to be there.
    build: makes one, and says whether it could; called from threads.

    Returns why each that was not made was not: "failed", or "needs NAME".
    """
    waiting, missing, running = list(requirements), {}, dict[Future[bool], str]()
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for name in list(waiting):
                if lost := [need for need in requirements[name] if need in missing]:
                    missing[name] = f"needs {lost[0]}"
                    waiting.remove(name)
                elif len(running) < jobs and not {*requirements[name]} & {*waiting, *running.values()}:
                    running[pool.submit(build, name)] = name
                    waiting.remove(name)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(done)
                if not done.result():
                    missing[name] = "failed"
    return missing


def run_subprocess(name: str, command: Sequence[str], log: Path) -> bool:
    """Runs a command that builds a part; prints what it says, each line after the part's name, and whether it
    succeeded.

    log: keeps all that it says, with how far it is; the end of it is shown if it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **ONE_THREAD}
        )
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
        end = "".join(f"  {line}\n" for line in log.read_text().splitlines()[-LOG_TAIL_LINES:])
        print(f"{name}: failed (exit status {status}); the end of {log}:\n{end}", end="", file=sys.stderr, flush=True)
    return status == 0


def record_time(file: Path, name: str, took: BuildTime, turn: Path) -> None:
    """Keeps in ``file`` what a part took, beside what the others did, and their sum.

    turn: a folder that all builds which write to ``file`` share, so that they do it one after the other.
    """

    def added(known: dict[str, Any]) -> dict[str, Any]:
        parts = {**known.get("parts", {}), name: {"cpu seconds": round(took.cpu), "seconds": round(took.seconds)}}
        return known | {
            "cpu seconds in all": sum(part["cpu seconds"] for part in parts.values()),
            "parts": dict(sorted(parts.items())),
        }

    _rewrite_json(file, added, turn)


def record_total_time(file: Path, seconds: float, jobs: int, turn: Path) -> None:
    """Keeps in ``file`` how long all parts took together, made in one go and so many side by side."""
    _rewrite_json(file, lambda known: known | {"in one go": {"jobs": jobs, "seconds": round(seconds)}}, turn)


def _rewrite_json(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]], turn: Path) -> None:
    with wait_for_folder(turn):
        changed = change(json.loads(file.read_text()) if file.is_file() else {})
        with atomic_write(file) as path:
            path.write_text(json.dumps(dict(sorted(changed.items())), indent=1) + "\n")
