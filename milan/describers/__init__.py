"""One file per method: ``load_describer("milan")`` takes the describer of ``milan/describers/milan.py``."""

import importlib
import inspect
import pkgutil
from typing import Any

from milan.describers.base import Describer, Failure, living
from milan.describers.contract import check_describer
from milan.errors import BadInput, UnknownName

__all__ = ["Describer", "Failure", "check_describer", "describer_class", "describer_names", "living", "load_describer"]
SEAMS = {"base", "contract", "resuming"}


def describer_names() -> list[str]:
    """The describers of the package, by the names of their files.

    >>> "milan" in describer_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in SEAMS)


def describer_class(name: str) -> type[Describer]:
    """The describer that ``milan/describers/<name>.py`` defines; an unknown name is answered with the nearest."""
    if name not in describer_names():
        raise UnknownName("describer", name, describer_names())
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        cls for cls in vars(module).values() if inspect.isclass(cls) and issubclass(cls, Describer) and cls.__module__ == module.__name__
    ]
    return next(cls for cls in found if not inspect.isabstract(cls))


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
