"""``python -m milan.diorama build`` makes Diorama's data anew."""

import sys

from milan.programs.diorama_build import main

if __name__ == "__main__":
    sys.exit(main())
