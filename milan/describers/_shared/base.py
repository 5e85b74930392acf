"""What a describer is, and what anything that describes units must keep to."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanWarning
from milan.pretrained.openai_endpoint import is_on_this_machine
from milan.probes import Probe
from milan.storage.files import content_key
from milan.storage.provenance import LANGUAGE_MODEL, joined, united
from milan.units import Description, Unit

MATERIALS = ("captioner", "prior", "encoder", "embedder", "painter", "segmenter", "llm", "concepts", "annotations")
ROLES = {"llm": LANGUAGE_MODEL}  # settings whose role has another name


@dataclass(frozen=True)
class DescriptionFailure:
    """A unit that could not be described this time, and why; the others go on, and a rerun tries this one again."""

    unit: Unit
    reason: str  # never stored or shown as a description


class Describer(ABC):
    """Says in words what units do, from their dissection.

    A subclass is one file of ``milan/describers``: the constructor stores the method's settings under their own names
    (weights and heavy imports wait until they are needed), ``name`` is the file's, and ``describe`` does the work.
    ``milan.check_describer`` tests one. Answers are kept and found again by ``key``: raise ``version`` when the code
    comes to answer differently.
    """

    name: ClassVar[str]
    # To be raised by one whenever answers change. Without it the text of the class's file counts as its version.
    version: ClassVar[int | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__.lower()

    @abstractmethod
    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yields one description for each of ``units`` that lives, in their order, each as soon as it is known.

        The whole layer's evidence is at hand in ``dissection``, but what is said of a unit must not depend on which
        others are asked for. A unit for which something outside failed gets a ``DescriptionFailure``, never an error's
        text as its description.
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
        """What its answers depend on besides the dissection: settings and version; a subclass adds weights."""
        return self.key_of(settings={name: str(each) for name, each in self.settings.items()})

    def key_of(self, **parts: Any) -> str:
        """Return the content key of these parts, the describer's name, and the version that its own class states."""
        version = vars(type(self)).get("version")
        return content_key(
            describer=self.name, version=_read_source(type(self)) if version is None else version, **parts
        )

    def image_endpoint(self) -> str:
        """Return the address of the endpoint that images are sent to; empty if all models run in this process."""
        return ""

    def estimate_requests(self, probe: Probe, units: int, k: int) -> str:
        """Return how many requests, images and bytes describing that many units takes, and where they go, for people.

        Args:
            probe: the images, of which a few are read.
            units: number of units.
            k: number of exemplars of each.
        """
        return ""

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return what the answers about a layer are made from besides its target and probe, by role.

        By default these are the settings that name models, concept sets and annotations (``MATERIALS``). A describer
        that leaves some of them unused, or uses others, overrides this: it decides which results are called simulated.
        """
        return self.specs(*MATERIALS)

    def specs(self, *settings: str) -> dict[str, str]:
        """Return the settings of these names that there are and that are not empty, by their roles, as texts."""
        values = {ROLES.get(name, name): self.settings.get(name) for name in settings}
        return {role: ", ".join(map(str, _as_list(value))) for role, value in values.items() if value}


def sources_of(dissections: Iterable[Dissection], describers: Mapping[str, Describer]) -> dict[str, str]:
    """Return what answers about some layers were made from, by role: target, probe and the describers' sources."""
    layers = list(dissections)
    parts = {name: united([describer.sources(layer) for layer in layers]) for name, describer in describers.items()}
    return {**united([{"target": layer.target, "probe": layer.probe} for layer in layers]), **joined(parts)}


def warn_of_sent_images(describer: Describer) -> None:
    """Warn if the describer sends images to an endpoint that is not on this machine."""
    url = describer.image_endpoint()
    if url and not is_on_this_machine(url):
        text = f"{describer.name} sends images of the probe to {url}, which is not on this machine"
        warnings.warn(text, MilanWarning, stacklevel=3)


def _as_list(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else [value]


def _read_source(cls: type[Describer]) -> str:
    """Return the text of the file that defines a class, or the compiled code of a class made at a prompt."""
    functions = [inspect.unwrap(each) for each in vars(cls).values() if inspect.isfunction(each)]
    for function in functions:
        # There is no such file at a prompt.
        with suppress(OSError, ValueError):
            return Path(function.__code__.co_filename).read_text(encoding="utf-8")
    return repr([(each.__name__, _compiled(each.__code__)) for each in functions])


def _compiled(code: CodeType) -> tuple[str, tuple[str, ...], list[Any]]:
    """Return what a function does, in plain values; nested functions are among its constants."""
    constants = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return code.co_code.hex(), code.co_names, constants


def select_active(dissection: Dissection, units: Sequence[Unit]) -> list[Unit]:
    """Those of ``units`` that can be described, in their order: dead, sparse and invalid ones are left out."""
    alive = set(dissection.active_units())
    return [unit for unit in units if unit in alive]
