"""One file per method: ``load_describer("milan")`` takes the describer of ``milan/describers/milan.py``."""

import importlib.util
import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from milan.describers.base import Describer, Failure, living, sources_of
from milan.describers.contract import check_describer
from milan.errors import BadInput, UnknownName

__all__ = [
    "Describer",
    "Failure",
    "check_describer",
    "describer_class",
    "describer_names",
    "living",
    "load_describer",
    "sources_of",
    "typed_settings",
]
SEAMS = {"base", "contract", "explaining", "resuming", "selecting", "weighing"}


def describer_names() -> list[str]:
    """The describers of the package, by the names of their files.

    >>> "milan" in describer_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SEAMS)


def describer_class(name: str) -> type[Describer]:
    """The describer that ``milan/describers/<name>.py`` defines, or one of yours by ``PATH/FILE.py:CLASS``.

    Raises:
        UnknownName: there is none of that name; the nearest are told.
    """
    if name.rpartition(":")[0].endswith(".py"):
        return _from_file(name)
    if name not in describer_names():
        raise UnknownName("describer", name, describer_names(), "or give one of yours as PATH/FILE.py:CLASS")
    module = importlib.import_module(f"{__name__}.{name}")
    return next(iter(_describers(module).values()))


def _from_file(spec: str) -> type[Describer]:
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"no file {file} (asked for as describer {spec!r})")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    if name not in (known := _describers(module)):
        raise UnknownName(f"describer in {file}", name, known)
    return known[name]


def _describers(module: ModuleType) -> dict[str, type[Describer]]:
    """The describers that a module defines itself, by the names of their classes."""
    classes = {name: value for name, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__}
    return {name: cls for name, cls in classes.items() if issubclass(cls, Describer) and not inspect.isabstract(cls)}


def load_describer(name: str, **settings: Any) -> Describer:
    """The describer of that name with its settings (the arguments of its constructor); typos are answered with the nearest."""
    cls = describer_class(name)
    known = [setting for setting in inspect.signature(cls.__init__).parameters if setting != "self"]
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of {name}", setting, known, f"it has: {', '.join(known)}")
    try:
        return cls(**settings)
    except TypeError as error:
        raise BadInput(f"describer {name}: {error}") from error


def typed_settings(name: str, settings: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """The settings with their values as the describer's constructor declares them, and the device where it takes one and has no other.

    Raises:
        UnknownName: there is no such describer or setting; the nearest are told.
        BadInput: a value is of the wrong type.
    """
    import jsonargparse

    cls = describer_class(name)
    load_describer(name, **settings)  # names that are not known are told with the nearest
    reader = jsonargparse.ArgumentParser(exit_on_error=False)
    reader.add_class_arguments(cls, as_group=False)
    try:
        typed = vars(reader.parse_object(dict(settings)))
    except jsonargparse.ArgumentError as error:
        raise BadInput(f"settings of {name}: {' '.join(str(error).split())}") from None
    kept = {setting: typed[setting] for setting in settings}
    return ({"device": device} if "device" in inspect.signature(cls.__init__).parameters else {}) | kept
