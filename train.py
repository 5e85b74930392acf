"""Train MILAN: ``python train.py`` for prior and captioner, ``python train.py fit --config FILE`` for one of them."""

import sys

from milan.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
