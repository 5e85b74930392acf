"""How long the programs take to print their help or to report a wrong option, relative to what cannot be avoided.

    python -m benchmarks --only start

Processes take turns and the fastest of some rounds counts, in CPU seconds, which other load on the machine changes
less than wall seconds. ``train.py fit --help`` is compared with ``import torch``;
the other programs' help with ``import jsonargparse``, which parses all options; a wrong describer is reported before
torch is imported.
"""

import os
import resource
import subprocess
import sys

from benchmarks.table import ROOT, Row
from milan.experiments.__main__ import experiment_names

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import jsonargparse": ["-c", "import jsonargparse"],
    "train.py fit --help": ["train.py", "fit", "--help"],
    "describe.py --help": ["describe.py", "--help"],
    "describe.py with an unknown describer": ["describe.py", "--describer", "milam"],
    "describe.py --dry_run on Diorama's ResNet": ["describe.py", "--dry_run"],
}


def measure(command: list[str]) -> float:
    """Return the CPU seconds that a process takes."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, env=environment, check=False)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def rows(scale: float) -> list[Row]:
    """Return the rows of the programs' starts; ``scale`` sets the number of rounds."""
    rounds = max(2, round(5 * scale))
    best = {
        name: min(times)
        for name, *times in zip(
            COMMANDS, *([measure(command) for command in COMMANDS.values()] for _ in range(rounds)), strict=True
        )
    }
    helps = [measure(["-m", "milan.experiments", name, "--help"]) for name in experiment_names()]
    torch, parser = ("import torch", best["import torch"]), ("import jsonargparse", best["import jsonargparse"])
    found = [("train.py fit --help", torch, 1.1), ("describe.py --help", parser, None)]
    found += [("describe.py with an unknown describer", parser, None)]
    found += [("describe.py --dry_run on Diorama's ResNet", torch, None)]
    made = [Row(name, best[name], floor, floor_is, goal, "CPU s") for name, (floor_is, floor), goal in found]
    slowest = f"--help of the slowest of {len(helps)} experiments"
    return [*made, Row(slowest, max(helps), parser[1], parser[0], unit="CPU s")]


if __name__ == "__main__":
    for row in rows(1):
        print(row)
