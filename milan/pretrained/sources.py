"""Where a borrowed network comes from, and what is told when it cannot be had."""

from pathlib import Path
from typing import Any, Literal

import torch

from milan.errors import BadInput, MilanError, UnknownName
from milan.file_kinds import check_model_folder
from milan.targets.families import looks_like_path
from milan.targets.hubs import first_line, only_cached
from milan.user_code import module_of, one_line

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def place(name: str, holds: str = "config.json", kind: str = "transformers model", family: str = "hf") -> tuple[str, bool]:
    """The folder or hub id of a model that is meant, and whether no hub is to be asked for it.

    Args:
        holds: the file by which a folder of one is known.
        kind: what it is called in messages.
        family: what stands before its name in a spec.

    Raises:
        BadInput: it is a path that leads to no such model, or an id that is neither cached nor to be had, told within seconds.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / holds).is_file():
            raise BadInput(f"{name} holds no {holds}, so it is no folder of a {kind}")
        check_model_folder(path)
        return str(path), True
    if looks_like_path(name):
        raise BadInput(f"no folder {name!r}; give a folder written by save_pretrained, or an id of the hub")
    return name, only_cached(name, (holds,), f"the path of a local copy, as in {family}:FOLDER") is not None


def from_file(spec: str, kind: str) -> Any:
    """What ``PATH/FILE.py:NAME`` makes: a class or a function of no arguments that the file defines.

    Raises:
        BadInput: there is no such file, or its own code fails.
        UnknownName: nothing in it has the name.
    """
    module, name = module_of(spec, kind)
    make = getattr(module, name, None)
    if not callable(make):
        known = [each for each in vars(module) if not each.startswith("_")]
        raise UnknownName(f"{kind} in {spec.rpartition(':')[0]}", name, known)
    try:
        return make()
    except MilanError:
        raise
    # whatever the user's own code raises
    except Exception as error:
        raise BadInput(f"the {kind} {spec!r} cannot be made: {one_line(error)}") from error


def dtype_of(precision: str) -> torch.dtype:
    """
    >>> dtype_of("bfloat16")
    torch.bfloat16

    Raises:
        UnknownName: no such precision.
    """
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS, "one of: " + ", ".join(PRECISIONS))
    return PRECISIONS[precision]


def usable(device: str) -> str:
    """The device's name, if something can be put there. Raises BadInput otherwise."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, not compiled in, or no such card
        raise BadInput(f"the device {device!r} cannot be used: {first_line(error)}; cpu always can") from None
    return device
