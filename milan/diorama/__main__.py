"""``python -m milan.diorama build`` makes Diorama's data anew."""

import sys

from milan.diorama_build.build_steps import main

if __name__ == "__main__":
    sys.exit(main())
