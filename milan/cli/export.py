"""``python -m milan.cli.export RUN --format hub``: a described run in a form that others can use."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from milan.console.command_line import program

PROGRAM = "python -m milan.cli.export"
MAX_MIB = 20.0  # MiB


def run_export(
    run: Path,
    format: Literal["milannotations", "hub", "csv"] | None = None,
    single_file: bool = False,
    out: Path | None = None,
    max_mib: float = MAX_MIB,
) -> None:
    """Write a described run in a format for other programs.

    Args:
        run: A folder that describe.py wrote.
        format: The form: milannotations (the layout of the released MILANNOTATIONS), hub (a folder that
            datasets.load_dataset reads, with pictures, masks, descriptions and a card), or csv (one table).
        single_file: Write the page as one HTML file with its pictures inlined, for mail.
        out: The folder to write to. By default export/FORMAT in the folder of the run.
        max_mib: The largest size of the single file, in MiB.
    """
    from milan.errors import BadInput
    from milan.results.catalogue import read_catalogue
    from milan.results.export import export_catalogue

    if bool(format) == single_file:
        raise BadInput("give either --format milannotations, hub or csv, or --single_file")
    form = format or "single_file"
    print(export_catalogue(read_catalogue(run), form, out or run / "export" / form, max_mib=max_mib))


def main(args: Sequence[str] | None = None) -> int:
    """Read the options, run the program, and return its exit status."""
    words = list(sys.argv[1:] if args is None else args)
    if words and not words[0].startswith("-"):
        words = [f"--run={words[0]}", *words[1:]]
    return program(
        PROGRAM,
        "Write a described run (RUN --format FORMAT, or RUN --single_file) in a form that others can use.",
        run_export,
        words,
    )


if __name__ == "__main__":
    sys.exit(main())
