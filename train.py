"""Train MILAN: ``python train.py`` (prior and captioner), or ``python train.py fit --config configs/captioner.yaml``."""

import sys

from milan.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
