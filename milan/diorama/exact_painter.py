"""The exact painter: renders a scene of which a sentence in Diorama's language is entirely true."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from milan.diorama.background_shapes import GRID_UNIT
from milan.diorama.backgrounds import BACKGROUND_PAINTERS
from milan.diorama.canvas import Canvas, Paint
from milan.diorama.image_effects import render_lit_image
from milan.diorama.rng import PortableRng
from milan.diorama.scene_vocabulary import PATTERNS, SETTINGS, THINGS
from milan.diorama.scenes import (
    MINOR_ROLES,
    Scene,
    choose_appearance,
    find_background_colours,
    paint_thing,
)
from milan.diorama.sentence_parser import ANY_WORD, BESIDE, ParsedSentence, ParsedThing, find_owners, parse_sentence
from milan.diorama.sentence_truth import check_statements
from milan.diorama.things import THINGS_BY_NAME, Appearance, Thing

MAX_ATTEMPTS = 40  # renderings of one sentence until all of it is true
PLAIN_PERCENT = 75  # percent of the things of a named colour that get no pattern if the text names none
SETTINGS_WITH: dict[str, tuple[str, ...]] = {
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


class Placement(NamedTuple):
    """The centre and size of a thing, in 64ths of the image."""

    x: int
    y: int
    size: int


@dataclass(frozen=True)
class ThingToPaint:
    """A thing that will be painted."""

    thing: Thing
    parsed: ParsedThing
    size: int


def paint_text(text: str, count: int = 1, seed: int = 0, size: int = 64) -> UInt8[np.ndarray, "count 3 size size"]:
    """Render different images of a text; the same text and seed give the same images on every machine.

    What the text leaves open is random. Words outside Diorama's language are ignored, so that a text without any known
    word gives a random scene.
    """
    return np.stack([draw_scene_of(text, seed, number, size).image for number in range(count)])


def draw_scene_of(text: str, seed: int = 0, number: int = 0, size: int = 64) -> Scene:
    """Return the scene of one image of ``paint_text``: the first of MAX_ATTEMPTS of which the text is entirely true,
    else the best.
    """
    parsed, key = parse_sentence(text), zlib.crc32(text.encode("utf-8", "surrogatepass"))
    best, most = None, -1.0
    for attempt in range(MAX_ATTEMPTS):
        scene = _draw_once(parsed, PortableRng(seed, 11, key, number, attempt), number, size)
        statements = check_statements(parsed, scene)
        true = sum(fact.true for fact in statements) / max(1, len(statements))
        if true > most:
            best, most = scene, true
        if most == 1 or not statements:
            break
    assert best is not None
    return best


def _draw_once(parsed: ParsedSentence, rng: PortableRng, index: int, size: int) -> Scene:
    cast = _choose_things(parsed, rng)
    setting = _choose_setting(parsed, cast, rng)
    canvas = Canvas(size, Paint("black"))
    horizon = BACKGROUND_PAINTERS[setting](canvas, rng)
    avoid = find_background_colours(canvas)
    spots = _choose_placements(parsed, cast, horizon, rng)
    looks: dict[int, tuple[str, Appearance, str]] = {}
    order = _choose_painting_order(parsed, len(cast))
    for number, which in enumerate(order, 1):
        member, spot = cast[which], spots[which]
        look = _choose_appearance(member, rng, avoid)
        where = (spot.x * GRID_UNIT, spot.y * GRID_UNIT, spot.size, number)
        word = "" if member.parsed.word == ANY_WORD else member.parsed.word
        looks[number] = (member.thing.name, look, paint_thing(canvas, rng, member.thing, look, where, word))
    main = cast[0].thing.name if cast else ""
    return Scene(
        render_lit_image(canvas, rng),
        setting,
        main,
        SETTINGS.index(setting),
        index,
        canvas,
        tuple(looks[number] for number in sorted(looks)),
    )


def _choose_things(parsed: ParsedSentence, rng: PortableRng) -> list[ThingToPaint]:
    """Return the things that a text names, the first one largest; any thing where the text names only looks."""
    named_things = [named for named in parsed.things if not named.names or set(named.names) & set(THINGS)]
    if not named_things and not parsed.settings and not parsed.things:
        named_things = [ParsedThing()]
    things = [
        THINGS_BY_NAME[rng.choice([name for name in named.names if name in THINGS] or _find_things_showing(named))]
        for named in named_things
    ]
    return [
        ThingToPaint(thing, named, size)
        for thing, named, size in zip(things, named_things, _choose_sizes(parsed, len(named_things), rng), strict=True)
    ]


def _find_things_showing(named: ParsedThing) -> Sequence[str]:
    """Return the things that can show a look: those with a large part of one colour and pattern."""
    fit = [name for name in THINGS if THINGS_BY_NAME[name].patterned_roles and not THINGS_BY_NAME[name].patterns]
    return sorted(find_owners(named.part)) if named.part else fit if named.patterns else THINGS


def _choose_sizes(parsed: ParsedSentence, count: int, rng: PortableRng) -> list[int]:
    """Return sizes: a single thing is large, as in the world "objects"; two related ones leave room for each other."""
    if count <= 1:
        return [rng.randint(34, 46)] * count
    if parsed.relations:
        first = rng.randint(26, 32)
        return [first, *(rng.randint(20, 26) for _ in range(count - 1))]
    return [rng.randint(32, 40), *(rng.randint(17, 22) for _ in range(count - 1))]


def _choose_setting(parsed: ParsedSentence, cast: list[ThingToPaint], rng: PortableRng) -> str:
    if parsed.settings:
        return rng.choice(parsed.settings)
    needed = [set(SETTINGS_WITH.get(name, ())) for named in parsed.things for name in named.names if name not in THINGS]
    if needed:
        shared = set.intersection(*needed) or set.union(*needed)
        return rng.choice(sorted(shared))
    return rng.choice(cast[0].thing.usual_settings) if cast and rng.chance(75) else rng.choice(SETTINGS)


def _choose_appearance(member: ThingToPaint, rng: PortableRng, avoid: set[str]) -> Appearance:
    """Return looks as the world has them, except those that the text names."""
    named, thing = member.parsed, member.thing
    look = choose_appearance(rng, thing, avoid - set(named.colours))
    colour, pattern, second = look.roles["main"]
    if named.colours:
        colour = named.colours[0]
        if not named.patterns and rng.chance(PLAIN_PERCENT):
            pattern, second = "plain", ""
    if named.patterns:
        pattern, second = rng.choice(named.patterns), ""
    if len(named.colours) > 1:
        second = named.colours[1]
        pattern = pattern if pattern != "plain" else rng.choice(thing.patterns or PATTERNS[1:])
    look.roles["main"] = (colour, pattern, "" if second == colour else second)
    _recolour_part(look, member, rng)
    return look


def _recolour_part(look: Appearance, member: ThingToPaint, rng: PortableRng) -> None:
    """Give the named part its own colour and pattern; where the thing has one paint, recolour the rest."""
    named = member.parsed
    role = next((role for part, role, _ in member.thing.shapes if part == named.part and role not in MINOR_ROLES), None)
    if role is None or not (named.part_colours or named.part_patterns):
        return
    colour, pattern, second = look.roles[role]
    if named.part_colours and not (role == "main" and named.colours):
        colour = named.part_colours[0]
        pattern = "plain" if role != "main" else pattern
    if named.part_patterns and not (role == "main" and named.patterns):
        pattern = rng.choice(named.part_patterns)
    look.roles[role] = (colour, pattern, second if role == "main" and second != colour else "")


def _choose_painting_order(parsed: ParsedSentence, count: int) -> list[int]:
    """Return the painting order: what is in front of something comes after it, else the first thing is last."""
    order = [*range(1, count), 0] if count else []
    for subject, name, other in parsed.relations:
        if name == "in front of" and max(subject, other) < count:
            order.remove(subject)
            order.insert(order.index(other) + 1, subject)
        elif max(subject, other) < count and subject != other and order.index(subject) < order.index(other):
            order.remove(subject)
            order.insert(order.index(other) + 1, subject)  # nothing that is mentioned is hidden behind its other side
    return order


def _choose_placements(
    parsed: ParsedSentence, cast: list[ThingToPaint], horizon: int, rng: PortableRng
) -> list[Placement]:
    """Return the place of each thing, as its setting and the relations of the text require."""
    spots = [_place_freely(member, horizon, rng) for member in cast]
    for subject, name, other in parsed.relations:
        if subject < len(cast) and other < len(cast):
            spots[subject], spots[other] = _place_pair(cast[subject], name, cast[other], rng)
    if not parsed.relations and len(spots) > 1:
        spots[1:] = [
            _move_apart(spot, member, spots[0], cast[0], rng) for spot, member in zip(spots[1:], cast[1:], strict=True)
        ]
    return spots


def _thing_extent(thing: Thing, size: int) -> tuple[int, int, int, int]:
    """Return how far a thing reaches from its centre, in 64ths: left, up, right, down."""
    corners = np.concatenate([points for _, _, points in thing.shapes]) * size / 100
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return int(-left + 0.5), int(-top + 0.5), int(right + 0.5), int(bottom + 0.5)


def _place_freely(member: ThingToPaint, horizon: int, rng: PortableRng) -> Placement:
    """Return a place for a thing: on the ground or in the air, and within the image."""
    left, up, right, down = _thing_extent(member.thing, member.size)
    x = rng.randint(left, max(left, 63 - right))
    above = member.thing.place in ("air", "wall")
    y = rng.randint(up, max(up + 1, horizon)) if above else rng.randint(horizon + 3, 62) - down
    return Placement(x, max(up, min(63 - down, y)), member.size)


def _move_apart(
    spot: Placement, member: ThingToPaint, main: Placement, first: ThingToPaint, rng: PortableRng
) -> Placement:
    """Move a place to the side of the main thing that has more room."""
    left, _, right, _ = _thing_extent(member.thing, member.size)
    main_left, _, main_right, _ = _thing_extent(first.thing, main.size)
    if main.x - main_left >= 63 - main.x - main_right:
        return spot._replace(x=max(left, main.x - main_left - right + rng.randint(-2, 4)))
    return spot._replace(x=min(63 - right, main.x + main_right + left - rng.randint(-2, 4)))


def _place_pair(one: ThingToPaint, name: str, other: ThingToPaint, rng: PortableRng) -> tuple[Placement, Placement]:
    """Return places of two things that satisfy a relation."""
    left, up, right, down = _thing_extent(one.thing, one.size)
    left_b, up_b, right_b, down_b = _thing_extent(other.thing, other.size)
    if name in ("left of", BESIDE):
        x, x_b = left + rng.randint(0, 3), 63 - right_b - rng.randint(0, 3)
        if name == BESIDE and rng.chance(50):
            x, x_b = 63 - right - rng.randint(0, 3), left_b + rng.randint(0, 3)
        y, y_b = (63 - reach - rng.randint(0, 14) for reach in (down, down_b))
    elif name == "in front of":
        x_b, y_b = rng.randint(left_b, 63 - right_b), rng.randint(up_b, 63 - down_b)
        x = _clamp(x_b + rng.choice((-1, 1)) * rng.randint(left_b // 2, left_b + left // 2), left, 63 - right)
        y = _clamp(y_b + rng.randint(0, down_b), up, 63 - down)
    else:
        gap = 0 if name == "on" else rng.randint(2, 6)
        spare = 63 - up - down - gap - up_b - down_b
        y = up + rng.randint(0, max(0, spare))
        y_b = y + down + gap + up_b
        x_b = rng.randint(left_b, 63 - right_b)
        x = _clamp(x_b + rng.randint(-6, 6), left, 63 - right)
    return Placement(x, y, one.size), Placement(x_b, y_b, other.size)


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
