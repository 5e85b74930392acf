"""``python -m milan.language build`` trains the package's English pipeline on a treebank."""

import sys
from collections.abc import Sequence

from milan.command import parser, run


def main(words: Sequence[str] | None = None) -> int:
    """The program: reads the options, builds, and gives the exit status."""
    from milan.language.building import build

    words = list(sys.argv[1:] if words is None else words)
    command = words.pop(0) if words and not words[0].startswith("-") else None
    options = parser("python -m milan.language build", "Trains an English tagger and parser on a treebank, with spaCy's trainer.", build)
    if command not in (None, "build"):
        options.error(f"unknown command {command!r}; the only one is build")
    chosen = options.parse_args(words).as_dict()
    chosen.pop("config", None)
    return run(lambda: build(**chosen))


if __name__ == "__main__":
    sys.exit(main())
