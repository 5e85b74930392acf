"""Where a borrowed network comes from, and what is told when it cannot be had."""

from typing import Literal

import torch

from milan.errors import UnknownName
from milan.storage.model_places import resolve_model as resolve_model
from milan.storage.user_code import load_from_file as load_from_file
from milan.targets.module_access import parse_device

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def get_dtype(precision: str) -> torch.dtype:
    """
    >>> get_dtype("bfloat16")
    torch.bfloat16

    Raises:
        UnknownName: no such precision.
    """
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS, "one of: " + ", ".join(PRECISIONS))
    return PRECISIONS[precision]


def check_device(device: str) -> str:
    """The device's name, if something can be put there. Raises BadInput otherwise."""
    parse_device(device)
    return device
