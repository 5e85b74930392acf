"""Concepts that a probe's class labels tell: its classes, and groups of them such as WordNet's."""

import ast
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from milan.errors import BadInput, MilanWarning, MissingEvidence
from milan.probes.class_labels import UNKNOWN, WNID_PATTERN
from milan.probes.probe import Probe
from milan.storage.text_files import CONVERSION_ERRORS, read_json_object, read_text

MOST_CONCEPTS = 30_000  # classes with a column and a row each, which is 0.9 GB


@dataclass(frozen=True)
class ClassConcepts:
    """Names of concepts, and which class of a probe counts as which; no two concepts have the same classes."""

    names: list[str]
    members: Bool[np.ndarray, "classes concepts"]

    def presence_matrix(self, labels: Sequence[int]) -> Float[np.ndarray, "images concepts"]:
        """Which image shows which concept, 0 or 1; NaN where the image's class is unknown."""
        found = self.members[np.asarray(labels)].astype(np.float32)
        found[np.asarray(labels) == UNKNOWN] = np.nan
        return found


def known_labels(probe: Probe) -> list[int]:
    """Return the class number of each image of a probe.

    Raises:
        MissingEvidence: the probe has no labels, or the class of an image is unknown.
    """
    name = probe.spec or probe.name or "in memory"
    if probe.labels is None:
        raise MissingEvidence(f"the probe {name!r} has no class labels; give one that has, or take another evidence")
    if unknown := probe.labels.count(UNKNOWN):
        first = probe.source.format_location(probe.labels.index(UNKNOWN))
        text = f"{unknown} of {len(probe)} images of the probe {name!r} are of unknown class ({first}, ...)"
        raise MissingEvidence(f"{text}; give a probe of labelled images alone")
    return probe.labels


def load_class_concepts(probe: Probe, superclasses: str = "", synsets: str = "") -> ClassConcepts:
    """The classes of a probe, by the first of their names, and their superclasses.

    Superclasses that hold no class of the probe are left out, and of those that hold the same ones all but the
    narrowest, which a class of its own goes before.

    Args:
        probe: with labels.
        superclasses: FILE.json of {superclass: [class, ...]}; a class is the number of a label, or a name, or a WordNet
            id (n01443537). Empty: Diorama's groups for Diorama, none for others.
        synsets: FILE that says which classes the numbers in ``superclasses`` mean, where they are not the probe's own
            labels: a JSON or Python dictionary of {number: {"id": "01443537-n", "label": "goldfish, Carassius
            auratus"}}, as ImageNet's is published. The classes are found in the probe by WordNet id where it tells
            these, else by name.

    Raises:
        MissingEvidence: the probe has no labels.
        BadInput: a file is not of that form, or speaks of classes that the probe does not have.
    """
    if probe.labels is None:
        known_labels(probe)
    known = _read_synsets(synsets) if synsets else {}
    classes = format_class_names(probe, known)
    if len(classes) > MOST_CONCEPTS:
        raise BadInput(
            f"{len(classes)} classes of {probe.spec or probe.name!r}; at most {MOST_CONCEPTS} can be concepts"
        )
    groups = _load_superclasses(superclasses, probe)
    where = _label_lookup(probe, known, classes)
    members = [np.eye(len(classes), dtype=bool)]
    names, sizes = list(classes), [0] * len(classes)
    for name, listed in groups.items():
        members.append(_class_mask(name, listed, where, len(classes))[:, None])
        names.append(name)
        sizes.append(len(listed))
    return _drop_duplicates(names, np.concatenate(members, axis=1), sizes)


def match_outputs(probe: Probe, outputs: int, synsets: str = "") -> list[int]:
    """Return which output of a classifier stands for each class: its own number where there are as many as classes.

    Args:
        probe: with labels.
        outputs: how many the classifier has.
        synsets: FILE that says which class each output is, as in ``load_class_concepts``; needed where the probe shows
            other classes.

    Raises:
        MissingEvidence: an image has no known class, nothing tells which output is which class, or a class has none.
        BadInput: the file is not of that form, or knows none of the classes.
    """
    known_labels(probe)
    classes = format_class_names(probe, known := _read_synsets(synsets) if synsets else {})
    if not known:
        if len(classes) != outputs:
            raise MissingEvidence(
                f"{outputs} outputs for the {len(classes)} classes of {probe.spec or probe.name!r}: what a unit is"
                " worth is only known for a classifier of the probe's classes; say which output is which class with"
                " synsets=FILE"
            )
        return list(range(outputs))
    where = _label_lookup(probe, known, classes)
    found = {where[number]: number for number in sorted(known, reverse=True) if number < outputs}
    if missing := [name for label, name in enumerate(classes) if label not in found]:
        raise MissingEvidence(
            f"{len(missing)} of {len(classes)} classes are no output of the classifier by {synsets}: {missing[:3]}"
        )
    return [found[label] for label in range(len(classes))]


