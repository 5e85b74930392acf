"""Trains MILAN's captioner or its prior: ``python train.py fit --config configs/captioner.yaml``."""

import sys

from milan.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
