"""``python -m milan.language build`` trains the package's English pipeline on a treebank."""

import sys
from collections.abc import Sequence

from milan.console.command_line import program


def main(words: Sequence[str] | None = None) -> int:
    """The program: reads the options, builds, and gives the exit status."""
    from milan.diorama_build.language_pipeline import build

    text = "Trains an English tagger and parser on a treebank, with spaCy's trainer."
    return program("python -m milan.language build", text, build, words, "build")


if __name__ == "__main__":
    sys.exit(main())
