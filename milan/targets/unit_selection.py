"""Default layers and probe of a target, and units selected by text."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from milan.diorama.networks import LAYERS
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.targets.target import Target
from milan.targets.target_specs import make_no_layers_error
from milan.targets.unit_ranges import parse_unit_ranges
from milan.units import Unit, as_unit


def get_default_layers(target: Target) -> list[str]:
    """Return the layers of the attached dictionaries, or the annotated layers of a network of Diorama.

    Raises:
        BadInput: the target has neither.
    """
    if target.dictionaries:
        return [f"{each.layer}@{each.name}" for each in target.dictionaries]
    name = target.spec.partition("diorama:")[2]
    if name not in LAYERS:
        raise make_no_layers_error(target.name)
    return LAYERS[name]


def default_out(result: str, target: Target) -> Path:
    """Return the default output folder of a kind of result, ``runs/RESULT-TARGET``."""
    return Path("runs") / f"{result}-{target.slug}"


def get_default_probe(target: Target) -> str:
    """Return the probe of the task that a network of Diorama was trained for."""
    task = target.spec.rpartition("-")[2]
    return f"diorama:{task if task in ('objects', 'scenes') else 'objects'}"


def select_units(
    target: Target, layers: Iterable[str] = (), units: str | Iterable[Unit | str] = ""
) -> dict[str, list[int]]:
    """Return the indices of the selected units of each layer; see :func:`parse_unit_selection`.

    Args:
        target: the network.
        layers: names of layers; by default the annotated layers of a network of Diorama.
        units: the units, as text or one by one; by default all of the layers.
    """
    selected_layers = target.select_layers(list(layers) or get_default_layers(target))
    return parse_unit_selection(units, {layer.name: layer.units for layer in selected_layers})


def parse_unit_selection(selection: str | Iterable[Unit | str], counts: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the selected indices of each layer, given the number of units of each layer.

    >>> parse_unit_selection("0-2,5", {"conv1": 8}), parse_unit_selection("fc:1", {"conv1": 8, "fc": 4})
    ({'conv1': [0, 1, 2, 5]}, {'fc': [1]})
    """
    if not selection:
        return {layer: list(range(count)) for layer, count in counts.items()}
    found: dict[str, set[int]] = {layer: set() for layer in counts}
    if isinstance(selection, str):
        ranges = list(parse_unit_ranges(selection, counts))
    else:
        ranges = [(unit.layer, unit.index, unit.index) for unit in map(as_unit, selection)]
    for layer, first, last in ranges:
        part = f"{layer}{':' * bool(layer)}{first}{f'-{last}' * (last > first)}"
        if layer and layer not in counts:
            raise UnknownName("layer of units", layer, counts, f"it occurs in {part!r}; name it among the layers too")
        for name in [layer] if layer else counts:
            if first >= counts[name] or (layer and last >= counts[name]):
                raise BadInput(f"units of {name} lie between 0 and {counts[name] - 1}; {part!r} names others")
            if last >= counts[name]:
                text = f"{name} has {counts[name]} units; {part!r} is cut off after {counts[name] - 1}"
                warnings.warn(text, MilanWarning, stacklevel=2)
            found[name] |= set(range(first, min(last, counts[name] - 1) + 1))
    return {layer: sorted(indices) for layer, indices in found.items() if indices}
