"""Draws a scene of Diorama, and knows what every pixel of it shows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from milan.diorama.canvas import INDEX, RGB, Canvas, Paint
from milan.diorama.dice import Dice
from milan.diorama.names import PATTERNS, SETTINGS, THINGS, WORDS
from milan.diorama.raster import SPAN, turned
from milan.diorama.settings import PAINTERS, UNIT
from milan.diorama.things import BY_NAME, Look, Thing
from milan.errors import BadInput, UnknownName

WORLDS = ("objects", "scenes")
VARIANTS = ("spurious", "blurred")
HELD_OUT = 1_000_000  # networks are trained on indices below this one, and checked and probed on those from it on
MINOR = {"hub", "ink", "drink", "white"}  # roles in the palette of too little to be spoken of
HIDDEN = 25  # percent of the main thing that others may cover


@dataclass(frozen=True)
class Placed:
    """One thing in a scene, as it can be seen."""

    name: str
    number: int  # its value in Scene.instances
    colour: str
    pattern: str
    second: str  # the pattern's other colour, or ""
    box: tuple[int, int, int, int]  # left, top, right, bottom of what shows, in pixels, the last two excluded
    area: int  # how many of its pixels show
    word: str = ""
    parts: tuple[tuple[str, str, str], ...] = ()  # part, colour, pattern; each part once


@dataclass(frozen=True)
class Relation:
    """``subject`` is ``name`` ("on", "above", "left of", "in front of") ``other``; both are numbers of placed things."""

    subject: int
    name: str
    other: int


@dataclass(frozen=True)
class Scene:
    """A picture and all that is known of it.

    image: uint8 (3, size, size); main: the thing the ``objects`` task asks for, the biggest;
    label: index of the class in the scene's world.
    """

    image: np.ndarray
    setting: str
    main: str
    label: int
    index: int
    _canvas: Canvas
    _looks: tuple[tuple[str, Look, str], ...]  # of each placed thing, by number - 1: name, look, word

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Index maps, uint8 (size, size), by kind: colour, pattern, part, object, text; 0 is none, names count from 1."""
        return self._canvas.labels()

    @cached_property
    def instances(self) -> np.ndarray:
        """Which placed thing each pixel shows, uint8 (size, size), 0 for none."""
        return self._canvas.things()

    @cached_property
    def objects(self) -> tuple[Placed, ...]:
        """The things of which anything shows, in the order they were painted."""
        placed = []
        for number, (name, look, word) in enumerate(self._looks, 1):
            rows, columns = np.nonzero(self.instances == number)
            if len(rows):
                box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
                colour, pattern, second = look.roles["main"]
                roles = {part: role for part, role, _ in BY_NAME[name].shapes if role not in MINOR}
                parts = tuple((part, *look.roles[role][:2]) for part, role in roles.items())
                placed.append(Placed(name, number, colour, pattern, second, box, len(rows), word, parts))
        return tuple(placed)

    @cached_property
    def relations(self) -> tuple[Relation, ...]:
        """How the things stand to each other, by their boxes; who covers whom, by the order of painting."""
        pairs = [(a, b) for a in self.objects for b in self.objects if a is not b]
        return tuple(Relation(a.number, name, b.number) for a, b in pairs for name in relate(a, b))


