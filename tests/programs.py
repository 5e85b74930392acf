"""Processes for tests of signals, kills and ranks, forked from one that has imported the libraries once."""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["milan.cli.describe_run", "milan.cli.train_run", "milan.models.training"])


class Program:
    """A function in a process and a session of its own; its result is the exit status, as that of ``main`` is.

    Args:
        run: function of a module; an exception ends the process with status 1 and a traceback.
        arguments: what it is called with.
        folder: folder for the files ``stdout`` and ``stderr``, which receive the output.
        environment: additional environment variables.
    """

    def __init__(self, run: Callable[..., Any], *arguments: Any, folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = folder / "stdout", folder / "stderr"
        for file in self.files:
            file.write_text("")
        variables = {**os.environ, **environment}
        self.process = CONTEXT.Process(target=_run, args=(run, arguments, self.files, variables))
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and to those that it started."""
        os.killpg(self.process.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Return the exit status, or the negative number of the signal that ended the process."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.send(signal.SIGKILL)
            pytest.fail(f"still running after {seconds} s: {self.err}")
        return self.process.exitcode

    @property
    def out(self) -> str:
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        return self.files[1].read_text()


def _run(
    run: Callable[..., Any], arguments: Sequence[Any], files: tuple[Path, Path], variables: dict[str, str]
) -> None:
    os.setsid()
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(variables)
    try:
        status = run(*arguments)
        sys.exit(status if isinstance(status, int) else 0)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends without them


def start_ranks(run: Callable[..., Any], *arguments: Any, folder: Path, **environment: str) -> list[Program]:
    """Start two processes of one run, with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    return [
        Program(run, *arguments, folder=folder / rank, RANK=rank, LOCAL_RANK=rank, **address, **environment)
        for rank in "01"
    ]
