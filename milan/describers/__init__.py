"""One file per method: ``load_describer("milan")`` takes the describer of ``milan/describers/milan.py``."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from milan.describers.base import Describer, Failure, living, sources_of
from milan.describers.contract import check_describer
from milan.errors import BadInput, MilanError, UnknownName
from milan.user_code import is_file_spec, module_of, one_line

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
    if is_file_spec(name):
        return _from_file(name)
    if name not in describer_names():
        raise UnknownName("describer", name, describer_names(), "or give one of yours as PATH/FILE.py:CLASS")
    module = importlib.import_module(f"{__name__}.{name}")
    return next(iter(_describers(module).values()))


def _from_file(spec: str) -> type[Describer]:
    module, name = module_of(spec, "describer")
    if name in (known := _describers(module)):
        return known[name]
    found = getattr(module, name, None)
    unfinished = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
    kind = f"it lacks {unfinished}" if unfinished else "it is no subclass of milan.Describer"
    raise UnknownName(f"describer in {spec.rpartition(':')[0]}", name, known, kind if found is not None else "")


def _describers(module: ModuleType) -> dict[str, type[Describer]]:
    """The describers that a module defines itself, by the names of their classes."""
    classes = {name: value for name, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__}
    return {name: cls for name, cls in classes.items() if issubclass(cls, Describer) and not inspect.isabstract(cls)}


def load_describer(name: str, **settings: Any) -> Describer:
    """The describer of that name with its settings (the arguments of its constructor); typos are answered with the nearest."""
    cls = describer_class(name)
    known = cls.setting_names()
    for setting in settings:
        if setting not in known:
            has = f"it has: {', '.join(known)}" if known else "it has no settings"
            raise UnknownName(f"setting of {name}", setting, known, has)
    try:
        return cls(**settings)
    except MilanError:
        raise
    except TypeError as error:
        raise BadInput(f"describer {name}: {error}") from error
    except Exception as error:
        # the package's own faults are not hidden
        if not is_file_spec(name):
            raise
        raise BadInput(f"describer {name} cannot be made: {one_line(error)}") from error


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
    return ({"device": device} if "device" in cls.setting_names() else {}) | kept
