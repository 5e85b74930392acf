"""The interface of all describers, and the facts about them that results state."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

from milan.concepts.concept_sets import find_missing_sets
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, MilanWarning
from milan.pretrained.milan_release import find_missing_release, is_released
from milan.pretrained.openai_endpoint import is_on_this_machine
from milan.pretrained.published_models import MissingModel, find_missing_model
from milan.probes import Probe
from milan.storage.files import content_key
from milan.storage.provenance import LANGUAGE_MODEL, WORDS, joined, united
from milan.targets.target import Target
from milan.units import Description, Unit

MODELS = ("captioner", "prior", "embedder", "painter", "segmenter", "llm")  # settings that name a pretrained model
MATERIALS = ("captioner", "prior", "encoder", "embedder", "painter", "segmenter", "llm", "concepts", "annotations")
ROLES = {"llm": LANGUAGE_MODEL}  # settings whose role has another name

# The units of a layer that are to be described.
DescriptionRequest = tuple[Dissection, Sequence[Unit]]


@dataclass(frozen=True)
class DescriptionFailure:
    """A unit that could not be described in this run, with the reason; a rerun tries it again."""

    unit: Unit
    reason: str  # never stored or shown as a description


class Describer(ABC):
    """Base class of all methods: describes units in words from their dissection.

    A subclass is one file of ``milan/describers``. Its constructor stores each argument under its own name and loads
    nothing; its defaults are the published settings with the published models. ``name`` is the name of the file.
    ``milan.check_describer`` checks an implementation. Descriptions are cached by ``key``: increase ``version`` when a
    change of the code changes descriptions.

    Attributes:
        name: what programs and tables call the method.
        version: increased by one whenever descriptions change. If None, the text of the class's file is the version.
        words: whose words the descriptions are, for the console, the tables' metadata and the page.
    """

    name: ClassVar[str]
    version: ClassVar[int | None] = None
    words: str = ""
    __signature__: ClassVar[inspect.Signature | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__signature__ = _complete_signature(cls)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__.lower()

    @abstractmethod
    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield one description for each active unit of ``units``, in their order, each as soon as it is known.

        ``dissection`` has the evidence of the whole layer, but the description of a unit must not depend on which other
        units are described. A unit for which an external service failed gets a ``DescriptionFailure``; the text of an
        error is never a description.
        """

    def prepare(self, requests: Sequence[DescriptionRequest]) -> None:  # noqa: B027 - most have nothing to share
        """Compute what the descriptions of several layers share, such as one pass of a network over the images.

        A run calls it once, before it calls ``describe`` for each of the requests. ``describe`` gives the same
        descriptions without it.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name.

        Raises:
            BadInput: the constructor has not stored one of them under its own name.
        """
        try:
            return {name: getattr(self, name) for name in self.setting_names()}
        except AttributeError as error:
            how = f"store it in the constructor, as self.{error.name} = {error.name}"
            raise BadInput(f"describer {type(self).__name__}: its setting {error.name} is not stored; {how}") from None

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the constructor's arguments."""
        return list(inspect.signature(cls).parameters)

    @property
    def key(self) -> str:
        """Content key of all that descriptions depend on besides the dissection: settings, version, and weights."""
        return self.key_of(settings={name: str(each) for name, each in self.settings.items()})

    def key_of(self, **parts: Any) -> str:
        """Return the content key of these parts, the describer's name, and the version that its own class states."""
        version = vars(type(self)).get("version")
        return content_key(
            describer=self.name, version=_read_source(type(self)) if version is None else version, **parts
        )

    def required_models(self) -> dict[str, str]:
        """Return the specs of the pretrained models and concept sets that are loaded, by role.

        A describer that leaves some of them unused, or loads others, overrides this.
        """
        return self.specs(*MODELS, "concepts")

    def find_missing_models(self) -> list[MissingModel]:
        """Return the required models and concept sets that can be neither found nor downloaded."""
        missing: list[MissingModel] = []
        for role, spec in self.required_models().items():
            if role == "concepts":
                missing += find_missing_sets(self.settings["concepts"])
            elif is_released(spec):
                missing += find_missing_release(role, spec)
            elif model := find_missing_model(role, spec, getattr(self, "base_url", "")):
                missing.append(model)
        return missing

    def check_evidence(self, target: Target, probe: Probe) -> None:  # noqa: B027 - many need nothing but images
        """Check that target and probe have the evidence that the method needs, such as labels.

        Raises:
            MissingEvidence: the evidence is missing.
        """

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

    def planned_sources(self) -> dict[str, str]:
        """Return what answers would be made from, by role, before anything is dissected or loaded.

        Of pretrained models and concept sets only those that the settings use.
        """
        unused = {ROLES.get(name, name) for name in (*MODELS, "concepts")} - set(self.required_models())
        return {role: spec for role, spec in self.specs(*MATERIALS).items() if role not in unused}

    def specs(self, *settings: str) -> dict[str, str]:
        """Return those of the named settings that exist and are not empty, as texts by role."""
        values = {ROLES.get(name, name): self.settings.get(name) for name in settings}
        return {role: ", ".join(map(str, _as_list(value))) for role, value in values.items() if value}


def sources_of(dissections: Iterable[Dissection], describers: Mapping[str, Describer]) -> dict[str, str]:
    """Return what descriptions of some layers were made from, by role: target, probe and the describers' sources.

    The role ``words`` says whose words the descriptions are.
    """
    layers = list(dissections)
    parts = {name: united([describer.sources(layer) for layer in layers]) for name, describer in describers.items()}
    for name, describer in describers.items():
        parts[name] |= {WORDS: describer.words} if describer.words else {}
    return {**united([{"target": layer.target, "probe": layer.probe} for layer in layers]), **joined(parts)}


def warn_of_sent_images(describer: Describer) -> None:
    """Warn if the describer sends images to an endpoint that is not on this machine."""
    url = describer.image_endpoint()
    if url and not is_on_this_machine(url):
        text = f"{describer.name} sends images of the probe to {url}, which is not on this machine"
        warnings.warn(text, MilanWarning, stacklevel=3)


def _complete_signature(cls: type[Describer]) -> inspect.Signature | None:
    """Return the signature of a constructor that passes ``**`` on to its base class, with the base's arguments.

    None means that Python's own signature is complete.
    """
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return None
    owner = next(each for each in cls.__mro__ if "__init__" in vars(each))
    base = next((each for each in owner.__mro__[1:] if "__init__" in vars(each)), object)
    if base is object:
        return None
    own = {each.name: each for each in parameters[:-1]}
    inherited = {name: each for name, each in inspect.signature(base).parameters.items() if name not in own}
    merged = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inherited.values()]
    return inspect.Signature([*own.values(), *merged])


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
    """Return the units that can be described, in their order, without dead, sparse and invalid ones."""
    active = set(dissection.active_units())
    return [unit for unit in units if unit in active]
