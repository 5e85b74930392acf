"""Concepts from a probe's class labels: its classes, and groups of them such as WordNet's."""

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

MAX_CONCEPTS = 30_000  # a table of classes by concepts then takes 0.9 GB


@dataclass(frozen=True)
class ClassConcepts:
    """Concepts and the classes of a probe that belong to each; no two concepts have the same classes."""

    names: list[str]
    members: Bool[np.ndarray, "classes concepts"]

    def presence_matrix(self, labels: Sequence[int]) -> Float[np.ndarray, "images concepts"]:
        """Return which image shows which concept, 0 or 1; NaN if the image's class is unknown."""
        presence = self.members[np.asarray(labels)].astype(np.float32)
        presence[np.asarray(labels) == UNKNOWN] = np.nan
        return presence


def known_labels(probe: Probe) -> list[int]:
    """Return the class number of each image of a probe.

    Raises:
        MissingEvidence: the probe has no labels, or the class of an image is unknown.
    """
    name = probe.spec or probe.name or "in memory"
    if probe.labels is None:
        raise MissingEvidence(
            f"the probe {name!r} has no class labels; give a labelled probe, or choose other evidence"
        )
    if unknown := probe.labels.count(UNKNOWN):
        first = probe.source.format_location(probe.labels.index(UNKNOWN))
        text = f"{unknown} of {len(probe)} images of the probe {name!r} have an unknown class ({first}, ...)"
        raise MissingEvidence(f"{text}; give a probe with labelled images only")
    return probe.labels


def load_class_concepts(probe: Probe, superclasses: str = "", synsets: str = "") -> ClassConcepts:
    """Return the classes of a probe, by the first of their names, and their superclasses as concepts.

    Superclasses without a class of the probe are left out. Of superclasses with the same classes the narrowest is kept,
    and a class is preferred to a superclass that holds it alone.

    Args:
        probe: a probe with labels.
        superclasses: FILE.json of {superclass: [class, ...]}, where a class is a label's number, a name or a WordNet id
            (n01443537). By default Diorama's groups for Diorama, and none for other probes.
        synsets: FILE with the classes of the numbers in ``superclasses`` if they are not the probe's labels: a JSON or
            Python dictionary {number: {"id": "01443537-n", "label": "goldfish, Carassius auratus"}}, as published for
            ImageNet. The classes are looked up in the probe by WordNet id if it has them, else by name.

    Raises:
        MissingEvidence: the probe has no labels.
        BadInput: a file has another form, or names classes that the probe does not have.
    """
    if probe.labels is None:
        known_labels(probe)
    synset_of = _read_synsets(synsets) if synsets else {}
    classes = format_class_names(probe, synset_of)
    if len(classes) > MAX_CONCEPTS:
        raise BadInput(
            f"{len(classes)} classes of {probe.spec or probe.name!r}; at most {MAX_CONCEPTS} can be concepts"
        )
    groups = _load_superclasses(superclasses, probe)
    where = _label_lookup(probe, synset_of, classes)
    members = [np.eye(len(classes), dtype=bool)]
    names, sizes = list(classes), [0] * len(classes)
    for name, listed in groups.items():
        members.append(_class_mask(name, listed, where, len(classes))[:, None])
        names.append(name)
        sizes.append(len(listed))
    return _drop_duplicates(names, np.concatenate(members, axis=1), sizes)


def match_outputs(probe: Probe, outputs: int, synsets: str = "") -> list[int]:
    """Return the output of a classifier for each class: the class number if there are as many outputs as classes.

    Class numbers may have gaps, as those of a part of a dataset: a class that no image has needs no output, and is -1
    if it has none.

    Args:
        probe: a probe with labels.
        outputs: number of the classifier's outputs.
        synsets: FILE with the class of each output, as in ``load_class_concepts``; needed if the probe has other
            classes than the classifier.

    Raises:
        MissingEvidence: an image has no known class, or the class of an image has no known output.
        BadInput: the file has another form, or holds none of the classes.
    """
    known_labels(probe)
    classes = format_class_names(probe, synset_of := _read_synsets(synsets) if synsets else {})
    if not synset_of:
        if len(classes) != outputs:
            raise MissingEvidence(
                f"{outputs} outputs for the {len(classes)} classes of {probe.spec or probe.name!r}; use a"
                " classifier of the probe's classes, or name the class of each output with synsets=FILE"
            )
        return list(range(outputs))
    where = _label_lookup(probe, synset_of, classes)
    outputs_of_classes = {where[number]: number for number in sorted(synset_of, reverse=True) if number < outputs}
    shown = sorted(set(probe.labels or []))
    if missing := [classes[label] for label in shown if label not in outputs_of_classes]:
        raise MissingEvidence(f"{len(missing)} of {len(shown)} classes have no output in {synsets}: {missing[:3]}")
    return [outputs_of_classes.get(label, -1) for label in range(len(classes))]


