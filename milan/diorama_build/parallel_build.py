"""Builds parts that depend on each other in parallel, each in its own process, and records their times."""

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
LOG_TAIL_LINES = 15  # lines of a failed part's log that are printed


class BuildFailed(MilanError):
    """Some parts could not be built; the message names them with the reasons."""


@dataclass(frozen=True)
class BuildTime:
    """Wall-clock and CPU seconds of a build, its worker processes included."""

    seconds: float
    cpu: float


@contextmanager
def limit_to_one_thread() -> Iterator[None]:
    """Limit torch to one thread within the context.

    With more threads sums are split differently, and the same seed gives different weights.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_time(build: Callable[[], None]) -> BuildTime:
    """Call ``build`` with torch on one thread and return the time that it took."""
    started, used = monotonic(), _cpu_seconds()
    with limit_to_one_thread():
        build()
    return BuildTime(monotonic() - started, _cpu_seconds() - used)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def run_in_parallel(
    requirements: Mapping[str, Sequence[str]], jobs: int, build: Callable[[str], bool]
) -> dict[str, str]:
    """Build parts as soon as all parts that they need are built, in the order in which they are named.

    Args:
        requirements: names of the parts that each part needs; a name that is no key is taken as built.
        jobs: largest number of parts built at the same time.
        build: builds a part and returns whether it succeeded; it is called from threads.

    Returns:
        The reason for each part that was not built: "failed" or "needs NAME".
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
    """Run a command that builds a part, print its output line by line, and return whether it succeeded.

    Args:
        name: name of the part; each line is printed after it.
        command: the command.
        log: file for the whole output, with the progress; its end is printed if the command fails.
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
        tail = "".join(f"  {line}\n" for line in log.read_text().splitlines()[-LOG_TAIL_LINES:])
        print(f"{name}: failed (exit status {status}); the end of {log}:\n{tail}", end="", file=sys.stderr, flush=True)
    return status == 0


def record_time(file: Path, name: str, took: BuildTime, lock: Path) -> None:
    """Write the time of a part, and the sum of all parts, into a JSON file.

    Args:
        file: the JSON file, which keeps the times of other parts.
        name: name of the part.
        took: time of the part.
        lock: folder that is locked meanwhile; builds that write to ``file`` share it.
    """

    def add_part(facts: dict[str, Any]) -> dict[str, Any]:
        parts = {**facts.get("parts", {}), name: {"cpu seconds": round(took.cpu), "seconds": round(took.seconds)}}
        return facts | {
            "cpu seconds in all": sum(part["cpu seconds"] for part in parts.values()),
            "parts": dict(sorted(parts.items())),
        }

    _rewrite_json(file, add_part, lock)


def record_total_time(file: Path, seconds: float, jobs: int, lock: Path) -> None:
    """Write the wall-clock time of a build of all parts, with its number of jobs, into a JSON file."""
    _rewrite_json(file, lambda facts: facts | {"in one go": {"jobs": jobs, "seconds": round(seconds)}}, lock)


def _rewrite_json(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]], lock: Path) -> None:
    with wait_for_folder(lock):
        changed = change(json.loads(file.read_text()) if file.is_file() else {})
        with atomic_write(file) as path:
            path.write_text(json.dumps(dict(sorted(changed.items())), indent=1) + "\n")
