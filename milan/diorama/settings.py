"""The ten settings: what lies behind the things, drawn from the top down."""

from collections.abc import Callable

import numpy as np

from milan.diorama.canvas import Canvas, Paint
from milan.diorama.dice import Dice
from milan.diorama.raster import SPAN, circle

UNIT = SPAN // 64  # a 64th of the picture


def meadow(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(22, 36)
    _sky(canvas, dice, ("blue", "blue", "white", "grey"))
    if dice.chance(60):
        _hills(canvas, dice, horizon, Paint("green", dice.between(-25, 20), thing="hill", tint=(0, 0, 20)))
    shade = dice.between(-10, 35)
    grass = Paint(
        "green", shade, dice.pick(("speckle", "speckle", "plain", "vertical stripes")), period=2, thing="grass", tint=(15, 15, -15)
    )
    _band(canvas, horizon, 64, grass)
    _sprinkle(
        canvas,
        dice,
        dice.between(3, 12),
        horizon + 3,
        [Paint(c, thing="flower", part="petal") for c in ("yellow", "white", "pink", "red")],
        1,
    )
    return horizon


def beach(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(16, 26)
    shore = horizon + dice.between(7, 14)
    _sky(canvas, dice, ("blue", "blue", "white", "orange"))
    _band(canvas, horizon, 64, _water(dice))
    slope = dice.between(-4, 4)
    sand = Paint("yellow", dice.between(-20, 12), dice.pick(("plain", "speckle", "speckle")), period=3, thing="sand", tint=(-12, -22, 75))
    _slab(canvas, shore - slope, shore + slope, Paint("white", -10, thing="water"))
    _slab(canvas, shore - slope + 2, shore + slope + 2, sand)
    _sprinkle(canvas, dice, dice.between(0, 6), shore + 8, [Paint("brown", 30), Paint("white"), Paint("grey")], 1)
    return shore + 2


def sea(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(12, 30)
    _sky(canvas, dice, ("blue", "white", "grey", "orange", "pink"))
    if dice.chance(30):
        island = circle(dice.between(0, 63) * UNIT, horizon * UNIT, dice.between(8, 16) * UNIT, dice.between(3, 6) * UNIT)
        canvas.polygon(island, Paint(dice.pick(("green", "brown", "grey")), thing="hill"))
    _band(canvas, horizon, 64, _water(dice))
    for _ in range(dice.between(2, 6)):
        x, y = dice.between(0, 60) * UNIT, dice.between(horizon + 3, 62) * UNIT
        canvas.rectangle(x, y, x + dice.between(4, 9) * UNIT, y + UNIT, Paint("white", thing="water"))
    return horizon


def desert(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(22, 36)
    _sky(canvas, dice, ("orange", "blue", "yellow", "pink", "white"), clouds=15)
    colour, tint = dice.pick((("yellow", (-15, -45, 30)), ("orange", (-15, 20, 45)), ("orange", (-10, 0, 20))))
    pattern = dice.pick(("waves", "waves", "plain", "speckle"))
    _hills(canvas, dice, horizon + 2, Paint(colour, dice.between(-50, -25), thing="dune", tint=tint))
    _band(canvas, horizon, 64, Paint(colour, dice.between(-12, 15), pattern, period=dice.between(4, 6), thing="sand", tint=tint))
    for _ in range(dice.between(1, 3)):
        y = dice.between(horizon + 6, 60) * UNIT
        middle = dice.between(0, 63) * UNIT
        dune = circle(middle, y + 14 * UNIT, dice.between(20, 40) * UNIT, 15 * UNIT)
        canvas.polygon(dune, Paint(colour, dice.between(-30, 20), thing="dune", tint=tint))
    return horizon


def snowfield(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(22, 34)
    _sky(canvas, dice, ("grey", "blue", "white", "grey"), clouds=30)
    _hills(canvas, dice, horizon, Paint(dice.pick(("white", "grey")), dice.between(-30, -8), thing="hill", tint=(-5, 0, 15)))
    for _ in range(dice.between(0, 4)):
        _pine(
            canvas,
            dice.between(0, 63),
            horizon + 1,
            dice.between(6, 12),
            Paint("green", dice.between(-50, -10), thing="tree", part="crown"),
        )
    _band(
        canvas,
        horizon,
        64,
        Paint("white", dice.between(-14, 5), dice.pick(("plain", "plain", "speckle")), period=3, thing="snow", tint=(-5, 0, 6)),
    )
    for _ in range(dice.between(1, 3)):
        drift = circle(dice.between(0, 63) * UNIT, dice.between(50, 74) * UNIT, dice.between(16, 36) * UNIT, dice.between(5, 14) * UNIT)
        canvas.polygon(drift, Paint("white", dice.between(-25, 5), thing="snow", tint=(-8, 0, 8)))
    _sprinkle(canvas, dice, dice.between(0, 25), 0, [Paint("white", 10, thing="snow")], 1)
    return horizon


def night_sky(canvas: Canvas, dice: Dice) -> int:
    colour = dice.pick(("black", "black", "blue", "purple"))
    canvas.cover(slice(None), slice(None), Paint(colour, 0 if colour == "black" else -55, thing="sky", tint=(0, 0, 12)))
    _sprinkle(
        canvas, dice, dice.between(10, 30), 0, [Paint("white", thing="star", part="body"), Paint("yellow", thing="star", part="body")], 1
    )
    horizon = dice.between(46, 58)
    if dice.chance(70):
        _hills(canvas, dice, horizon, Paint("black", dice.between(-15, 15), thing="hill"))
        _band(canvas, horizon, 64, Paint("black", dice.between(-20, 8), thing="hill"))
    if dice.chance(40):
        for _ in range(dice.between(2, 5)):
            x, wide, top = dice.between(0, 60), dice.between(5, 9), dice.between(40, 54)
            _tower(canvas, dice, (x, top, x + wide, 64), Paint("black", 22, thing="building"))
    return horizon


def street(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(34, 42)
    _sky(canvas, dice, ("blue", "white", "grey", "orange"))
    x = -dice.between(0, 6)
    while x < 64:
        wide = dice.between(11, 19)
        colour = dice.pick(("red", "brown", "grey", "yellow", "blue", "white", "pink", "orange"))
        pattern = dice.pick(("plain", "plain", "grid", "checks"))
        paint = Paint(colour, dice.between(-45, -5), pattern, period=4, phase=dice.below(9), thing="building")
        _tower(canvas, dice, (x, dice.between(0, 18), x + wide, horizon), paint)
        x += wide
    _band(canvas, horizon, horizon + 4, Paint("grey", dice.between(25, 55), thing="pavement"))
    _band(canvas, horizon + 4, 64, Paint("grey", dice.between(-70, -35), dice.pick(("plain", "speckle")), period=3, thing="road"))
    line = horizon + dice.between(10, 15)
    for start in range(dice.between(-6, 0), 64, 11):
        canvas.rectangle(
            start * UNIT, line * UNIT, (start + 6) * UNIT, (line + 2) * UNIT, Paint(dice.pick(("white", "white", "yellow")), thing="road")
        )
    return horizon + 2


def forest(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(38, 50)
    back = Paint("green", dice.between(-85, -35), "speckle", period=3, phase=dice.below(60), thing="foliage", tint=(0, 10, 0))
    canvas.cover(slice(None), slice(None), back)
    _band(canvas, horizon, 64, Paint(*dice.pick((("brown", 10), ("brown", -20), ("green", -35))), "speckle", period=3, thing="ground"))
    for _ in range(dice.between(4, 8)):
        x, wide = dice.between(-2, 62), dice.between(3, 6)
        base = horizon + dice.between(0, 8)
        trunk = Paint(
            dice.pick(("brown", "brown", "black", "grey")), dice.between(-25, 15), dice.pick(("plain", "vertical stripes")), period=3
        )
        canvas.rectangle(x * UNIT, 0, (x + wide) * UNIT, base * UNIT, trunk._replace(thing="tree", part="trunk"))
    for _ in range(dice.between(4, 8)):
        crown = circle(dice.between(0, 63) * UNIT, dice.between(-4, 12) * UNIT, dice.between(7, 14) * UNIT, dice.between(5, 9) * UNIT)
        canvas.polygon(crown, Paint("green", dice.between(-55, 15), "speckle", period=3, phase=dice.below(60), thing="tree", part="crown"))
    return horizon


def room(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(38, 48)
    colour = dice.pick(("white", "yellow", "pink", "blue", "green", "purple", "red", "orange", "grey"))
    pattern = dice.pick(
        ("plain", "plain", "vertical stripes", "dots", "checks", "grid", "zigzag", "waves", "diagonal stripes", "horizontal stripes")
    )
    shade = dice.between(5, 45) if colour not in ("white", "yellow") else dice.between(-30, 0)
    second = dice.pick(("", "", "white", "yellow", "pink", "grey"))
    canvas.cover(slice(None), slice(None), Paint(colour, shade, pattern, second, dice.between(5, 9), dice.below(20), thing="wall"))
    if dice.chance(55):
        _picture(canvas, dice, horizon)
    planks = Paint(
        dice.pick(("brown", "brown", "orange", "grey")),
        dice.between(-20, 40),
        dice.pick(("plain", "vertical stripes", "checks", "horizontal stripes")),
    )
    _band(canvas, horizon - 2, horizon, Paint("white", -15, thing="wall"))
    _band(canvas, horizon, 64, planks._replace(period=dice.between(4, 8), thing="floor"))
    if dice.chance(45):
        rug = circle(
            dice.between(18, 46) * UNIT, dice.between(horizon + 8, 60) * UNIT, dice.between(14, 26) * UNIT, dice.between(4, 7) * UNIT
        )
        colour, pattern = (
            dice.pick(("red", "blue", "green", "purple", "white", "pink")),
            dice.pick(("plain", "zigzag", "checks", "horizontal stripes")),
        )
        canvas.polygon(rug, Paint(colour, dice.between(-20, 20), pattern, period=5, thing="rug"))
    return horizon


def farmland(canvas: Canvas, dice: Dice) -> int:
    horizon = dice.between(18, 30)
    _sky(canvas, dice, ("blue", "blue", "white", "grey", "orange"))
    _hills(canvas, dice, horizon, Paint("green", dice.between(-40, 10), thing="hill"))
    if dice.chance(50):
        _barn(canvas, dice, horizon)
    edge = dice.between(horizon + 6, 50)
    for top, bottom in ((horizon, edge), (edge, 64)):
        colour, shade, second = dice.pick(
            (("brown", 10, "green"), ("green", 0, "yellow"), ("yellow", -25, "brown"), ("brown", -15, ""), ("green", 15, "brown"))
        )
        pattern = dice.pick(("vertical stripes", "diagonal stripes", "horizontal stripes", "diagonal stripes"))
        _band(canvas, top, bottom, Paint(colour, shade, pattern, second, dice.between(5, 8), dice.below(20), thing="field"))
    return horizon


PAINTERS: dict[str, Callable[[Canvas, Dice], int]] = {
    "meadow": meadow, "beach": beach, "sea": sea, "desert": desert, "snowfield": snowfield,
    "night sky": night_sky, "street": street, "forest": forest, "room": room, "farmland": farmland,
}  # fmt: skip


def _sky(canvas: Canvas, dice: Dice, colours: tuple[str, ...], clouds: int = 55) -> None:
    colour = dice.pick(colours)
    pale = {
        "blue": (70, 75, 45),
        "orange": (10, 50, 70),
        "pink": (5, 45, 30),
        "yellow": (0, 5, 110),
        "grey": (30, 32, 36),
        "white": (-18, -10, -2),
    }
    canvas.cover(slice(None), slice(None), Paint(colour, dice.between(-15, 10), thing="sky", tint=pale[colour]))
    if dice.chance(clouds):
        for _ in range(dice.between(1, 3)):
            x, y, wide = dice.between(2, 62), dice.between(2, 16), dice.between(4, 9)
            paint = Paint("grey" if colour == "white" else "white", 40 if colour == "white" else -4, thing="cloud")
            for shift, lift, part in ((-wide * 2 // 3, 0, 3), (0, -1, 4), (wide * 2 // 3, 0, 3)):
                canvas.polygon(circle((x + shift) * UNIT, (y + lift) * UNIT, wide * part * UNIT // 5, wide * part * UNIT // 9), paint)


def _water(dice: Dice) -> Paint:
    colour, tint = dice.pick((("blue", (-15, 20, 10)), ("blue", (-25, -15, -30)), ("blue", (-10, 55, 20)), ("green", (-25, 0, 70))))
    pattern = dice.pick(("waves", "waves", "waves", "horizontal stripes", "plain"))
    return Paint(colour, dice.between(-10, 10), pattern, period=dice.between(4, 6), phase=dice.below(20), thing="water", tint=tint)


def _band(canvas: Canvas, top: int, bottom: int, paint: Paint) -> None:
    canvas.rectangle(0, top * UNIT, SPAN, bottom * UNIT, paint)


def _slab(canvas: Canvas, left: int, right: int, paint: Paint) -> None:
    """Everything below a slanted line."""
    canvas.polygon(np.array([(0, left * UNIT), (SPAN, right * UNIT), (SPAN, SPAN), (0, SPAN)]), paint)


def _hills(canvas: Canvas, dice: Dice, horizon: int, paint: Paint) -> None:
    for _ in range(dice.between(1, 3)):
        hill = circle(dice.between(0, 63) * UNIT, (horizon + 2) * UNIT, dice.between(12, 30) * UNIT, dice.between(4, 11) * UNIT)
        canvas.polygon(hill, paint._replace(shade=paint.shade + dice.between(-8, 8)))


def _pine(canvas: Canvas, x: int, base: int, tall: int, paint: Paint) -> None:
    canvas.polygon(
        np.array([(x * 2 - tall // 2, base * 2), (x * 2, (base - tall) * 2), (x * 2 + tall // 2, base * 2)]) * (UNIT // 2), paint
    )


def _sprinkle(canvas: Canvas, dice: Dice, count: int, top: int, paints: list[Paint], wide: int) -> None:
    for _ in range(count):
        x, y = dice.below(64) * UNIT, dice.between(min(top, 62), 63) * UNIT
        canvas.rectangle(x, y, x + wide * UNIT, y + wide * UNIT, dice.pick(paints))


def _tower(canvas: Canvas, dice: Dice, box: tuple[int, int, int, int], paint: Paint) -> None:
    left, top, right, bottom = box
    canvas.rectangle(left * UNIT, top * UNIT, right * UNIT, bottom * UNIT, paint)
    glass = Paint(dice.pick(("yellow", "blue", "white", "black")), dice.between(-15, 15), thing="building", part="window")
    step = dice.between(5, 7)
    for y in range(top + 3, bottom - 4, step):
        for x in range(left + 2, right - 3, 5):
            canvas.rectangle(x * UNIT, y * UNIT, (x + 3) * UNIT, (y + step - 3) * UNIT, glass)


def _picture(canvas: Canvas, dice: Dice, horizon: int) -> None:
    x, y, wide, tall = dice.between(2, 44), dice.between(3, 10), dice.between(11, 17), dice.between(9, horizon - 24)
    if dice.chance(50):
        frame, pane = Paint("white", thing="wall", part="frame"), Paint("blue", 25, thing="wall", part="window", tint=(60, 60, 10))
    else:
        frame = Paint(dice.pick(("brown", "black", "yellow")), thing="picture", part="frame")
        colour, pattern = (
            dice.pick(("red", "green", "blue", "purple", "pink", "orange")),
            dice.pick(("checks", "dots", "zigzag", "plain", "waves")),
        )
        pane = Paint(colour, 0, pattern, dice.pick(("", "white", "yellow")), 4, thing="picture")
    canvas.rectangle(x * UNIT, y * UNIT, (x + wide) * UNIT, (y + tall) * UNIT, frame)
    canvas.rectangle((x + 2) * UNIT, (y + 2) * UNIT, (x + wide - 2) * UNIT, (y + tall - 2) * UNIT, pane)
    if pane.part == "window":
        canvas.rectangle((x + wide // 2) * UNIT, y * UNIT, (x + wide // 2 + 1) * UNIT, (y + tall) * UNIT, frame)


def _barn(canvas: Canvas, dice: Dice, horizon: int) -> None:
    x, wide, tall = dice.between(3, 48), dice.between(7, 12), dice.between(4, 7)
    canvas.rectangle(
        x * UNIT, (horizon - tall) * UNIT, (x + wide) * UNIT, (horizon + 1) * UNIT, Paint("red", -30, thing="house", part="wall")
    )
    gable = np.array([(x - 1, horizon - tall), (x + wide // 2, horizon - tall - 4), (x + wide + 1, horizon - tall)]) * UNIT
    canvas.polygon(gable, Paint(dice.pick(("grey", "brown", "white")), -10, thing="house", part="roof"))
