"""Describes the units of a network in words: ``python describe.py --help``."""

import sys

from milan.cli.describe import main

if __name__ == "__main__":
    sys.exit(main())
