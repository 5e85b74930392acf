"""The concepts that Diorama shows, as texts for image-text models."""

from functools import cache
from itertools import product

from milan.diorama.scene_concepts import list_concepts
from milan.diorama.scene_vocabulary import ADJECTIVES, COLOURS, OBJECTS, PARTS, PATTERNS

CLEARER_NAMES = {"top": "table top", "back": "chair back"}  # bare, these say where in a picture something is


@cache
def list_concept_texts() -> tuple[str, ...]:
    """Return all single concepts, colour or pattern with object, and colour with pattern, each once."""
    pairs = [*product(_list_looks(), OBJECTS), *product(COLOURS, PATTERNS[1:])]
    singles = [CLEARER_NAMES.get(concept.name, concept.name) for concept in list_concepts()]
    return tuple(dict.fromkeys([*singles, *map(" ".join, pairs)]))


@cache
def list_part_texts() -> tuple[str, ...]:
    """Return every colour or pattern with every part of a thing, but for what ``list_concept_texts`` has."""
    parts = [CLEARER_NAMES.get(name, name) for name in PARTS]
    texts = map(" ".join, product(_list_looks(), parts))
    return tuple(text for text in texts if text not in list_concept_texts())


def _list_looks() -> list[str]:
    return [*COLOURS, *(ADJECTIVES[name] for name in PATTERNS[1:])]
