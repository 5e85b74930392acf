"""Open the file of a dictionary with its settings, of whatever format, without executing anything in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from torch import Tensor

from milan.errors import BadInput
from milan.storage.file_kinds import is_safetensors, wrong_kind
from milan.targets.checkpoints import check_ordinary, read_objects, read_weights

# Names under which the libraries save weights and settings.
WEIGHT_FILES = (
    "sae_weights.safetensors",
    "sae.safetensors",
    "sae.pt",
    "weights.pt",
    "ae.pt",
    "model.pt",
    "state_dict.pt",
    "directions.safetensors",
)
SETTINGS_FILES = ("cfg.json", "config.json")
_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
# Longest first line of a saev file, in bytes.
_MAX_HEADER = 2**20

T = TypeVar("T", bool, int, float, str, dict, list)


class Settings:
    """Settings of a dictionary, read with a check of their types.

    Args:
        values: The settings by name.
        origin: Where they are from, for messages.
    """

    def __init__(self, values: Mapping[str, Any], origin: str):
        self.values = values
        self.origin = origin

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def get(self, name: str, kind: type[T], default: T | None = None) -> T:
        """Return a setting, or the default where it is absent or null.

        Raises:
            BadInput: The setting has another type, or it is absent and there is no default.
        """
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise BadInput(f"{self.origin} does not state {name!r}, which this format needs; add it")
            return default
        # JSON and Python write whole numbers as 12 or 12.0.
        if kind is int and isinstance(value, float) and value.is_integer():
            return cast(T, int(value))
        if kind is float and isinstance(value, int) and abs(value) < 2**53:
            value = float(value)
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise BadInput(f"{name} is {value!r:.80} in {self.origin}; it must be of type {kind.__name__}")

    def section(self, name: str) -> "Settings":
        """Return the settings below a name; they are empty where it is absent."""
        return Settings(self.get(name, dict, {}), f"{name!r} in {self.origin}")


@dataclass(frozen=True)
class DictionaryFile:
    """An opened file of a dictionary.

    Args:
        path: The file of weights.
        content: What the file holds: a state dict or, where it was written by ``torch.save``, any object.
        tensors: The state dict.
        settings: The settings beside or in the file; they are empty where there are none.
        metadata: Texts in the header of a safetensors file; None for other files.
        header: The JSON line before the weights (saev), or None.
        options: What the user stated, since the format does not.
    """

    path: Path
    content: Any
    tensors: Mapping[str, Tensor]
    settings: Settings
    metadata: Mapping[str, str] | None = None
    header: dict[str, Any] | None = None
    options: Settings = field(default_factory=lambda: Settings({}, "options"))

    @property
    def name(self) -> str:
        """Name of the dictionary: its folder's where the file has the same name in every folder, else its own."""
        return self.path.resolve().parent.name if self.path.name in WEIGHT_FILES else self.path.stem

    def inner(self, tensors: object, settings: Settings | None = None) -> "DictionaryFile":
        """Return the same file with another state dict, from inside its content, and other settings.

        Raises:
            BadInput: ``tensors`` is no state dict.
        """
        if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise BadInput(f"{self.path} holds no state dict where its format has one; save the dictionary again")
        named = {str(key): value for key, value in tensors.items()}
        check_ordinary(named, self.path)
        return replace(self, tensors=named, settings=settings or self.settings)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by its name, in float32.

        Raises:
            BadInput: There is none of this name, or its values are no finite real numbers.
        """
        if name not in self.tensors:
            present = ", ".join(sorted(self.tensors)) or "none"
            raise BadInput(f"{self.path} has no tensor {name!r}, which its format needs (it has {present:.200})")
        stored = self.tensors[name]
        if stored.is_complex() or stored.dtype == torch.bool:
            raise BadInput(f"{name} has values of type {stored.dtype} in {self.path}; they must be real numbers")
        value = stored.to(torch.float32)
        if count := int((~value.isfinite()).sum()):
            raise BadInput(f"{name} has {count} values that are NaN or infinite in {self.path}; copy it again")
        return value

    def check_names(self, *names: str) -> None:
        """Raise BadInput for a tensor of any other name, since it could change the result in an unknown way."""
        if unknown := sorted(set(self.tensors) - set(names)):
            reason = "this version does not know what it does, and ignoring it could give wrong codes"
            raise BadInput(f"{self.path} has a tensor {unknown[0]!r}; {reason}; remove it if it is unused")

    def matrix(self, name: str) -> Tensor:
        """Return a tensor of two dimensions by its name.

        Raises:
            BadInput: There is none of this name, or it has another number of dimensions.
        """
        value = self.tensor(name)
        if value.dim() != 2:
            raise BadInput(f"{name} has shape {tuple(value.shape)} in {self.path}; it must be a matrix")
        return value

    def check_sizes(self, encoder: Tensor, *, width: str = "d_in", latents: str = "d_sae", factor: str = "") -> None:
        """Check the shape of the encoder, (d_in, latents), against the settings, as far as they state it.

        Args:
            encoder: The encoder's weights.
            width: Name of the setting of the width of the layer.
            latents: Name of the setting of the number of latents; 0 stands for width times factor.
            factor: Name of the setting of the ratio of latents to width.

        Raises:
            BadInput: The settings state other sizes than the weights have.
        """
        stated = {name: self.settings.get(name, int) for name in (width, latents, factor) if name in self.settings}
        d_in, size = encoder.shape
        count = stated.get(latents) or stated.get(factor, 0) * stated.get(width, d_in) or size
        for name, value, actual in ((width, stated.get(width, d_in), d_in), (latents, count, size)):
            if value != actual:
                raise BadInput(f"{name} is {value} in {self.settings.origin} and {actual} in {self.path}")


def open_dictionary(path: Path, options: Mapping[str, Any]) -> DictionaryFile:
    """Open a file of weights, or the one in a folder, with the settings beside it.

    Raises:
        BadInput: The path does not exist or is no such file, the file is damaged, or a folder holds none or several.
    """
    file = _weights_file(path) if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"no dictionary {str(path)!r}; give a file of weights or a folder with one")
    safe = file.suffix == ".safetensors" or is_safetensors(file)
    # SAELens and sparsify write the first, the others the second.
    settings = _settings(file.parent, SETTINGS_FILES if safe else SETTINGS_FILES[::-1])
    opened = DictionaryFile(file, {}, {}, settings, options=Settings(options, "the options"))
    if safe:
        tensors = read_weights(file)
        with safe_open(file, "pt") as header:
            metadata = header.metadata() or {}
        return replace(opened, content=tensors, tensors=tensors, metadata=metadata)
    header, skip = _header(file)
    if header is None and (kind := wrong_kind(file)):
        raise BadInput(f"{file} is {kind}")
    content = read_objects(file, skip)
    found = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(key): value for key, value in found if isinstance(value, Tensor)}
    check_ordinary(tensors, file)
    return replace(opened, content=content, tensors=tensors, header=header)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: The file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no valid JSON ({str(error) or 'nested too deeply'}); copy it again") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a {type(value).__name__} where settings by name are needed; copy it again")
    return value


def _settings(folder: Path, names: tuple[str, ...]) -> Settings:
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    return Settings(read_json(file), str(file)) if file else Settings({}, f"{folder} (without {' or '.join(names)})")


def _weights_file(folder: Path) -> Path:
    files = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHT_SUFFIXES and file.is_file())
    usual = [file for file in files if file.name in WEIGHT_FILES]
    choice = usual or files
    if len(choice) == 1:
        return choice[0]
    if choice:
        raise BadInput(f"{folder} holds several files of weights: {_names(choice)}; give the path of one of them")
    inside = sorted({file.parent for name in WEIGHT_FILES for file in folder.glob(f"*/{name}")})
    hint = f"; there are some in its folders {_names(inside)}" if inside else f" (looked for {', '.join(WEIGHT_FILES)})"
    raise BadInput(f"{folder} holds no dictionary{hint}; give the path of one")


def _names(paths: list[Path]) -> str:
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(path.name for path in paths[:5]) + more


def _header(path: Path) -> tuple[dict[str, Any] | None, int]:
    """Return the JSON object on the first line of a saev file and the number of its bytes; None and 0 of others."""
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return None, 0
        file.seek(0)
        line = file.readline(_MAX_HEADER)
    if not line.endswith(b"\n"):
        return None, 0
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return None, 0
    return (header, len(line)) if isinstance(header, dict) else (None, 0)
