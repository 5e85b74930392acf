"""Phrases for concepts, as annotators write them; ``milan.diorama.text_reader`` reads them back."""

from milan.diorama.rng import PortableRng
from milan.diorama.scene_concepts import Concept
from milan.diorama.scene_vocabulary import ADJECTIVES, GROUP_WORDS, add_article, get_synonyms, pluralize
from milan.diorama.sentences import phrase_setting

PHRASE_KINDS = {  # which kinds go together in a phrase, the one that qualifies first
    ("colour", "pattern"), ("colour", "object"), ("colour", "part"), ("colour", "setting"), ("colour", "text"),
     ("pattern", "object"),
    ("pattern", "part"), ("pattern", "setting"), ("part", "object"), ("part", "setting"), ("object", "setting"),
     ("text", "object"),
}  # fmt: skip
MASS_NOUNS = {
    "sky", "grass", "sand", "water", "snow", "foliage", "ground", "hair", "text", "road", "pavement", "moon", "sun",
    "plants", "animals",
    "vehicles", "furniture", "architecture", "objects", "backgrounds", "land", "field",
}  # fmt: skip
CLEARER_PART_NAMES = {"top": "table top", "back": "chair back"}  # parts whose own names say too little


def make_phrase(named: tuple[Concept, ...], rng: PortableRng, synonym_percent: int = 30) -> str:
    """Return one or two concepts in words, in lower case.

    named: one concept, or two whose kinds stand in PHRASE_KINDS in that order; synonym_percent: how often one is used,
        percent.

    >>> from milan.diorama.scene_concepts import get_concepts_by_name
    >>> make_phrase((get_concepts_by_name()["red"], get_concepts_by_name()["dots"]), PortableRng(3), synonym_percent=0)
    'red dots'
    """
    if len(named) == 1:
        return _phrase_single(named[0], rng, synonym_percent)
    first, second = named
    kinds = (first.kind, second.kind)
    if second.kind == "setting":
        return (
            f"{_phrase_single(first, rng, synonym_percent)} {phrase_setting(second.name, rng)}"
            if second.name != "outdoors"
            else f"{_phrase_single(first, rng, 0)} outdoors"
        )
    if kinds == ("part", "object"):
        return _phrase_part(first, second, rng, synonym_percent)
    if kinds == ("text", "object"):
        return f"{_choose_word(first, rng, synonym_percent)} on {_choose_noun(second, rng, synonym_percent)}"
    if first.kind == "pattern":
        return _phrase_pattern(first, _choose_noun(second, rng, synonym_percent), rng)
    return f"{_choose_word(first, rng, synonym_percent)} {_choose_noun(second, rng, synonym_percent)}"


def _phrase_single(concept: Concept, rng: PortableRng, synonyms: int) -> str:
    word = _choose_word(concept, rng, synonyms)
    if concept.kind == "colour":
        return rng.choice(
            (f"{word} areas", f"{word} things", f"{word} regions", f"the color {concept.name}", f"{word} surfaces")
        )
    if concept.kind == "setting":
        return rng.choice((f"{word} scenes", f"views of the {word}")) if word not in ("indoors", "outside") else word
    if concept.kind == "text":
        return word if concept.name == "text" else rng.choice((f"the {word}", word))
    if concept.kind == "pattern":
        return rng.choice((word, word, f"areas with {word}")) if word.endswith("s") else word
    return rng.choice(
        (
            _choose_noun(concept, rng, synonyms),
            _choose_noun(concept, rng, synonyms),
            f"the {word}" if concept.name in MASS_NOUNS else add_article(word),
        )
    )


def _phrase_part(part: Concept, whole: Concept, rng: PortableRng, synonyms: int) -> str:
    word, owner = _choose_word(part, rng, synonyms), _choose_word(whole, rng, synonyms)
    if whole.name in MASS_NOUNS:
        return f"{pluralize(word)} of {owner}"
    return rng.choice(
        (
            f"the {word} of {add_article(owner)}",
            f"{pluralize(word)} of {pluralize(owner)}",
            f"{owner} {pluralize(word)}",
        )
    )


def _phrase_pattern(pattern: Concept, noun: str, rng: PortableRng) -> str:
    adjective = {"stripes": "striped", "patterns": "patterned"}.get(pattern.name) or ADJECTIVES[pattern.name]
    return f"{adjective} {noun}" if pattern.name == "plain" or rng.chance(60) else f"{noun} with {pattern.name}"


def _choose_noun(concept: Concept, rng: PortableRng, synonyms: int) -> str:
    word = _choose_word(concept, rng, synonyms)
    return (
        word
        if concept.name in MASS_NOUNS or concept.kind in ("pattern", "text") or word.endswith("s")
        else pluralize(word)
    )


def _choose_word(concept: Concept, rng: PortableRng, synonyms: int) -> str:
    name = CLEARER_PART_NAMES.get(concept.name, concept.name)
    others = [
        word
        for word in (*get_synonyms(concept.name)[1:], *GROUP_WORDS.get(concept.name, ()))
        if word not in ADJECTIVES.values() and word != name
    ]
    if concept.kind == "pattern" or concept.name in GROUP_WORDS:
        others = [word for word in others if word.endswith("s") or word in ("text", "writing")]
    return rng.choice(others) if others and rng.chance(synonyms) else name
