"""The exact painter: reads a sentence of Diorama's language and draws a scene of which all of it is true."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from milan.diorama.canvas import Canvas, Paint
from milan.diorama.dice import Dice
from milan.diorama.facts import facts
from milan.diorama.names import PATTERNS, SETTINGS, THINGS
from milan.diorama.parsing import ANY_WORD, BESIDE, Named, Said, owners, parse
from milan.diorama.scenes import MINOR, Scene, behind, lit, look_of, put
from milan.diorama.settings import PAINTERS, UNIT
from milan.diorama.things import BY_NAME, Look, Thing

TRIES = 40  # drawings of one sentence, until all of it is true
PLAIN = 75  # percent of the things of a colour that carry no pattern nobody asked for
SHOWN_IN: dict[str, tuple[str, ...]] = {
    "sky": ("meadow", "beach", "sea", "desert", "snowfield", "night sky", "street", "farmland"),
    "cloud": ("meadow", "sea", "farmland", "street", "snowfield"),
    "grass": ("meadow",),
    "hill": ("meadow", "snowfield", "farmland"),
    "sand": ("beach", "desert"),
    "water": ("sea", "beach"),
    "dune": ("desert",),
    "snow": ("snowfield",),
    "road": ("street",),
    "pavement": ("street",),
    "building": ("street",),
    "foliage": ("forest",),
    "ground": ("forest",),
    "wall": ("room",),
    "floor": ("room",),
    "rug": ("room",),
    "picture": ("room",),
    "field": ("farmland",),
}  # fmt: skip - which settings are made of what (settings.py)


class Spot(NamedTuple):
    """Where a thing goes, in 64ths of the picture: its middle and its size."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Member:
    """One thing to be painted."""

    thing: Thing
    named: Named
    size: int


def paint(text: str, count: int = 1, seed: int = 0, size: int = 64) -> UInt8[np.ndarray, "count 3 size size"]:
    """Pictures of what a text says, each another one; the same text and seed give the same pictures on every machine.

    What the text leaves open is drawn at random; what it names beyond Diorama's language is passed over, so that a text of which
    nothing is understood gets any scene.
    """
    return np.stack([scene_of(text, seed, number, size).image for number in range(count)])


def scene_of(text: str, seed: int = 0, number: int = 0, size: int = 64) -> Scene:
    """The scene behind one picture of ``paint``: the first of TRIES drawings of which all that the text says is true, else the best."""
    said, key = parse(text), zlib.crc32(text.encode("utf-8", "surrogatepass"))
    best, most = None, -1.0
    for attempt in range(TRIES):
        scene = _drawn(said, Dice(seed, 11, key, number, attempt), number, size)
        found = facts(said, scene)
        true = sum(fact.true for fact in found) / max(1, len(found))
        if true > most:
            best, most = scene, true
        if most == 1 or not found:
            break
    assert best is not None
    return best


def _drawn(said: Said, dice: Dice, index: int, size: int) -> Scene:
    cast = _cast(said, dice)
    setting = _setting(said, cast, dice)
    canvas = Canvas(size, Paint("black"))
    horizon = PAINTERS[setting](canvas, dice)
    avoid = behind(canvas)
    spots = _spots(said, cast, horizon, dice)
    looks: dict[int, tuple[str, Look, str]] = {}
    order = _order(said, len(cast))
    for number, which in enumerate(order, 1):
        member, spot = cast[which], spots[which]
        look = _look(member, dice, avoid)
        where = (spot.x * UNIT, spot.y * UNIT, spot.size, number)
        word = "" if member.named.word == ANY_WORD else member.named.word
        looks[number] = (member.thing.name, look, put(canvas, dice, member.thing, look, where, word))
    main = cast[0].thing.name if cast else ""
    return Scene(lit(canvas, dice), setting, main, SETTINGS.index(setting), index, canvas, tuple(looks[number] for number in sorted(looks)))


def _cast(said: Said, dice: Dice) -> list[Member]:
    """The things a text asks for, of which the first is the biggest; anything where it tells only of looks."""
    wanted = [named for named in said.things if not named.names or set(named.names) & set(THINGS)]
    if not wanted and not said.settings and not said.things:
        wanted = [Named()]
    things = [BY_NAME[dice.pick([name for name in named.names if name in THINGS] or _bearers(named))] for named in wanted]
    return [Member(thing, named, size) for thing, named, size in zip(things, wanted, _sizes(said, len(wanted), dice), strict=True)]


def _bearers(named: Named) -> Sequence[str]:
    """Things that can show a look that is of no thing in particular: those of which much has one colour and pattern."""
    fit = [name for name in THINGS if BY_NAME[name].patterned and not BY_NAME[name].patterns]
    return sorted(owners(named.part)) if named.part else fit if named.patterns else THINGS


def _sizes(said: Said, count: int, dice: Dice) -> list[int]:
    """One thing is big, as those of the world "objects"; two that stand to each other leave room for it."""
    if count <= 1:
        return [dice.between(34, 46)] * count
    if said.relations:
        first = dice.between(26, 32)
        return [first, *(dice.between(20, 26) for _ in range(count - 1))]
    return [dice.between(32, 40), *(dice.between(17, 22) for _ in range(count - 1))]


def _setting(said: Said, cast: list[Member], dice: Dice) -> str:
    if said.settings:
        return dice.pick(said.settings)
    needed = [set(SHOWN_IN.get(name, ())) for named in said.things for name in named.names if name not in THINGS]
    if needed:
        shared = set.intersection(*needed) or set.union(*needed)
        return dice.pick(sorted(shared))
    return dice.pick(cast[0].thing.homes) if cast and dice.chance(75) else dice.pick(SETTINGS)