def _load_superclasses(superclasses: str, probe: Probe) -> Mapping[str, Sequence[object]]:
    if not superclasses:
        return _diorama_superclasses(probe.classes or []) if probe.spec.startswith("diorama:") else {}
    try:
        found = read_json_object(Path(superclasses))
    except BadInput as error:
        raise BadInput(f"no superclasses: {error}; write {{superclass: [class, ...]}}") from None
    if not all(isinstance(listed, list) for listed in found.values()):
        raise BadInput(f"{superclasses} is not a JSON object of lists; write {{superclass: [class, ...]}}")
    return found


def _diorama_superclasses(classes: Sequence[str]) -> dict[str, list[str]]:
    from milan.diorama.scene_vocabulary import GROUPS

    within = {group: [name for _, name in members if name in classes] for group, members in GROUPS.items()}
    return {group: members for group, members in within.items() if members}


def _read_synsets(file: str) -> dict[int, tuple[str, str]]:
    """WordNet id and name of each number."""
    try:
        # This reads JSON of numbers and texts as well.
        found = ast.literal_eval(read_text(Path(file)))
        return {int(number): (f"n{each['id'][:8]}", each["label"]) for number, each in found.items()}
    except (*CONVERSION_ERRORS, BadInput, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"cannot read synsets from {file}: {error}; write {{number: {{'id': '01443537-n', 'label': name}}}}"
        ) from None


def format_class_names(probe: Probe, synsets: Mapping[int, tuple[str, str]] | None = None) -> list[str]:
    """A name for each class of a probe with labels: the first of its names where that is its own, else all of them,
    else with a number.

    synsets: WordNet id and names of some classes, for probes that call theirs by these ids.
    """
    given = probe.classes or [f"class {label}" for label in range(max(probe.labels or [0]) + 1)]
    named = dict((synsets or {}).values())
    full = [named.get(name, name) for name in given]
    first = [name.split(",")[0].strip() or name for name in full]
    once, all_once = Counter(first), Counter(full)
    names = [short if once[short] == 1 else name for short, name in zip(first, full, strict=True)]
    return [
        name if all_once[long] == 1 else f"{name} ({number})"
        for number, (name, long) in enumerate(zip(names, full, strict=True))
    ]


def _label_lookup(
    probe: Probe, synsets: Mapping[int, tuple[str, str]], classes: Sequence[str]
) -> dict[object, int | None]:
    """The label of each class by all that a superclass file may call it; None for what the synsets know and the probe
    does not show.
    """
    where: dict[object, int | None] = dict(zip(classes, range(len(classes)), strict=True))
    where |= {name: label for label, name in enumerate(probe.classes or [])}
    where |= {wnid: label for label, wnid in enumerate(probe.wnids or []) if WNID_PATTERN.fullmatch(wnid)}
    if not synsets:
        return where | {label: label for label in range(len(classes))}
    twice = Counter(name for _, name in synsets.values())
    found: dict[object, int | None] = {
        number: where.get(wnid, where.get(name) if not probe.wnids and twice[name] == 1 else None)
        for number, (wnid, name) in synsets.items()
    }
    _warn_of_unknown_classes(found, classes, probe)
    return where | found


def _warn_of_unknown_classes(found: Mapping[object, int | None], classes: Sequence[str], probe: Probe) -> None:
    strangers = [name for label, name in enumerate(classes) if label not in found.values()]
    if len(strangers) == len(classes):
        raise BadInput(
            f"none of the {len(classes)} classes of {probe.spec} ({', '.join(classes[:3])}, ...) is among the synsets"
        )
    if strangers:
        text = (
            f"{len(strangers)} of {len(classes)} classes of {probe.spec} are not among the synsets and get no"
            " superclass: "
        )
        warnings.warn(text + ", ".join(strangers[:5]), MilanWarning, stacklevel=2)


def _class_mask(
    superclass: str, listed: Sequence[object], where: Mapping[object, int | None], classes: int
) -> Bool[np.ndarray, " classes"]:
    unknown = [each for each in listed if not isinstance(each, int | str) or each not in where]
    if unknown:
        raise BadInput(
            f"superclass {superclass!r} lists {unknown[0]!r}, which is no class of this probe (it has {classes}); "
            "if the numbers are another data set's, say which classes they are with synsets=FILE"
        )
    found = np.zeros(classes, dtype=bool)
    found[[place for each in listed if (place := where[each]) is not None]] = True
    return found


def _drop_duplicates(
    names: Sequence[str], members: Bool[np.ndarray, "classes concepts"], sizes: Sequence[int]
) -> ClassConcepts:
    """Without empty concepts, and each set of classes once, under its narrowest name."""
    chosen: dict[bytes, int] = {}
    for place in sorted(range(len(names)), key=lambda place: sizes[place]):
        if members[:, place].any():
            chosen.setdefault(members[:, place].tobytes(), place)
    places = sorted(chosen.values())
    twice = Counter(names[place] for place in places)
    unique_names = [
        names[place] if twice[names[place]] == 1 or not sizes[place] else f"{names[place]} (any)" for place in places
    ]
    return ClassConcepts(unique_names, members[:, places])