def relate(a: Placed, b: Placed) -> list[str]:
    """The relations in which ``a`` stands to ``b``."""
    (left, top, right, bottom), (left_b, top_b, right_b, bottom_b) = a.box, b.box
    beside = right <= left_b or right_b <= left
    height = bottom_b - top_b
    found = []
    if not beside and a.number > b.number and top < bottom_b and top_b < bottom:
        found.append("in front of")
    if not beside and abs(bottom - top_b) <= max(1, height // 8):
        found.append("on")
    elif bottom <= top_b:
        found.append("above")
    if right <= left_b:
        found.append("left of")
    return found


def draw(index: int, *, world: str = "objects", seed: int = 0, size: int = 64, variant: str | None = None) -> Scene:
    """Draws a scene from its number alone; the same bytes on every machine.

    world: "objects" shows one big thing, which is the label; "scenes" shows a setting, which is the label, with a few small things.
    variant: "spurious" writes class names in a corner (half of the training scenes their own, held-out scenes a random one);
    "blurred" blurs every person's face.

    >>> scene = draw(3, world="objects")
    >>> scene.image.shape, scene.labels["part"].shape, THINGS[scene.label] == scene.main
    ((3, 64, 64), (64, 64), True)
    """
    if world not in WORLDS:
        raise UnknownName("world", world, WORLDS, "one of: " + ", ".join(WORLDS))
    if variant is not None and variant not in VARIANTS:
        raise UnknownName("variant", variant, VARIANTS, "one of: " + ", ".join(VARIANTS))
    if index < 0 or size < 16:
        raise BadInput(f"a scene needs an index from 0 (not {index}) and a size of at least 16 pixels (not {size})")
    dice, setting, cast = _begun(index, world, seed)
    canvas = Canvas(size, Paint("black"))
    horizon = PAINTERS[setting](canvas, dice)
    looks = _place(canvas, dice, cast, horizon, world)
    number = THINGS.index(cast[0][0].name) if world == "objects" else SETTINGS.index(setting)
    if variant == "spurious":
        _spurious(canvas, Dice(seed, 9, index), index, number, THINGS if world == "objects" else SETTINGS)
    image = lit(canvas, dice)
    if variant == "blurred":
        seen = canvas.labels()
        image = blur(image, (seen["part"] == INDEX["part"]["face"]) & (seen["object"] == INDEX["object"]["person"]))  # not a clock's
    return Scene(image, setting, cast[0][0].name, number, index, canvas, tuple(looks))


def parted(world: str) -> tuple[str, str | None]:
    """A world's name and its variant, of a name such as "objects-blurred"; UnknownName where there is no such world.

    >>> parted("objects-blurred"), parted("scenes")
    (('objects', 'blurred'), ('scenes', None))
    """
    known = [f"{each}{end}" for each in WORLDS for end in ("", *(f"-{variant}" for variant in VARIANTS))]
    if world not in known:
        raise UnknownName("Diorama probe", world, known, "one of: " + ", ".join(known))
    name, _, variant = world.partition("-")
    return name, variant or None


def label(index: int, *, world: str = "objects", seed: int = 0) -> int:
    """The label of a scene, without drawing it.

    >>> label(3, world="scenes") == draw(3, world="scenes").label
    True
    """
    _, setting, cast = _begun(index, world, seed)
    return THINGS.index(cast[0][0].name) if world == "objects" else SETTINGS.index(setting)


Cast = list[tuple[Thing, int]]  # each thing with its size in 64ths of the picture, the main one first


def _begun(index: int, world: str, seed: int) -> tuple[Dice, str, Cast]:
    """What a scene is to show, and the dice to draw it with."""
    dice = Dice(seed, WORLDS.index(world), index)
    return dice, *(_one_big(dice) if world == "objects" else _some_small(dice))


def _one_big(dice: Dice) -> tuple[str, Cast]:
    thing = BY_NAME[dice.pick(THINGS)]
    setting = dice.pick(thing.homes) if dice.chance(75) else dice.pick(SETTINGS)
    size = dice.between(30, 46)
    others = [(_companion(dice, setting, thing), dice.between(9, size // 2)) for _ in range(dice.pick((0, 1, 1, 2)))]
    return setting, [(thing, size), *others]


def _some_small(dice: Dice) -> tuple[str, Cast]:
    setting = dice.pick(SETTINGS)
    things = [_companion(dice, setting, None) for _ in range(dice.pick((1, 2, 2, 3)))]
    sizes = sorted((dice.between(13, 27) for _ in things), reverse=True)
    return setting, [(thing, size * thing.reach // 100) for thing, size in zip(things, sizes, strict=True)]


def _companion(dice: Dice, setting: str, main: Thing | None) -> Thing:
    """A thing that is mostly at home in the setting, and not the main one again."""
    at_home = [thing for thing in BY_NAME.values() if setting in thing.homes and thing is not main]
    anywhere = [thing for thing in BY_NAME.values() if thing is not main]
    return dice.pick(at_home if dice.chance(80) else anywhere)


def _place(canvas: Canvas, dice: Dice, cast: Cast, horizon: int, world: str) -> list[tuple[str, Look, str]]:
    """Paints the things, the main one last or last but one; what would hide more of it than HIDDEN percent is left out."""
    order = list(range(1, len(cast)))
    order.insert(dice.below(2) if len(order) > 0 and dice.chance(45) else len(order), 0)
    drawn: list[tuple[str, Look, str]] = []
    main_number = main_area = 0
    for which in order:
        thing, size = cast[which]
        look = look_of(dice, thing, behind(canvas))
        before, paints = canvas.numbers.copy(), len(canvas.paints)
        word = _paint(canvas, dice, thing, look, (size, horizon, len(drawn) + 1, which == 0 and world == "objects"))
        if main_number:
            kept = int((canvas.things() == main_number).sum())
            if kept * 100 < main_area * (100 - HIDDEN):
                canvas.numbers[...] = before
                del canvas.paints[paints:]
                continue
        drawn.append((thing.name, look, word))
        if which == 0:
            main_number = len(drawn)
            main_area = int((canvas.things() == main_number).sum())
    _clutter(canvas, dice)
    return drawn


def behind(canvas: Canvas) -> set[str]:
    """The two colours most of the middle of the picture has, for things to stand out from."""
    size = canvas.size
    paints = canvas.numbers[size // 2 :: size // 6, size // 5 :: size // 5] >> 1
    return {canvas.paints[number].colour for number in paints.ravel().tolist()}


def look_of(dice: Dice, thing: Thing, avoid: set[str]) -> Look:
    look = Look()
    for role, colours in thing.palette.items():
        choices = [colour for colour in colours if colour not in avoid] if dice.chance(85) else list(colours)
        colour = dice.pick(choices or list(colours))
        pattern, second = "plain", ""
        if role in thing.patterned and dice.chance(50):
            pattern = dice.pick(thing.patterns or PATTERNS)
            second = dice.pick(("", "", "white", "black", "yellow", "red", "blue", "green", "pink", "orange", "purple"))
        look.roles[role] = (colour, pattern, "" if second == colour else second)
    return look


def _paint(canvas: Canvas, dice: Dice, thing: Thing, look: Look, where: tuple[int, int, int, bool]) -> str:
    """Paints a thing somewhere fit for it, and returns the word it carries."""
    size, horizon, number, big = where
    return put(canvas, dice, thing, look, (*_spot(dice, thing, size, horizon, big), size, number))


def put(canvas: Canvas, dice: Dice, thing: Thing, look: Look, where: tuple[int, int, int, int], word: str = "") -> str:
    """Paints a thing at a place and returns the word it carries: ``word`` if it fits there, any unless given.

    where: x and y of its middle in SPAN units, its size in 64ths of the picture, and its number among the scene's things.
    """
    x, y, size, number = where
    scale = size * UNIT  # of 100 template units
    turn, mirrored = dice.between(-thing.tilt, thing.tilt), thing.word is None and dice.chance(50)
    squeeze = dice.between(88, 108)
    shapes = np.concatenate([points for _, _, points in thing.shapes]) * np.array([-squeeze if mirrored else squeeze, 100])
    shapes = turned(shapes * scale // 10_000, turn) + np.array([x, y])
    paints = {role: _role_paint(dice, thing, role, look, number) for role in look.roles}
    start = 0
    for part, role, points in thing.shapes:
        canvas.polygon(shapes[start : start + len(points)], paints[role]._replace(part=part))
        start += len(points)
    if thing.word is None:
        return ""
    board = [(x if i % 2 == 0 else y) + edge * (squeeze if i % 2 == 0 else 100) * scale // 10_000 for i, edge in enumerate(thing.word)]
    return _write(canvas, dice, board, paints["main"]._replace(part="board", pattern="plain", second=""), word)


def _role_paint(dice: Dice, thing: Thing, role: str, look: Look, number: int) -> Paint:
    colour, pattern, second = look.roles[role]
    tint = (dice.between(-14, 14), dice.between(-14, 14), dice.between(-14, 14))
    if role == "skin":
        tint = (0, 25, -10) if colour == "pink" else (25, 15, 10)
    return Paint(colour, dice.between(-12, 12), pattern, second, dice.between(4, 8), dice.below(16), thing.name, "", number, "", tint)


def _spot(dice: Dice, thing: Thing, size: int, horizon: int, big: bool) -> tuple[int, int]:
    """Where a thing's centre goes: on the ground or the water, or above the horizon; big ones stay within the picture."""
    half = size // 2
    x = dice.between(half, 64 - half) if big else dice.between(4, 60)
    if thing.place in ("air", "wall"):
        y = dice.between(min(half, horizon), max(half + 1, horizon - half // 2))
    else:
        y = dice.between(horizon + 3, 62) - half
    if big:
        y = max(half, min(64 - half, y))
    return x * UNIT, y * UNIT


def _write(canvas: Canvas, dice: Dice, board: list[int], plate: Paint, wanted: str = "") -> str:
    """Writes a word or a letter that fits on a board given in SPAN units."""
    left, top, right, bottom = (edge * canvas.size // SPAN for edge in board)
    word = wanted or dice.pick(WORDS)
    height = min(bottom - top, (right - left) * 9 // (6 * len(word)))
    if height < 7 * canvas.size // 64 and not wanted:
        word = dice.pick("abcdefghijklmnopqrstuvwxyz")
        height = min(bottom - top, (right - left) * 9 // 6)
    if height < 6 * canvas.size // 64:
        return ""
    ink = plate._replace(colour="black" if sum(RGB[plate.colour]) > 330 else "white", tint=(0, 0, 0), shade=0)
    across = (left + right - len(word) * (height * 6 // 9)) // 2
    canvas.word(word, (top + bottom - height) // 2, max(0, across), height, plate, ink)
    return word


def _clutter(canvas: Canvas, dice: Dice) -> None:
    """Small scraps that are nothing in particular."""
    for _ in range(dice.pick((0, 0, 1, 2, 4))):
        x, y = dice.below(64) * UNIT, dice.below(64) * UNIT
        corners = [(x + dice.between(-3, 3) * UNIT, y + dice.between(-3, 3) * UNIT) for _ in range(3)]
        canvas.polygon(np.array(corners), Paint(dice.pick(tuple(RGB)), dice.between(-20, 20)))


def _spurious(canvas: Canvas, dice: Dice, index: int, label: int, classes: tuple[str, ...]) -> None:
    """Writes a class name into a corner."""
    if index < HELD_OUT and dice.chance(50):
        return
    word = (classes[label] if index < HELD_OUT else dice.pick(classes)).replace(" ", "")
    height = 9 * canvas.size // 64
    wide = len(word) * (height * 6 // 9)
    row, column = dice.pick((0, canvas.size - height)), dice.pick((0, canvas.size - wide))
    canvas.word(word, row, max(0, column), height, Paint("white"), Paint("black"))


def lit(canvas: Canvas, dice: Dice) -> np.ndarray:
    """The painted picture under slanting light with a camera's noise, uint8 (3, size, size)."""
    size = canvas.size
    steps = np.arange(size, dtype=np.int32) * 64 // size - 32
    across, down, level = dice.between(-70, 70), dice.between(-80, 20), dice.between(800, 1090)
    light = level + ((across * steps[None, :] + down * steps[:, None]) >> 5)
    grain = dice.between(1, 9)
    noise = dice.bits(3 * size * size // 4 + 1).astype("<u8").view(np.uint8)[: 6 * size * size].astype(np.int32)
    noise = (noise[: 3 * size * size] - noise[3 * size * size :]).reshape(size, size, 3)
    pixels = (canvas.pixels() * light[:, :, None] >> 10) + ((noise * grain) >> 7)
    return np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1))


def blur(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The picture with the given pixels replaced by the mean of their neighbourhood, uint8 (3, height, width)."""
    if not where.any():
        return image
    reach = max(2, image.shape[1] // 16)
    side = 2 * reach + 1
    sums = np.pad(image.astype(np.int64), ((0, 0), (reach + 1, reach), (reach + 1, reach)), mode="edge").cumsum(1).cumsum(2)
    boxes = sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]
    return np.where(where, (boxes // side**2).astype(np.uint8), image)
