"""Run all benchmarks and write ``benchmarks/README.md``.

    python -m benchmarks [--scale 0.1] [--only NAME ...] [--out benchmarks/README.md]

Convention: a file of this folder takes part if it defines ``rows(scale: float) -> list[benchmarks.table.Row]``; nothing
has to be registered. ``rows`` is called in a process of its own, so that peak memory and threads are that benchmark's.
See ``benchmarks/table.py`` for ``Row``, ``Skipped``, the shared data, and parts in further processes.
"""

import argparse
import ast
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.table import ROOT, Row, Skipped

FOLDER = Path(__file__).parent
LIMIT = 20 * 60  # seconds for one benchmark
HEADER = """# Benchmarks

Written by `{command}` on {date}: {cores} cores with a load of {load:.1f} (mean of 15 minutes),
torch {torch}, {minutes:.0f} minutes{note}.
"Floor" is what the work cannot do without, measured in the same run; a ratio is ours relative to it, and the goal is
the largest ratio that is promised. Times are wall times unless they say CPU; compare ratios, not seconds, between
machines. `python -m benchmarks --only NAME` prints the rows of one file; each file's docstring says what it measures.

| benchmark | what | floor | ours | ratio | goal | others | command |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def find_benchmarks() -> list[str]:
    """Return the names of the modules that define ``rows``, without importing them."""
    return [
        file.stem
        for file in sorted(FOLDER.glob("*.py"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "rows" for node in ast.parse(file.read_text()).body)
    ]


def measure(name: str, scale: float) -> tuple[list[Row], str]:
    """Return a benchmark's rows, measured in a process of its own, and an empty text; or no rows and the reason."""
    command = [sys.executable, "-m", "benchmarks", "--worker", name, "--scale", str(scale)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return [], f"stopped after {LIMIT / 60:.0f} minutes"
    if done.returncode:
        return [], f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    answer = json.loads(done.stdout.splitlines()[-1])
    return [Row(**row) for row in answer["rows"]], answer["skipped"]


def work(name: str, scale: float) -> None:
    """Print the rows of a benchmark as one line of JSON; this is the process of its own."""
    try:
        rows, skipped = importlib.import_module(f"benchmarks.{name}").rows(scale), ""
    except Skipped as reason:
        rows, skipped = [], f"skipped: {reason}"
    print(json.dumps({"rows": [asdict(row) for row in rows], "skipped": skipped}))


def format_row(name: str, row: Row) -> str:
    """Return a row as Markdown."""
    floor = "" if row.floor is None else f"{row.floor:,.3g} {row.unit} ({row.floor_is})"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    goal = "" if row.goal is None else f"{row.goal:g}"
    command = row.command or f"python -m benchmarks --only {name}"
    cells = [name, row.what, floor, f"{row.ours:,.3g} {row.unit}", ratio, goal, row.peer, f"`{command}`"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1, help="fraction of the promised sizes")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="benchmarks to run; the table is printed, not written"
    )
    parser.add_argument("--out", type=Path, default=FOLDER / "README.md", help="file of the table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.scale)
        return
    start, lines = time.monotonic(), []
    for name in options.only or find_benchmarks():
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows, reason = measure(name, options.scale)
        lines += [format_row(name, row) for row in rows] or [f"| {name} | {reason} | | | | | | |"]
        print("\n".join(lines[-max(1, len(rows)) :]), flush=True)
        # After each, so that a stopped run leaves the rows that it has.
        if not options.only:
            options.out.write_text(make_header(options.scale, time.monotonic() - start) + "\n".join(lines) + "\n")


def make_header(scale: float, seconds: float) -> str:
    """Return the text above the table."""
    from importlib.metadata import version

    commands = {1: "make benchmarks-full", 0.1: "make benchmarks"}
    command, load = commands.get(scale, f"python -m benchmarks --scale {scale:g}"), os.getloadavg()[2]
    note = "" if scale == 1 else f", at {scale:g} of the full sizes"
    today, cores = datetime.now(UTC).date().isoformat(), len(os.sched_getaffinity(0))
    return HEADER.format(
        command=command,
        date=today,
        cores=cores,
        load=load,
        torch=version("torch"),
        minutes=seconds / 60,
        note=note,
    )


if __name__ == "__main__":
    main()
