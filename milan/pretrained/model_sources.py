"""Find pretrained models by path or hub id, and report when they are not available."""

from pathlib import Path
from typing import Any, Literal

import torch

from milan.errors import BadInput, MilanError, UnknownName
from milan.storage.file_kinds import check_model_folder
from milan.storage.hub_access import find_cached_if_offline, format_error_line
from milan.storage.user_code import module_of, one_line
from milan.targets.families import is_path_like

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_model(
    name: str, marker_file: str = "config.json", kind: str = "transformers model", family: str = "hf"
) -> tuple[str, bool]:
    """Return the folder or hub id of a model, and whether it is loaded without asking the hub.

    Args:
        marker_file: file that a folder of such a model holds.
        kind: name of the kind of model in messages.
        family: prefix of the model's name in a spec.

    Raises:
        BadInput: the path leads to no such model, or the id is neither cached nor can be downloaded; raised within
            seconds.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / marker_file).is_file():
            raise BadInput(f"{name} holds no {marker_file}, so it is no folder of a {kind}")
        check_model_folder(path)
        return str(path), True
    if is_path_like(name):
        raise BadInput(f"no folder {name!r}; give a folder written by save_pretrained, or an id of the hub")
    return name, find_cached_if_offline(
        name, (marker_file,), f"the path of a local copy, as in {family}:FOLDER"
    ) is not None


def load_from_file(spec: str, kind: str) -> Any:
    """Call the class or function without arguments that ``PATH/FILE.py:NAME`` names, and return the result.

    Raises:
        BadInput: there is no such file, or its code fails.
        UnknownName: the file defines nothing of that name.
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
    # The user's code may raise anything.
    except Exception as error:
        raise BadInput(f"the {kind} {spec!r} cannot be made: {one_line(error)}") from error


def get_dtype(precision: str) -> torch.dtype:
    """Return the torch type of a precision.

    >>> get_dtype("bfloat16")
    torch.bfloat16

    Raises:
        UnknownName: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS, "one of: " + ", ".join(PRECISIONS))
    return PRECISIONS[precision]


def check_device(device: str) -> str:
    """Return the device's name after checking that it can be used.

    Raises:
        BadInput: it cannot.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, not compiled in, or no such card
        raise BadInput(f"the device {device!r} cannot be used: {format_error_line(error)}; cpu always can") from None
    return device
