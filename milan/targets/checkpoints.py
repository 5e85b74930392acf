"""Read the state dict in a file of weights, without executing anything that is in the file."""

import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from milan.errors import BadInput
from milan.storage.file_kinds import is_safetensors, wrong_kind
from milan.storage.hub_access import format_error_line

# Keys under which training programs save the state dict of the network, most common first.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module", "params")
DEEPEST = 4  # levels of a checkpoint at which a state dict is looked for
SAVE_AGAIN = "save it again with torch.save(model.state_dict(), FILE) or as safetensors"
# Bytes by which the size that a file claims for its tensors may exceed the file. No more is allocated.
MAX_EXCESS = 2**30
Weights = dict[str, Tensor]
# Attribute of a replaced object with the name of its class; no Python identifier, so that no object has it.
_NAME = "<name>"


def read_weights(path: Path) -> Weights:
    """Read the tensors of a safetensors file or of a checkpoint saved by ``torch.save``, recognized by its first bytes.

    Of a checkpoint the state dict of the network is taken, whatever else a training program saved beside or around it.
    Only tensors and plain values are rebuilt; objects of other classes are ignored.

    Raises:
        BadInput: the file does not exist, is of another kind or damaged, or its tensors are no ordinary ones.
    """
    if not path.is_file():
        kinds = "a .safetensors file or a state dict saved with torch.save"
        raise BadInput(f"no weights file {str(path)!r}; --weights takes {kinds}")
    if path.suffix == ".safetensors" or is_safetensors(path):
        weights = _read_safetensors(path)
    elif kind := wrong_kind(path):
        raise BadInput(f"{path} is {kind}")
    else:
        weights = _state_dict(read_objects(path), path)
    check_ordinary(weights, path)
    return weights


def _read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        damage = f"damaged or no safetensors: {format_error_line(error)}; copy or download it again"
        raise BadInput(f"{path} is {wrong_kind(path) or damage}") from error


def read_objects(path: Path, skip: int = 0) -> Any:
    """Read what ``torch.save`` wrote to a file, after its first ``skip`` bytes; see :func:`load_inert`.

    Raises:
        BadInput: the file is damaged, of another kind, or names objects that are never read.
    """
    _check_container(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            file.seek(skip)
            return load_inert(io.BytesIO(file.read()) if skip else file)
    except pickle.UnpicklingError as error:
        reason = "it holds objects that could run code when they are read"
        raise BadInput(f"{path} is not read, since {reason}; {SAVE_AGAIN}") from error
    # A damaged pickle makes the reader raise anything.
    except Exception as error:
        raise BadInput(f"{path} is damaged or no weights file: {format_error_line(error)}") from error


def _check_container(path: Path) -> None:
    """Raise BadInput for a file that ``torch.save`` did not write, or that unpacks to far more than its size."""
    try:
        archived = zipfile.is_zipfile(path)
        members = _members(path) if archived else []
    # A damaged version number makes zipfile raise a RuntimeError.
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path} is damaged: {format_error_line(error)}; copy or download it again") from error
    if not archived:
        with path.open("rb") as file:
            start = file.read(8)
        # Before PyTorch 1.6 a checkpoint was a pickle.
        if start[:1] != b"\x80":
            kind = "a truncated zip archive" if start[:2] == b"PK" else f"no weights file (it begins with {start!r})"
            raise BadInput(f"{path} is {kind}; copy or download it again")
        return
    names = {Path(member.filename).name for member in members}
    if "constants.pkl" in names:
        remedy = "write its weights with torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        raise BadInput(f"{path} is a TorchScript archive, no state dict; {remedy}")
    if "data.pkl" not in names:
        raise BadInput(f"{path} is a zip archive, but not of torch.save; unpack it and give the weights in it")
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > size + MAX_EXCESS:
        raise BadInput(f"{path} unpacks to {unpacked / 2**30:.1f} GiB from {size / 2**20:.1f} MiB; {SAVE_AGAIN}")


