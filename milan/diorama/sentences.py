"""Generates sentences about a scene: with synonyms, in varying order, with details left out."""

from milan.diorama.rng import PortableRng
from milan.diorama.scene_vocabulary import ADJECTIVES, add_article, get_synonyms, pluralize
from milan.diorama.scenes import PlacedThing, Scene

RELATION_PHRASES = {"on": ("on", "on top of"), "above": ("above", "over"),
    "left of": ("left of", "to the left of", "beside", "next to"),
        "in front of": ("in front of", "before")}  # fmt: skip
AT_SETTINGS = {"beach", "shore", "seaside", "sea", "ocean", "night", "night sky"}
ON_SETTINGS = {"street", "farmland", "farm"}
SETTINGS_WITHOUT_ARTICLE = {"farmland", "grassland", "woods", "night"}
PLURAL_PARTS = {"leg", "arm", "ear", "wheel", "window", "petal", "rung", "rail", "post", "wing", "ray", "fin"}


def generate_sentences(scene: Scene, count: int = 3, seed: int = 0) -> list[str]:
    """Return true sentences about a scene in lower case, determined by the scene's number and ``seed``.

    >>> from milan.diorama.scenes import draw_scene
    >>> len(generate_sentences(draw_scene(1), 4))
    4
    """
    rng = PortableRng(seed, 4, scene.index, scene.label, len(scene.objects))
    return [_generate_sentence(scene, rng) for _ in range(count)]


def _generate_sentence(scene: Scene, rng: PortableRng) -> str:
    if not scene.objects:
        return f"{rng.choice(('a view of a', 'a picture of a', 'an empty'))} {scene.setting}"
    things_by_number = {placed.number: placed for placed in scene.objects}
    # Big things are spoken of first and most.
    first = max(scene.objects, key=lambda placed: placed.area) if rng.chance(75) else rng.choice(scene.objects)
    phrase = _phrase_thing(first, rng)
    relations = [relation for relation in scene.relations if relation.subject == first.number]
    others = [placed for placed in scene.objects if placed is not first]
    if relations and rng.chance(50):
        relation = rng.choice(relations)
        phrase += (
            f" {rng.choice(RELATION_PHRASES[relation.name])} {_phrase_thing(things_by_number[relation.other], rng)}"
        )
    elif others and rng.chance(50):
        phrase = rng.choice(
            (
                f"{phrase} and {_phrase_thing(others[0], rng)}",
                f"{_phrase_thing(others[0], rng)} and {phrase}",
                f"{phrase} with {_phrase_thing(others[0], rng)}",
            )
        )
    return _add_setting(phrase, scene.setting, rng)


def _add_setting(phrase: str, setting: str, rng: PortableRng) -> str:
    if rng.chance(35):
        return rng.choice((phrase, phrase, f"there is {phrase}", f"a picture of {phrase}"))
    place = phrase_setting(setting, rng)
    return rng.choice((f"{phrase} {place}", f"{phrase} {place}", f"{place}, {phrase}", f"there is {phrase} {place}"))


def phrase_setting(setting: str, rng: PortableRng) -> str:
    """Return the phrase that something is in a setting.

    >>> phrase_setting("beach", PortableRng(1))
    'at the beach'
    """
    name = _choose_synonym(rng, setting)
    if name == "indoors":
        return name
    before = "at" if name in AT_SETTINGS else "on" if name in ON_SETTINGS else "in"
    known = before == "at" or rng.chance(50)  # there is but one sea, and one night sky
    return (
        f"{before} {name}"
        if name in SETTINGS_WITHOUT_ARTICLE
        else f"{before} the {name}"
        if known
        else f"{before} {add_article(name)}"
    )


def _phrase_thing(placed: PlacedThing, rng: PortableRng) -> str:
    words = [_choose_synonym(rng, placed.name)]
    if placed.pattern != "plain" and rng.chance(65):
        words.insert(0, ADJECTIVES[placed.pattern])
    if rng.chance(70):
        second = (
            f" and {placed.second_colour}"
            if placed.second_colour and placed.pattern != "plain" and rng.chance(60)
            else ""
        )
        words.insert(0, placed.colour + second)
    phrase = add_article(" ".join(words))
    if placed.word and rng.chance(60):
        kind = "letter" if len(placed.word) == 1 else "word"
        return phrase + rng.choice(
            (f" that says {placed.word}", f" with the {kind} {placed.word}", f" with the {kind} {placed.word} on it")
        )
    if placed.parts and rng.chance(25):
        part, colour, pattern = rng.choice(placed.parts)
        if part not in ("body", "top"):
            look = " ".join([colour, *([ADJECTIVES[pattern]] if pattern != "plain" else [])])
            return (
                f"{phrase} with {look} {pluralize(part)}"
                if part in PLURAL_PARTS
                else f"{phrase} with {add_article(f'{look} {part}')}"
            )
    return phrase


def _choose_synonym(rng: PortableRng, name: str) -> str:
    return name if rng.chance(65) else rng.choice(get_synonyms(name))