def _look(member: Member, dice: Dice, avoid: set[str]) -> Look:
    """Looks as the world has them, but for what the text says."""
    named, thing = member.named, member.thing
    look = look_of(dice, thing, avoid - set(named.colours))
    colour, pattern, second = look.roles["main"]
    if named.colours:
        colour = named.colours[0]
        if not named.patterns and dice.chance(PLAIN):
            pattern, second = "plain", ""
    if named.patterns:
        pattern, second = dice.pick(named.patterns), ""
    if len(named.colours) > 1:
        second = named.colours[1]
        pattern = pattern if pattern != "plain" else dice.pick(thing.patterns or PATTERNS[1:])
    look.roles["main"] = (colour, pattern, "" if second == colour else second)
    _paint_part(look, member, dice)
    return look


def _paint_part(look: Look, member: Member, dice: Dice) -> None:
    """Gives the part that is spoken of its own colour and pattern; where all of the thing is painted alike, only what is not said of it."""
    named = member.named
    role = next((role for part, role, _ in member.thing.shapes if part == named.part and role not in MINOR), None)
    if role is None or not (named.part_colours or named.part_patterns):
        return
    colour, pattern, second = look.roles[role]
    if named.part_colours and not (role == "main" and named.colours):
        colour = named.part_colours[0]
        pattern = "plain" if role != "main" else pattern
    if named.part_patterns and not (role == "main" and named.patterns):
        pattern = dice.pick(named.part_patterns)
    look.roles[role] = (colour, pattern, second if role == "main" and second != colour else "")


def _order(said: Said, count: int) -> list[int]:
    """In which order the things are painted: what is in front of something after it, else the first one last."""
    order = [*range(1, count), 0] if count else []
    for subject, name, other in said.relations:
        if name == "in front of" and max(subject, other) < count:
            order.remove(subject)
            order.insert(order.index(other) + 1, subject)
        elif max(subject, other) < count and subject != other and order.index(subject) < order.index(other):
            order.remove(subject)
            order.insert(order.index(other) + 1, subject)  # nothing that is told of hides behind its other side
    return order


def _spots(said: Said, cast: list[Member], horizon: int, dice: Dice) -> list[Spot]:
    """A place for each thing: at home in the setting, and to the others as the text says."""
    spots = [_free(member, horizon, dice) for member in cast]
    for subject, name, other in said.relations:
        if subject < len(cast) and other < len(cast):
            spots[subject], spots[other] = _pair(cast[subject], name, cast[other], dice)
    if not said.relations and len(spots) > 1:
        spots[1:] = [_apart(spot, member, spots[0], cast[0], dice) for spot, member in zip(spots[1:], cast[1:], strict=True)]
    return spots


def _extent(thing: Thing, size: int) -> tuple[int, int, int, int]:
    """How far a thing reaches from its middle, in 64ths: to the left, up, to the right, down."""
    corners = np.concatenate([points for _, _, points in thing.shapes]) * size / 100
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return int(-left + 0.5), int(-top + 0.5), int(right + 0.5), int(bottom + 0.5)


def _free(member: Member, horizon: int, dice: Dice) -> Spot:
    """Somewhere fit for a thing: on the ground, or in the air, and within the picture."""
    left, up, right, down = _extent(member.thing, member.size)
    x = dice.between(left, max(left, 63 - right))
    above = member.thing.place in ("air", "wall")
    y = dice.between(up, max(up + 1, horizon)) if above else dice.between(horizon + 3, 62) - down
    return Spot(x, max(up, min(63 - down, y)), member.size)


def _apart(spot: Spot, member: Member, main: Spot, first: Member, dice: Dice) -> Spot:
    """The spot moved to the side of the main thing that has more room."""
    left, _, right, _ = _extent(member.thing, member.size)
    main_left, _, main_right, _ = _extent(first.thing, main.size)
    if main.x - main_left >= 63 - main.x - main_right:
        return spot._replace(x=max(left, main.x - main_left - right + dice.between(-2, 4)))
    return spot._replace(x=min(63 - right, main.x + main_right + left - dice.between(-2, 4)))


def _pair(one: Member, name: str, other: Member, dice: Dice) -> tuple[Spot, Spot]:
    """Spots of two things that stand to each other as is said."""
    left, up, right, down = _extent(one.thing, one.size)
    left_b, up_b, right_b, down_b = _extent(other.thing, other.size)
    if name in ("left of", BESIDE):
        x, x_b = left + dice.between(0, 3), 63 - right_b - dice.between(0, 3)
        if name == BESIDE and dice.chance(50):
            x, x_b = 63 - right - dice.between(0, 3), left_b + dice.between(0, 3)
        y, y_b = (63 - reach - dice.between(0, 14) for reach in (down, down_b))
    elif name == "in front of":
        x_b, y_b = dice.between(left_b, 63 - right_b), dice.between(up_b, 63 - down_b)
        x = _within(x_b + dice.pick((-1, 1)) * dice.between(left_b // 2, left_b + left // 2), left, 63 - right)
        y = _within(y_b + dice.between(0, down_b), up, 63 - down)
    else:
        gap = 0 if name == "on" else dice.between(2, 6)
        spare = 63 - up - down - gap - up_b - down_b
        y = up + dice.between(0, max(0, spare))
        y_b = y + down + gap + up_b
        x_b = dice.between(left_b, 63 - right_b)
        x = _within(x_b + dice.between(-6, 6), left, 63 - right)
    return Spot(x, y, one.size), Spot(x_b, y_b, other.size)


def _within(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