def _members(path: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return archive.infolist()


def load_inert(file: IO[bytes] | io.BytesIO) -> Any:
    """Read a checkpoint without executing anything in it.

    Only tensors and plain values are rebuilt. Every other class or function that the file names is replaced by a class
    that makes empty mappings or objects; :func:`pickled_name` tells which one it was.

    Raises:
        UnpicklingError: the file names what PyTorch never reads, or has the format before PyTorch 1.6 and names
            classes.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        file.seek(0)
        if not zipfile.is_zipfile(file):
            raise
    file.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    file.seek(0)
    with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _stand_in(name: str) -> type:
    """Return a new class that does nothing, whatever arguments and state it is given."""
    if name.partition(".")[0] in ("numpy", "functools"):
        # What they pickle has a state that is no mapping.
        inert = {"__new__": lambda cls, *args: object.__new__(cls), "__setstate__": lambda self, state: None}
        return type("Inert", (), inert)
    return type("Inert", (), {_NAME: name, "__new__": _inert_mapping})


def _inert_mapping(cls: type, *args: object) -> OrderedDict:
    # PyTorch's reader sets items of no other mappings.
    mapping: OrderedDict = OrderedDict()
    setattr(mapping, _NAME, getattr(cls, _NAME))
    return mapping


def pickled_name(value: object) -> str:
    """Return the full name of a class or function that :func:`load_inert` replaced, or of the class of an object.

    The result is empty for values that were not replaced. The object's attributes are in its ``__dict__``.
    """
    return str(getattr(value, _NAME, ""))


def _state_dict(content: Any, path: Path) -> Weights:
    found = _candidates(content)
    if not found:
        reason = f"no tensors by name, also under {', '.join(STATE_DICT_KEYS)}; whole pickled networks are not read"
        raise BadInput(f"{path} holds no state dict ({reason}); {SAVE_AGAIN}")
    first, *others = sorted(found.items(), key=lambda item: -len(item[1]))
    rivals = [name for name, tensors in others if 2 * len(tensors) > len(first[1])]
    if rivals:
        names = ", ".join([first[0], *rivals])
        raise BadInput(f"{path} holds several state dicts: {names}; save the intended one in a file of its own")
    return first[1]


def _candidates(content: Any, depth: int = DEEPEST) -> dict[str, Weights]:
    """Return the state dicts in a checkpoint by their key; only the one under the most common key of
    ``STATE_DICT_KEYS``.
    """
    # An optimizer's state has param_groups.
    if not isinstance(content, Mapping) or "param_groups" in content or not depth:
        return {}
    for name in STATE_DICT_KEYS:
        if inner := _candidates(content.get(name), depth - 1):
            return inner if len(inner) > 1 else {name: next(iter(inner.values()))}
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    found = {"its top level": own} if own else {}
    for key, value in content.items():
        inner = _candidates(value, depth - 1)
        found |= inner if len(inner) > 1 else {str(key): tensors for tensors in inner.values()}
    return found


def check_ordinary(weights: Weights, path: Path) -> None:
    """Raise BadInput for tensors without plain values, or of a claimed size that the file cannot hold."""
    size = path.stat().st_size
    for name, value in weights.items():
        if kind := _odd_kind(value):
            raise BadInput(f"{name} in {path} is {kind}; save the ordinary tensors of the float network")
        claimed = value.numel() * value.element_size()
        if claimed > size + MAX_EXCESS:
            shape = f"{tuple(value.shape)}, {claimed / 2**30:.1f} GiB"
            raise BadInput(f"{name} has shape {shape} in {path} of {size / 2**20:.1f} MiB; {SAVE_AGAIN}")


def _odd_kind(value: Tensor) -> str:
    if value.layout != torch.strided or value.is_nested:
        return "sparse"
    if value.is_meta:
        return "on the meta device, without values"
    return "quantized" if value.is_quantized else ""
