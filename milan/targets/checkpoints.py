"""The state dict in a file of weights, read without executing anything that is in the file."""

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
from milan.file_kinds import is_safetensors, wrong_kind
from milan.targets.hubs import first_line

# Under which training programs keep the state dict of the network itself, most usual first.
NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module", "params")
SAVE_ANEW = "save it anew as torch.save(model.state_dict(), FILE) or with safetensors"
LARGEST = 2**30  # bytes by which what a file claims to hold may exceed the file: no more is allocated on its word
Weights = dict[str, Tensor]


def read_weights(path: Path) -> Weights:
    """The tensors of a safetensors file or of a checkpoint saved by ``torch.save``, told apart by their first bytes.

    Of a checkpoint it is the state dict of the network, whatever else a training program has put beside or around it. Tensors and plain
    values alone are rebuilt; objects of other classes are passed over.

    Raises:
        BadInput: if there is no such file, or it is something else or damaged, or its tensors are no ordinary ones.
    """
    if not path.is_file():
        raise BadInput(f"no weights file {str(path)!r}; --weights takes a .safetensors file or a state dict saved with torch.save")
    if path.suffix == ".safetensors" or is_safetensors(path):
        weights = _read_safetensors(path)
    elif kind := wrong_kind(path):
        raise BadInput(f"{path} is {kind}")
    else:
        weights = _read_checkpoint(path)
    _check_ordinary(weights, path)
    return weights


def _read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        told = wrong_kind(path) or f"damaged or no safetensors: {first_line(error)}; copy or download it again"
        raise BadInput(f"{path} is {told}") from error


def _read_checkpoint(path: Path) -> Weights:
    _check_container(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            content = load_inert(file)
    except pickle.UnpicklingError as error:
        raise BadInput(f"{path} holds objects that could run code when they are read, so it is not read; {SAVE_ANEW}") from error
    except Exception as error:  # a damaged pickle makes the reader stumble in any way
        raise BadInput(f"{path} is damaged or no weights file: {first_line(error)}") from error
    return _state_dict(content, path)


def _check_container(path: Path) -> None:
    """Raises BadInput for a file that ``torch.save`` did not write, or that unpacks to far more than it is."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(8)
        if start[:1] != b"\x80":  # of a pickle, as the format before PyTorch 1.6 was
            told = "a zip archive that is cut short" if start[:2] == b"PK" else f"no weights file (it begins with {start!r})"
            raise BadInput(f"{path} is {told}; copy or download it again")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {first_line(error)}; copy or download it again") from error
    names = {Path(member.filename).name for member in members}
    if "constants.pkl" in names:
        told = "torch.save(torch.jit.load(FILE).state_dict(), OTHER) writes the weights alone"
        raise BadInput(f"{path} is a TorchScript archive, no state dict; {told}")
    if "data.pkl" not in names:
        raise BadInput(f"{path} is a zip archive, but not of torch.save; unpack it and give the weights in it")
    unpacked = sum(member.file_size for member in members)
    if unpacked > path.stat().st_size + LARGEST:
        raise BadInput(f"{path} unpacks to {unpacked / 2**30:.1f} GiB, though it takes {path.stat().st_size / 2**20:.1f} MiB; {SAVE_ANEW}")


def load_inert(file: IO[bytes]) -> Any:
    """What a checkpoint holds. Only tensors and plain values are rebuilt; every other class or function that the file names is replaced by
    a class that makes mappings or empty objects, so nothing of the file is executed.

    Raises:
        UnpicklingError: the file names what PyTorch reads under no circumstances, or is of the format before PyTorch 1.6 and names
            classes at all.
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
    """A new class that does nothing, whatever it is called with and whatever state it is given.

    It makes mappings, which alone PyTorch's reader fills with items; but for what numpy and functools pickle, whose state is no mapping.
    """
    if name.partition(".")[0] in ("numpy", "functools"):
        return type("Inert", (), {"__new__": lambda cls, *args: object.__new__(cls), "__setstate__": lambda self, state: None})
    return type("Inert", (), {"__new__": lambda cls, *args: OrderedDict()})


def _state_dict(content: Any, path: Path) -> Weights:
    found = _candidates(content)
    if not found:
        told = f"looked for tensors by name, also under {', '.join(NESTS)}; a network that was pickled whole is not read"
        raise BadInput(f"{path} holds no state dict ({told}); {SAVE_ANEW}")
    first, *others = sorted(found.items(), key=lambda item: -len(item[1]))
    near = [name for name, tensors in others if 2 * len(tensors) > len(first[1])]
    if near:
        raise BadInput(f"{path} holds several state dicts: {', '.join([first[0], *near])}; save the one that is meant in a file of its own")
    return first[1]


def _candidates(content: Any, depth: int = 4) -> dict[str, Weights]:
    """The mappings of names to tensors in a checkpoint, by the key that they stand under; of those under a usual key only that one."""
    if not isinstance(content, Mapping) or "param_groups" in content or not depth:  # of an optimizer
        return {}
    for name in NESTS:
        if inner := _candidates(content.get(name), depth - 1):
            return inner if len(inner) > 1 else {name: next(iter(inner.values()))}
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    found = {"its top level": own} if own else {}
    for key, value in content.items():
        inner = _candidates(value, depth - 1)
        found |= inner if len(inner) > 1 else {str(key): tensors for tensors in inner.values()}
    return found


def _check_ordinary(weights: Weights, path: Path) -> None:
    """Raises BadInput for tensors that hold no plain values, or that claim far more of them than the file has room for."""
    size = path.stat().st_size
    for name, value in weights.items():
        kind = (
            "sparse" if value.layout != torch.strided or value.is_nested else
            "on the meta device, without values" if value.is_meta else
            "quantized" if value.is_quantized else
            ""
        )  # fmt: skip
        if kind:
            raise BadInput(f"{name} in {path} is {kind}; save the ordinary tensors of the float network")
        claimed = value.numel() * value.element_size()
        if claimed > size + LARGEST:
            claim = f"has shape {tuple(value.shape)}, {claimed / 2**30:.1f} GiB in a file of {size / 2**20:.1f} MiB"
            raise BadInput(f"{name} in {path} {claim}; {SAVE_ANEW}")
