"""Renders scenes of Diorama with the labels of every pixel."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milan.diorama.background_shapes import GRID_UNIT
from milan.diorama.backgrounds import BACKGROUND_PAINTERS
from milan.diorama.canvas import LABEL_INDEX, RGB, Canvas, Paint
from milan.diorama.image_effects import blur_region, render_lit_image
from milan.diorama.raster import SPAN, rotate_points
from milan.diorama.rng import PortableRng
from milan.diorama.scene_vocabulary import PATTERNS, SETTINGS, SIGN_WORDS, THINGS
from milan.diorama.things import THINGS_BY_NAME, Appearance, Thing
from milan.errors import BadInput, UnknownName

WORLDS = ("objects", "scenes")
VARIANTS = ("spurious", "blurred")
# Networks are trained on scenes below this index; scenes from here to HELD_OUT_START are like those, but unseen.
VALIDATION_START = 60_000
HELD_OUT_START = 1_000_000  # networks are trained on indices below this one, and checked and probed on those from it on
MINOR_ROLES = {"hub", "ink", "drink", "white"}  # roles in the palette of too little to be spoken of
MAX_HIDDEN_PERCENT = 25  # percent of the main thing that others may cover


@dataclass(frozen=True)
class PlacedThing:
    """A thing in a scene, as far as it is visible."""

    name: str
    number: int  # its value in Scene.instances
    colour: str
    pattern: str
    second_colour: str  # the pattern's other colour, or ""
    box: tuple[int, int, int, int]  # left, top, right, bottom of what shows, in pixels, the last two excluded
    area: int  # how many of its pixels show
    word: str = ""
    parts: tuple[tuple[str, str, str], ...] = ()  # part, colour, pattern; each part once


@dataclass(frozen=True)
class Relation:
    """``subject`` is ``name`` ("on", "above", "left of", "in front of") ``other``; both are numbers of placed
    things.
    """

    subject: int
    name: str
    other: int


@dataclass(frozen=True)
class Scene:
    """An image and its labels.

    image: uint8 (3, size, size); main: the thing the ``objects`` task asks for, the biggest;
    label: index of the class in the scene's world.
    """

    image: np.ndarray
    setting: str
    main: str
    label: int
    index: int
    _canvas: Canvas
    _looks: tuple[tuple[str, Appearance, str], ...]  # of each placed thing, by number - 1: name, look, word

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Index maps, uint8 (size, size), by kind: colour, pattern, part, object, text; 0 is none, names count
        from 1.
        """
        return self._canvas.render_labels()

    @cached_property
    def instances(self) -> np.ndarray:
        """Which placed thing each pixel shows, uint8 (size, size), 0 for none."""
        return self._canvas.render_instances()

    @cached_property
    def objects(self) -> tuple[PlacedThing, ...]:
        """The visible things, in painting order."""
        placed = []
        for number, (name, look, word) in enumerate(self._looks, 1):
            rows, columns = np.nonzero(self.instances == number)
            if len(rows):
                box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
                colour, pattern, second = look.roles["main"]
                roles = {part: role for part, role, _ in THINGS_BY_NAME[name].shapes if role not in MINOR_ROLES}
                parts = tuple((part, *look.roles[role][:2]) for part, role in roles.items())
                placed.append(PlacedThing(name, number, colour, pattern, second, box, len(rows), word, parts))
        return tuple(placed)

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """The relations between things, by their boxes and the painting order."""
        pairs = [(a, b) for a in self.objects for b in self.objects if a is not b]
        return tuple(Relation(a.number, name, b.number) for a, b in pairs for name in find_relations(a, b))


