"""What a benchmark returns, and what several benchmarks need: the shared data and processes of their own.

A benchmark is a module of this folder with a function ``rows(scale: float) -> list[Row]``. ``scale`` is 1 for the
sizes that are promised and 0.1 for a tenth of them. ``python -m benchmarks`` (``make benchmarks``) finds each such
module, calls ``rows`` in a process of its own, and writes all rows as one table to ``benchmarks/README.md``. A
benchmark whose data is absent raises ``Skipped``; the table then says why its rows are missing.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # real data; it does not come with the project


class Skipped(Exception):
    """The benchmark cannot run on this machine; the text says why."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is measured, with its sizes.
        ours: what this package takes, in ``unit``.
        floor: what cannot be done without, measured in the same run; None if there is none.
        floor_is: what the floor is, such as "decoding + forward pass".
        goal: largest ratio of ours to the floor that is promised; None if none is.
        unit: unit of both figures.
        peer: what other code takes, and which.
        command: command that prints the row; ``python -m benchmarks --only MODULE`` by default.
    """

    what: str
    ours: float
    floor: float | None = None
    floor_is: str = ""
    goal: float | None = None
    unit: str = "s"
    peer: str = ""
    command: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours relative to the floor."""
        return self.ours / self.floor if self.floor else None


def shared(name: str) -> Path:
    """Return a file or folder of the shared data.

    Raises:
        Skipped: it is not on this machine.
    """
    path = SHARED / name
    if not path.exists():
        raise Skipped(f"needs the shared data ({name})")
    return path


def run_parts(module: str, parts: Sequence[str], *options: str, rounds: int = 1) -> dict[str, list[float]]:
    """Run ``python -m MODULE --part PART OPTIONS`` for each part in turn, and return the medians of what they print.

    Each part runs in processes of its own and prints numbers as one JSON list in its last line. Parts take turns, so
    that other load on the machine falls on all of them.
    """
    printed: dict[str, list[list[float]]] = {part: [] for part in parts}
    for _ in range(rounds):
        for part, runs in printed.items():
            command = [sys.executable, "-m", module, "--part", part, *options]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip()[-500:]}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {part: [median(column) for column in zip(*runs, strict=True)] for part, runs in printed.items()}
