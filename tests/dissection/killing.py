"""A program for the tests: dissects in child processes that are killed at chosen moments, without any warning, until
one is not.

``python -m tests.dissection.killing OUT when...``: each ``when`` is a number of file replacements, or of blocks as
``b3``, after which the child that runs then is killed. Children are forks of one process, so that torch is imported
once.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

import torch

from milan.dissection import dissection_run as running
from milan.dissection.dissect import dissect
from milan.errors import MilanWarning
from tests.dissection.world import LAYERS, toy_probe, toy_target


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(count: int, before: bool) -> None:
    """Dies at the ``count``-th replacement of a file, before or after it."""
    replace, left = Path.replace, [count]

    def replacing(path: Path, target: Path) -> Path:
        left[0] -= 1
        if before and left[0] == 0:
            die()
        found = replace(path, target)
        if left[0] == 0:
            die()
        return found

    Path.replace = replacing  # type: ignore[method-assign]


def after_blocks(count: int) -> None:
    """Dies when so many blocks were taken in."""
    take, left = running.DissectionRun._add_block, [count]

    def taking(*arguments: object) -> None:
        take(*arguments)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            die()

    running.DissectionRun._add_block = taking  # type: ignore[method-assign, assignment]


def child(out: Path, when: str) -> bool:
    """Runs once; says whether it was killed."""
    pid = os.fork()
    if pid == 0:
        if when.startswith("b"):
            after_blocks(int(when[1:]))
        elif when:
            after(abs(int(when)), before=when.startswith("-"))
        warnings.simplefilter("error", MilanWarning)
        dissect(toy_target(), toy_probe(300), LAYERS, out)
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise SystemExit(f"a child ended with {status} at {when!r}")
    return False


if __name__ == "__main__":
    torch.set_num_threads(1)
    running.MIN_CHECKPOINT_SECONDS = running.CHECKPOINT_COST_RATIO = 0  # a checkpoint after each block
    folder = Path(sys.argv[1])
    killed = sum(child(folder, when) for when in sys.argv[2:])
    child(folder, "")
    print(killed)
