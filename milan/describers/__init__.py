"""Methods that describe units, one per file: ``load_describer("milan")`` loads ``milan/describers/milan.py``."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from milan.describers._shared.base import (
    Describer,
    DescriptionFailure,
    select_active,
    sources_of,
    warn_of_sent_images,
)
from milan.describers._shared.contract import check_describer
from milan.errors import BadInput, MilanError, UnknownName
from milan.storage.user_code import is_file_spec, module_of, one_line

__all__ = [
    "Describer",
    "DescriptionFailure",
    "build_describer",
    "check_describer",
    "find_describer_class",
    "list_describers",
    "load_describer",
    "parse_settings",
    "select_active",
    "sources_of",
]


def list_describers() -> list[str]:
    """Return the names of the package's describers, which are those of their files.

    >>> "milan" in list_describers()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_describer_class(name: str) -> type[Describer]:
    """Return the class that ``milan/describers/<name>.py`` defines, or a custom one by ``PATH/FILE.py:CLASS``.

    Raises:
        UnknownName: there is no describer of that name; the text lists the nearest names.
    """
    if is_file_spec(name):
        return _load_from_file(name)
    if name not in list_describers():
        raise UnknownName("describer", name, list_describers(), "or give a custom one as PATH/FILE.py:CLASS")
    module = importlib.import_module(f"{__name__}.{name}")
    return next(iter(_find_describers(module).values()))


def _load_from_file(spec: str) -> type[Describer]:
    module, name = module_of(spec, "describer")
    if name in (known := _find_describers(module)):
        return known[name]
    found = getattr(module, name, None)
    unfinished = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
    kind = f"it lacks {unfinished}" if unfinished else "it is no subclass of milan.Describer"
    raise UnknownName(f"describer in {spec.rpartition(':')[0]}", name, known, kind if found is not None else "")


def _find_describers(module: ModuleType) -> dict[str, type[Describer]]:
    """Return the describers that a module defines itself, by class name."""
    classes = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }
    return {name: cls for name, cls in classes.items() if issubclass(cls, Describer) and not inspect.isabstract(cls)}


def load_describer(name: str, **settings: Any) -> Describer:
    """Return a describer with the given settings, the arguments of its constructor.

    Its other settings are the published ones. ``milan.describe`` and the programs complete settings by target and probe
    (``milan.describers._shared.describer_specs``).

    Raises:
        UnknownName: there is no describer or setting of that name; the text lists the nearest names.
        BadInput: the constructor refuses a value.
    """
    describer = build_describer(name, **settings)
    warn_of_sent_images(describer)
    return describer


def build_describer(name: str, **settings: Any) -> Describer:
    """Return a describer as ``load_describer`` does, without a warning that it sends images to another machine."""
    cls = find_describer_class(name)
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
        # Errors in the package's own describers keep their traceback.
        if not is_file_spec(name):
            raise
        raise BadInput(f"describer {name} cannot be made: {one_line(error)}") from error


def parse_settings(name: str, settings: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Return settings with values of the types that the describer's constructor declares.

    Args:
        device: added as a setting if the constructor takes one and ``settings`` has none.

    Raises:
        UnknownName: there is no such describer or setting; the text lists the nearest names.
        BadInput: a value is of the wrong type.
    """
    import jsonargparse

    cls = find_describer_class(name)
    parameters = inspect.signature(cls).parameters
    # An option reads the text {} as an empty mapping; a setting that is a text means the place for a concept.
    texts = {each for each, parameter in parameters.items() if parameter.annotation in (str, "str")}
    settings = {each: "{}" if value == {} and each in texts else value for each, value in settings.items()}
    build_describer(name, **settings)  # reports unknown names with the nearest ones
    reader = jsonargparse.ArgumentParser(exit_on_error=False)
    reader.add_class_arguments(cls, as_group=False)
    try:
        typed = vars(reader.parse_object(dict(settings)))
    except jsonargparse.ArgumentError as error:
        raise BadInput(f"settings of {name}: {' '.join(str(error).split())}") from None
    kept = {setting: typed[setting] for setting in settings}
    return ({"device": device} if "device" in cls.setting_names() else {}) | kept
