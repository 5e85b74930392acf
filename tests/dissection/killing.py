"""Dissections in processes that are killed at chosen moments: after a number of file replacements, or of blocks as in
``b3``.
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from milan.dissection import dissection_run as running
from milan.dissection.dissect import dissect
from milan.errors import MilanError, MilanWarning
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


def dissect_killed(out: Path, moments: Sequence[str]) -> None:
    """Dissect in children that are killed at each of the moments, then to the end; print how many were killed."""
    checkpoint_often()
    killed = sum(child(out, when) for when in moments)
    child(out, "")
    print(killed)


def leave_behind(out: Path, blocks: int) -> None:
    """Dissect until killed after some blocks, before the checkpoint of the last."""
    checkpoint_often()
    assert child(out, f"b{blocks}")


def dissect_slowly(out: Path) -> None:
    """Dissect with a pause and a sign after each block."""
    checkpoint_often()
    take = running.DissectionRun._add_block

    def slowly(*arguments: object) -> None:
        take(*arguments)  # type: ignore[arg-type]
        print(".", flush=True)
        time.sleep(0.05)

    running.DissectionRun._add_block = slowly  # type: ignore[method-assign, assignment]
    dissect(toy_target(), toy_probe(300), LAYERS, out)


def dissect_whole(out: Path, images: int = 300) -> None:
    """Dissect and print the exemplars of a unit, or the error."""
    try:
        found = dissect(toy_target(), toy_probe(images), LAYERS, out)
        print(found["conv2"].exemplars(found["conv2"].units[0]).ids.tolist())
    except MilanError as error:
        print(error)


def dissect_as_rank(out: Path, killed: bool) -> None:
    """Dissect as one of two processes, of which the second is killed after two blocks, unless it is to end."""
    if killed:
        checkpoint_often()
        after_blocks(2 if os.environ["RANK"] == "1" else 4)
    dissect_whole(out)


def checkpoint_often() -> None:
    running.MIN_CHECKPOINT_SECONDS = running.CHECKPOINT_COST_RATIO = 0  # a checkpoint after each block
