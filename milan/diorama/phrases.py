"""Puts concepts into short phrases, as people do who say what they see in a picture; ``concepts.read`` reads them back."""

from milan.diorama.concepts import Concept
from milan.diorama.dice import Dice
from milan.diorama.names import ADJECTIVES, GROUP_WORDS, article, plural, words_for
from milan.diorama.sentences import within

FINE = {  # which kinds go together in a phrase, the one that qualifies first
    ("colour", "pattern"), ("colour", "object"), ("colour", "part"), ("colour", "setting"), ("colour", "text"), ("pattern", "object"),
    ("pattern", "part"), ("pattern", "setting"), ("part", "object"), ("part", "setting"), ("object", "setting"), ("text", "object"),
}  # fmt: skip
MASS = {
    "sky", "grass", "sand", "water", "snow", "foliage", "ground", "hair", "text", "road", "pavement", "moon", "sun", "plants", "animals",
    "vehicles", "furniture", "architecture", "objects", "backgrounds", "land", "field",
}  # fmt: skip
RENAMED = {"top": "table top", "back": "chair back"}  # parts whose own names say too little


def phrase(found: tuple[Concept, ...], dice: Dice, synonyms: int = 30) -> str:
    """One or two concepts in words, lower case.

    found: one concept, or two whose kinds stand in FINE in that order; synonyms: how often one is used, percent.

    >>> from milan.diorama.concepts import by_name
    >>> phrase((by_name()["red"], by_name()["dots"]), Dice(3), synonyms=0)
    'red dots'
    """
    if len(found) == 1:
        return _alone(found[0], dice, synonyms)
    first, second = found
    kinds = (first.kind, second.kind)
    if second.kind == "setting":
        return (
            f"{_alone(first, dice, synonyms)} {within(second.name, dice)}"
            if second.name != "outdoors"
            else f"{_alone(first, dice, 0)} outdoors"
        )
    if kinds == ("part", "object"):
        return _part_of(first, second, dice, synonyms)
    if kinds == ("text", "object"):
        return f"{_word(first, dice, synonyms)} on {_noun(second, dice, synonyms)}"
    if first.kind == "pattern":
        return _patterned(first, _noun(second, dice, synonyms), dice)
    return f"{_word(first, dice, synonyms)} {_noun(second, dice, synonyms)}"


def _alone(concept: Concept, dice: Dice, synonyms: int) -> str:
    word = _word(concept, dice, synonyms)
    if concept.kind == "colour":
        return dice.pick((f"{word} areas", f"{word} things", f"{word} regions", f"the color {concept.name}", f"{word} surfaces"))
    if concept.kind == "setting":
        return dice.pick((f"{word} scenes", f"views of the {word}")) if word not in ("indoors", "outside") else word
    if concept.kind == "text":
        return word if concept.name == "text" else dice.pick((f"the {word}", word))
    if concept.kind == "pattern":
        return dice.pick((word, word, f"areas with {word}")) if word.endswith("s") else word
    return dice.pick(
        (_noun(concept, dice, synonyms), _noun(concept, dice, synonyms), f"the {word}" if concept.name in MASS else article(word))
    )


def _part_of(part: Concept, whole: Concept, dice: Dice, synonyms: int) -> str:
    word, owner = _word(part, dice, synonyms), _word(whole, dice, synonyms)
    if whole.name in MASS:
        return f"{plural(word)} of {owner}"
    return dice.pick((f"the {word} of {article(owner)}", f"{plural(word)} of {plural(owner)}", f"{owner} {plural(word)}"))


def _patterned(pattern: Concept, noun: str, dice: Dice) -> str:
    adjective = {"stripes": "striped", "patterns": "patterned"}.get(pattern.name) or ADJECTIVES[pattern.name]
    return f"{adjective} {noun}" if pattern.name == "plain" or dice.chance(60) else f"{noun} with {pattern.name}"


def _noun(concept: Concept, dice: Dice, synonyms: int) -> str:
    word = _word(concept, dice, synonyms)
    return word if concept.name in MASS or concept.kind in ("pattern", "text") or word.endswith("s") else plural(word)


def _word(concept: Concept, dice: Dice, synonyms: int) -> str:
    name = RENAMED.get(concept.name, concept.name)
    others = [
        word
        for word in (*words_for(concept.name)[1:], *GROUP_WORDS.get(concept.name, ()))
        if word not in ADJECTIVES.values() and word != name
    ]
    if concept.kind == "pattern" or concept.name in GROUP_WORDS:
        others = [word for word in others if word.endswith("s") or word in ("text", "writing")]
    return dice.pick(others) if others and dice.chance(synonyms) else name
