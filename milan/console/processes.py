"""The processes of a run under ``torchrun``, as far as its output is concerned."""

import os


def is_first_process() -> bool:
    """Return whether this is the first process of a run under ``torchrun``, or the only one: it speaks for all."""
    return os.environ.get("RANK", "0") == "0"
