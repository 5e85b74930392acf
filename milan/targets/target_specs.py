"""Specs of targets, checked without importing torch or the libraries that the networks come from."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from milan.errors import BadInput, MilanError, UnknownName, find_nearest_names
from milan.storage.user_code import is_file_spec

FAMILY_NAMES = ("torchvision", "timm", "hf", "diorama")
SPEC_FORMS = "torchvision:NAME, timm:NAME, hf:ID_OR_PATH, diorama:NAME or PATH/FILE.py:FUNCTION"
HINTS = {
    "torchvision": "torchvision.models.list_models() has them all",
    "timm": "timm.list_models() has them all, or write hf_hub:ID",
}
# A function that torchvision or timm registers as a network, possibly with further decorators or under another name.
_REGISTERED = re.compile(r'^@register_model(?:\((?:name="(\w+)")?\))?\n(?:@.*\n(?:[ )].*\n)*)*def (\w+)', re.MULTILINE)


def check_target_spec(spec: str) -> None:
    """Check the family that a spec names, and a network of torchvision or timm.

    Raises:
        UnknownName, BadInput: there is no such family or network; the message lists the nearest names.
    """
    kind, _, name = spec.partition(":")
    if is_file_spec(spec):
        return
    if kind not in FAMILY_NAMES or not name:
        raise make_unknown_spec_error(spec)
    # hf_hub:ID and local-dir:FOLDER are places, and a name may have a tag of its weights.
    if kind in HINTS and ":" not in name and (known := list_registered_names(kind)):
        check_network_name(kind, name.partition(".")[0] if kind == "timm" else name, known)


def check_network_name(family: str, name: str, known: Iterable[str]) -> None:
    """Raise UnknownName for a network that torchvision or timm does not have."""
    if name not in (names := list(known)):
        raise UnknownName(f"{family} model", name, names, HINTS[family])


def list_registered_names(library: str) -> list[str]:
    """Return the networks that torchvision or timm registers in its source files; none if it has no such files."""
    found = importlib.util.find_spec(library)
    folders = [Path(place) / "models" for place in (found.submodule_search_locations or [] if found else [])]
    texts = (file.read_text("utf-8") for folder in folders for file in sorted(folder.rglob("*.py")))
    return [match[1] or match[2] for text in texts for match in _REGISTERED.finditer(text)]


def make_unknown_spec_error(spec: str) -> MilanError:
    """Return the error of a spec that is of no family and names no function in a file."""
    kind, colon, name = spec.partition(":")
    if spec.endswith(".py"):
        return BadInput(f"{spec} is a file; name a function in it that returns the network, as {spec}:my_network")
    if colon and name:
        return UnknownName("kind of target", kind, FAMILY_NAMES, f"write {SPEC_FORMS}")
    near = find_nearest_names(spec, list_registered_names("torchvision"), 1)
    guess = f"; torchvision:{near[0]}?" if near else ""
    return BadInput(f"no target {spec!r}: write {SPEC_FORMS}{guess}")


def make_no_layers_error(target: str) -> BadInput:
    """Return the error of a target whose layers are not given and that has no default ones."""
    return BadInput(f"no layers are given for {target}; name some with --layers A B (--list_layers prints them)")