def _load_superclasses(superclasses: str, probe: Probe) -> Mapping[str, Sequence[object]]:
    if not superclasses:
        return _diorama_superclasses(probe.classes or []) if probe.spec.startswith("diorama:") else {}
    try:
        mapping = read_json_object(Path(superclasses))
    except BadInput as error:
        raise BadInput(f"cannot read the superclasses: {error}; write {{superclass: [class, ...]}}") from None
    if not all(isinstance(listed, list) for listed in mapping.values()):
        raise BadInput(f"{superclasses} is not a JSON object of lists; write {{superclass: [class, ...]}}")
    return mapping


def _diorama_superclasses(classes: Sequence[str]) -> dict[str, list[str]]:
    from milan.diorama.scene_vocabulary import GROUPS

    within = {group: [name for _, name in members if name in classes] for group, members in GROUPS.items()}
    return {group: members for group, members in within.items() if members}


def _read_synsets(file: str) -> dict[int, tuple[str, str]]:
    """Return the WordNet id and the name of each number."""
    try:
        # This reads JSON of numbers and texts as well.
        synsets_by_number = ast.literal_eval(read_text(Path(file)))
        return {int(number): (f"n{each['id'][:8]}", each["label"]) for number, each in synsets_by_number.items()}
    except (*CONVERSION_ERRORS, BadInput, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"cannot read synsets from {file}: {error}; write {{number: {{'id': '01443537-n', 'label': name}}}}"
        ) from None


def format_class_names(probe: Probe, synsets: Mapping[int, tuple[str, str]] | None = None) -> list[str]:
    """Return a unique name for each class of a probe: the first of its names, else all of them, else with a number.

    Args:
        probe: a probe with labels.
        synsets: WordNet id and names of classes, for a probe whose classes are named by these ids.
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
    """Return the label of each class by any of its names; None for synsets that are no class of the probe."""
    where: dict[object, int | None] = dict(zip(classes, range(len(classes)), strict=True))
    where |= {name: label for label, name in enumerate(probe.classes or [])}
    where |= {wnid: label for label, wnid in enumerate(probe.wnids or []) if WNID_PATTERN.fullmatch(wnid)}
    if not synsets:
        return where | {label: label for label in range(len(classes))}
    twice = Counter(name for _, name in synsets.values())
    lookup: dict[object, int | None] = {
        number: where.get(wnid, where.get(name) if not probe.wnids and twice[name] == 1 else None)
        for number, (wnid, name) in synsets.items()
    }
    _warn_of_unknown_classes(lookup, classes, probe)
    return where | lookup


def _warn_of_unknown_classes(lookup: Mapping[object, int | None], classes: Sequence[str], probe: Probe) -> None:
    known = set(lookup.values())
    shown = sorted(set(probe.labels or []) - {UNKNOWN})
    unknown = [classes[label] for label in shown if label not in known]
    if len(unknown) == len(shown):
        raise BadInput(
            f"none of the {len(shown)} classes of {probe.spec} ({', '.join(unknown[:3])}, ...) is in the synsets"
        )
    if unknown:
        text = f"{len(unknown)} of {len(shown)} classes of {probe.spec} are not in the synsets and have no superclass: "
        warnings.warn(text + ", ".join(unknown[:5]), MilanWarning, stacklevel=2)


def _class_mask(
    superclass: str, listed: Sequence[object], where: Mapping[object, int | None], classes: int
) -> Bool[np.ndarray, " classes"]:
    unknown = [each for each in listed if not isinstance(each, int | str) or each not in where]
    if unknown:
        raise BadInput(
            f"superclass {superclass!r} lists {unknown[0]!r}, which is no class of this probe (it has {classes}); "
            "if the numbers are those of another dataset, give its classes with synsets=FILE"
        )
    mask = np.zeros(classes, dtype=bool)
    mask[[place for each in listed if (place := where[each]) is not None]] = True
    return mask


def _drop_duplicates(
    names: Sequence[str], members: Bool[np.ndarray, "classes concepts"], sizes: Sequence[int]
) -> ClassConcepts:
    """Return concepts without empty ones, and each set of classes once, under its narrowest name."""
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
