"""What a scene shows, said in varied words: synonyms, changing order, detail left out."""

from milan.diorama.dice import Dice
from milan.diorama.names import ADJECTIVES, article, plural, words_for
from milan.diorama.scenes import Placed, Scene

SAID = {"on": ("on", "on top of"), "above": ("above", "over"), "left of": ("left of", "to the left of", "beside", "next to"),
        "in front of": ("in front of", "before")}  # fmt: skip
AT = {"beach", "shore", "seaside", "sea", "ocean", "night", "night sky"}
ON = {"street", "farmland", "farm"}
BARE = {"farmland", "grassland", "woods", "night"}
MANY = {"leg", "arm", "ear", "wheel", "window", "petal", "rung", "rail", "post", "wing", "ray", "fin"}


def sentences(scene: Scene, count: int = 3, seed: int = 0) -> list[str]:
    """So many sentences about a scene, lower case, drawn from the scene's number and ``seed``; all of them true.

    >>> from milan.diorama.scenes import draw
    >>> len(sentences(draw(1), 4))
    4
    """
    dice = Dice(seed, 4, scene.index, scene.label, len(scene.objects))
    return [_sentence(scene, dice) for _ in range(count)]


def _sentence(scene: Scene, dice: Dice) -> str:
    if not scene.objects:
        return f"{dice.pick(('a view of a', 'a picture of a', 'an empty'))} {scene.setting}"
    shown = {placed.number: placed for placed in scene.objects}
    # Big things are spoken of first and most.
    first = max(scene.objects, key=lambda placed: placed.area) if dice.chance(75) else dice.pick(scene.objects)
    said = _thing(first, dice)
    relations = [relation for relation in scene.relations if relation.subject == first.number]
    others = [placed for placed in scene.objects if placed is not first]
    if relations and dice.chance(50):
        relation = dice.pick(relations)
        said += f" {dice.pick(SAID[relation.name])} {_thing(shown[relation.other], dice)}"
    elif others and dice.chance(50):
        said = dice.pick(
            (f"{said} and {_thing(others[0], dice)}", f"{_thing(others[0], dice)} and {said}", f"{said} with {_thing(others[0], dice)}")
        )
    return _placed(said, scene.setting, dice)


def _placed(said: str, setting: str, dice: Dice) -> str:
    if dice.chance(35):
        return dice.pick((said, said, f"there is {said}", f"a picture of {said}"))
    place = within(setting, dice)
    return dice.pick((f"{said} {place}", f"{said} {place}", f"{place}, {said}", f"there is {said} {place}"))


def within(setting: str, dice: Dice) -> str:
    """That something is in a setting.

    >>> within("beach", Dice(1))
    'at the beach'
    """
    name = _word(dice, setting)
    if name == "indoors":
        return name
    before = "at" if name in AT else "on" if name in ON else "in"
    known = before == "at" or dice.chance(50)  # there is but one sea, and one night sky
    return f"{before} {name}" if name in BARE else f"{before} the {name}" if known else f"{before} {article(name)}"


def _thing(placed: Placed, dice: Dice) -> str:
    words = [_word(dice, placed.name)]
    if placed.pattern != "plain" and dice.chance(65):
        words.insert(0, ADJECTIVES[placed.pattern])
    if dice.chance(70):
        second = f" and {placed.second}" if placed.second and placed.pattern != "plain" and dice.chance(60) else ""
        words.insert(0, placed.colour + second)
    said = article(" ".join(words))
    if placed.word and dice.chance(60):
        kind = "letter" if len(placed.word) == 1 else "word"
        return said + dice.pick((f" that says {placed.word}", f" with the {kind} {placed.word}", f" with the {kind} {placed.word} on it"))
    if placed.parts and dice.chance(25):
        part, colour, pattern = dice.pick(placed.parts)
        if part not in ("body", "top"):
            look = " ".join([colour, *([ADJECTIVES[pattern]] if pattern != "plain" else [])])
            return f"{said} with {look} {plural(part)}" if part in MANY else f"{said} with {article(f'{look} {part}')}"
    return said


def _word(dice: Dice, name: str) -> str:
    return name if dice.chance(65) else dice.pick(words_for(name))
