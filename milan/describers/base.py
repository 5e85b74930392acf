"""What a describer is, and what anything that describes units must keep to."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.storage import content_key
from milan.units import Description, Unit


@dataclass(frozen=True)
class Failure:
    """A unit that could not be described this time, and why; the others go on, and a rerun tries this one again."""

    unit: Unit
    reason: str  # never stored or shown as a description


class Describer(ABC):
    """Says in words what units do, from their dissection.

    A subclass is one file of ``milan/describers``: the constructor stores the method's settings under their own names (weights and heavy
    imports wait until they are needed), ``name`` is the file's, and ``describe`` does the work. ``milan.check_describer`` tests one.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__.lower()

    @abstractmethod
    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | Failure]:
        """Yields one description for each of ``units`` that lives, in their order, each as soon as it is known.

        The whole layer's evidence is at hand in ``dissection``, but what is said of a unit must not depend on which others are asked for.
        A unit for which something outside failed gets a ``Failure``, never an error's text as its description.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as they were given, by name.

        Raises:
            BadInput: the constructor has not stored one of them under its name.
        """
        try:
            return {name: getattr(self, name) for name in self.setting_names()}
        except AttributeError as error:
            where = f"the constructor of {type(self).__name__} stores each of its arguments under its own name"
            raise BadInput(f"describer {type(self).__name__}: {error}; {where}") from None

    @classmethod
    def setting_names(cls) -> list[str]:
        """The names of the constructor's arguments; none without a constructor."""
        return list(inspect.signature(cls).parameters)

    @property
    def key(self) -> str:
        """What its answers depend on besides the dissection: settings and code; one that has weights adds their hash."""
        return content_key(
            describer=self.name, source=_source(type(self)), settings={name: str(each) for name, each in self.settings.items()}
        )


def _source(cls: type[Describer]) -> str:
    """The text of the file that defines the class, or of what can be had of it."""
    for what in (inspect.getmodule(cls), cls):
        with suppress(OSError, TypeError):  # made at a prompt, or from a file that is gone
            return inspect.getsource(what)  # type: ignore[arg-type]
    return ""


def living(dissection: Dissection, units: Sequence[Unit]) -> list[Unit]:
    """Those of ``units`` that can be described, in their order: dead, sparse and invalid ones are left out."""
    alive = set(dissection.alive())
    return [unit for unit in units if unit in alive]