def find_relations(a: PlacedThing, b: PlacedThing) -> list[str]:
    """Return the relations in which ``a`` stands to ``b``."""
    (left, top, right, bottom), (left_b, top_b, right_b, bottom_b) = a.box, b.box
    beside = right <= left_b or right_b <= left
    height = bottom_b - top_b
    relations = []
    if not beside and a.number > b.number and top < bottom_b and top_b < bottom:
        relations.append("in front of")
    if not beside and abs(bottom - top_b) <= max(1, height // 8):
        relations.append("on")
    elif bottom <= top_b:
        relations.append("above")
    if right <= left_b:
        relations.append("left of")
    return relations


def draw_scene(
    index: int, *, world: str = "objects", seed: int = 0, size: int = 64, variant: str | None = None
) -> Scene:
    """Render a scene from its number alone; the same bytes on every machine.

    world: "objects" shows one big thing, which is the label; "scenes" shows a setting, which is the label, with a few
        small things.
    variant: "spurious" writes class names in a corner (half of the training scenes their own, held-out scenes a random
    one); "blurred" blurs every person's face.

    >>> scene = draw_scene(3, world="objects")
    >>> scene.image.shape, scene.labels["part"].shape, THINGS[scene.label] == scene.main
    ((3, 64, 64), (64, 64), True)
    """
    if world not in WORLDS:
        raise UnknownName("world", world, WORLDS, "one of: " + ", ".join(WORLDS))
    if variant is not None and variant not in VARIANTS:
        raise UnknownName("variant", variant, VARIANTS, "one of: " + ", ".join(VARIANTS))
    if index < 0 or size < 16:
        raise BadInput(f"a scene needs an index from 0 (not {index}) and a size of at least 16 pixels (not {size})")
    rng, setting, cast = _start_scene(index, world, seed)
    canvas = Canvas(size, Paint("black"))
    horizon = BACKGROUND_PAINTERS[setting](canvas, rng)
    looks = _paint_things(canvas, rng, cast, horizon, world)
    number = THINGS.index(cast[0][0].name) if world == "objects" else SETTINGS.index(setting)
    if variant == "spurious":
        _write_spurious_name(
            canvas, PortableRng(seed, 9, index), index, number, THINGS if world == "objects" else SETTINGS
        )
    image = render_lit_image(canvas, rng)
    if variant == "blurred":
        labels = canvas.render_labels()
        image = blur_region(
            image,
            (labels["part"] == LABEL_INDEX["part"]["face"]) & (labels["object"] == LABEL_INDEX["object"]["person"]),
        )  # not a clock's
    return Scene(image, setting, cast[0][0].name, number, index, canvas, tuple(looks))


def parse_world(world: str) -> tuple[str, str | None]:
    """Return the name and the variant of a world such as "objects-blurred"; UnknownName if there is no such world.

    >>> parse_world("objects-blurred"), parse_world("scenes")
    (('objects', 'blurred'), ('scenes', None))
    """
    known = [f"{each}{end}" for each in WORLDS for end in ("", *(f"-{variant}" for variant in VARIANTS))]
    if world not in known:
        raise UnknownName("Diorama probe", world, known, "one of: " + ", ".join(known))
    name, _, variant = world.partition("-")
    return name, variant or None


def get_label(index: int, *, world: str = "objects", seed: int = 0) -> int:
    """Return the label of a scene without rendering it.

    >>> get_label(3, world="scenes") == draw_scene(3, world="scenes").label
    True
    """
    _, setting, cast = _start_scene(index, world, seed)
    return THINGS.index(cast[0][0].name) if world == "objects" else SETTINGS.index(setting)


SizedThings = list[tuple[Thing, int]]  # each thing with its size in 64ths of the picture, the main one first


def _start_scene(index: int, world: str, seed: int) -> tuple[PortableRng, str, SizedThings]:
    """Return the random generator of a scene, its setting and its things."""
    rng = PortableRng(seed, WORLDS.index(world), index)
    return rng, *(_choose_one_big(rng) if world == "objects" else _choose_some_small(rng))


def _choose_one_big(rng: PortableRng) -> tuple[str, SizedThings]:
    thing = THINGS_BY_NAME[rng.choice(THINGS)]
    setting = rng.choice(thing.usual_settings) if rng.chance(75) else rng.choice(SETTINGS)
    size = rng.randint(30, 46)
    others = [
        (_choose_companion(rng, setting, thing), rng.randint(9, size // 2)) for _ in range(rng.choice((0, 1, 1, 2)))
    ]
    return setting, [(thing, size), *others]


def _choose_some_small(rng: PortableRng) -> tuple[str, SizedThings]:
    setting = rng.choice(SETTINGS)
    things = [_choose_companion(rng, setting, None) for _ in range(rng.choice((1, 2, 2, 3)))]
    sizes = sorted((rng.randint(13, 27) for _ in things), reverse=True)
    return setting, [(thing, size * thing.usual_size // 100) for thing, size in zip(things, sizes, strict=True)]


def _choose_companion(rng: PortableRng, setting: str, main: Thing | None) -> Thing:
    """Return a thing, mostly one that is usual in the setting, other than the main one."""
    at_home = [thing for thing in THINGS_BY_NAME.values() if setting in thing.usual_settings and thing is not main]
    anywhere = [thing for thing in THINGS_BY_NAME.values() if thing is not main]
    return rng.choice(at_home if rng.chance(80) else anywhere)


def _paint_things(
    canvas: Canvas, rng: PortableRng, cast: SizedThings, horizon: int, world: str
) -> list[tuple[str, Appearance, str]]:
    """Paint the things, the main one last or last but one, without those that would hide more than MAX_HIDDEN_PERCENT
    of it.
    """
    order = list(range(1, len(cast)))
    order.insert(rng.randrange(2) if len(order) > 0 and rng.chance(45) else len(order), 0)
    drawn: list[tuple[str, Appearance, str]] = []
    main_number = main_area = 0
    for which in order:
        thing, size = cast[which]
        look = choose_appearance(rng, thing, find_background_colours(canvas))
        before, paints = canvas.paint_ids.copy(), len(canvas.paints)
        word = _paint_somewhere(
            canvas, rng, thing, look, (size, horizon, len(drawn) + 1, which == 0 and world == "objects")
        )
        if main_number:
            visible_area = int((canvas.render_instances() == main_number).sum())
            if visible_area * 100 < main_area * (100 - MAX_HIDDEN_PERCENT):
                canvas.paint_ids[...] = before
                del canvas.paints[paints:]
                continue
        drawn.append((thing.name, look, word))
        if which == 0:
            main_number = len(drawn)
            main_area = int((canvas.render_instances() == main_number).sum())
    _paint_clutter(canvas, rng)
    return drawn


def find_background_colours(canvas: Canvas) -> set[str]:
    """Return the two most frequent colours of the centre of the image, from which things should differ."""
    size = canvas.size
    paints = canvas.paint_ids[size // 2 :: size // 6, size // 5 :: size // 5] >> 1
    return {canvas.paints[number].colour for number in paints.ravel().tolist()}


def choose_appearance(rng: PortableRng, thing: Thing, avoid: set[str]) -> Appearance:
    """Return random colours and patterns for the roles of a thing.

    Args:
        rng: generator of random numbers.
        thing: the thing, whose palette has the possible colours of each role.
        avoid: colours of the background, which 85% of the roles do not take.
    """
    look = Appearance()
    for role, colours in thing.palette.items():
        choices = [colour for colour in colours if colour not in avoid] if rng.chance(85) else list(colours)
        colour = rng.choice(choices or list(colours))
        pattern, second = "plain", ""
        if role in thing.patterned_roles and rng.chance(50):
            pattern = rng.choice(thing.patterns or PATTERNS)
            second = rng.choice(
                ("", "", "white", "black", "yellow", "red", "blue", "green", "pink", "orange", "purple")
            )
        look.roles[role] = (colour, pattern, "" if second == colour else second)
    return look


def _paint_somewhere(
    canvas: Canvas, rng: PortableRng, thing: Thing, look: Appearance, where: tuple[int, int, int, bool]
) -> str:
    """Paint a thing at a suitable place and return the word on it."""
    size, horizon, number, big = where
    return paint_thing(canvas, rng, thing, look, (*_choose_position(rng, thing, size, horizon, big), size, number))


def paint_thing(
    canvas: Canvas, rng: PortableRng, thing: Thing, look: Appearance, where: tuple[int, int, int, int], word: str = ""
) -> str:
    """Paint a thing at a place and return the word on it: ``word`` if it fits there, any unless given.

    where: x and y of its middle in SPAN units, its size in 64ths of the picture, and its number among the scene's
        things.
    """
    x, y, size, number = where
    scale = size * GRID_UNIT  # of 100 template units
    turn, mirrored = rng.randint(-thing.max_tilt, thing.max_tilt), thing.word_box is None and rng.chance(50)
    squeeze = rng.randint(88, 108)
    shapes = np.concatenate([points for _, _, points in thing.shapes]) * np.array(
        [-squeeze if mirrored else squeeze, 100]
    )
    shapes = rotate_points(shapes * scale // 10_000, turn) + np.array([x, y])
    paints = {role: _make_role_paint(rng, thing, role, look, number) for role in look.roles}
    start = 0
    for part, role, points in thing.shapes:
        canvas.draw_polygon(shapes[start : start + len(points)], paints[role]._replace(part=part))
        start += len(points)
    if thing.word_box is None:
        return ""
    board = [
        (x if i % 2 == 0 else y) + edge * (squeeze if i % 2 == 0 else 100) * scale // 10_000
        for i, edge in enumerate(thing.word_box)
    ]
    return _write_word(
        canvas, rng, board, paints["main"]._replace(part="board", pattern="plain", second_colour=""), word
    )


def _make_role_paint(rng: PortableRng, thing: Thing, role: str, look: Appearance, number: int) -> Paint:
    colour, pattern, second = look.roles[role]
    tint = (rng.randint(-14, 14), rng.randint(-14, 14), rng.randint(-14, 14))
    if role == "skin":
        tint = (0, 25, -10) if colour == "pink" else (25, 15, 10)
    return Paint(
        colour,
        rng.randint(-12, 12),
        pattern,
        second,
        rng.randint(4, 8),
        rng.randrange(16),
        thing.name,
        "",
        number,
        "",
        tint,
    )


def _choose_position(rng: PortableRng, thing: Thing, size: int, horizon: int, big: bool) -> tuple[int, int]:
    """Return a thing's centre: on the ground or the water, or above the horizon; large things stay within the image."""
    half = size // 2
    x = rng.randint(half, 64 - half) if big else rng.randint(4, 60)
    if thing.place in ("air", "wall"):
        y = rng.randint(min(half, horizon), max(half + 1, horizon - half // 2))
    else:
        y = rng.randint(horizon + 3, 62) - half
    if big:
        y = max(half, min(64 - half, y))
    return x * GRID_UNIT, y * GRID_UNIT


def _write_word(canvas: Canvas, rng: PortableRng, board: list[int], plate: Paint, given_word: str = "") -> str:
    """Write a word or a letter that fits on a board given in SPAN units."""
    left, top, right, bottom = (edge * canvas.size // SPAN for edge in board)
    word = given_word or rng.choice(SIGN_WORDS)
    height = min(bottom - top, (right - left) * 9 // (6 * len(word)))
    if height < 7 * canvas.size // 64 and not given_word:
        word = rng.choice("abcdefghijklmnopqrstuvwxyz")
        height = min(bottom - top, (right - left) * 9 // 6)
    if height < 6 * canvas.size // 64:
        return ""
    ink = plate._replace(colour="black" if sum(RGB[plate.colour]) > 330 else "white", tint=(0, 0, 0), shade=0)
    across = (left + right - len(word) * (height * 6 // 9)) // 2
    canvas.draw_word(word, (top + bottom - height) // 2, max(0, across), height, plate, ink)
    return word


def _paint_clutter(canvas: Canvas, rng: PortableRng) -> None:
    """Paint small scraps without meaning."""
    for _ in range(rng.choice((0, 0, 1, 2, 4))):
        x, y = rng.randrange(64) * GRID_UNIT, rng.randrange(64) * GRID_UNIT
        corners = [(x + rng.randint(-3, 3) * GRID_UNIT, y + rng.randint(-3, 3) * GRID_UNIT) for _ in range(3)]
        canvas.draw_polygon(np.array(corners), Paint(rng.choice(tuple(RGB)), rng.randint(-20, 20)))


def _write_spurious_name(canvas: Canvas, rng: PortableRng, index: int, label: int, classes: tuple[str, ...]) -> None:
    """Write a class name into a corner."""
    if index < HELD_OUT_START and rng.chance(50):
        return
    word = (classes[label] if index < HELD_OUT_START else rng.choice(classes)).replace(" ", "")
    height = 9 * canvas.size // 64
    wide = len(word) * (height * 6 // 9)
    row, column = rng.choice((0, canvas.size - height)), rng.choice((0, canvas.size - wide))
    canvas.draw_word(word, row, max(0, column), height, Paint("white"), Paint("black"))
