"""The backgrounds of the ten settings, painted from the top down."""

from collections.abc import Callable

import numpy as np

from milan.diorama.canvas import Canvas, Paint
from milan.diorama.raster import SPAN, make_ellipse
from milan.diorama.rng import PortableRng

GRID_UNIT = SPAN // 64  # a 64th of the picture


def paint_meadow(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(22, 36)
    _paint_sky(canvas, rng, ("blue", "blue", "white", "grey"))
    if rng.chance(60):
        _paint_hills(canvas, rng, horizon, Paint("green", rng.randint(-25, 20), thing="hill", tint=(0, 0, 20)))
    shade = rng.randint(-10, 35)
    grass = Paint(
        "green",
        shade,
        rng.choice(("speckle", "speckle", "plain", "vertical stripes")),
        period=2,
        thing="grass",
        tint=(15, 15, -15),
    )
    _paint_band(canvas, horizon, 64, grass)
    _paint_scraps(
        canvas,
        rng,
        rng.randint(3, 12),
        horizon + 3,
        [Paint(c, thing="flower", part="petal") for c in ("yellow", "white", "pink", "red")],
        1,
    )
    return horizon


def paint_beach(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(16, 26)
    shore = horizon + rng.randint(7, 14)
    _paint_sky(canvas, rng, ("blue", "blue", "white", "orange"))
    _paint_band(canvas, horizon, 64, _choose_water(rng))
    slope = rng.randint(-4, 4)
    sand = Paint(
        "yellow",
        rng.randint(-20, 12),
        rng.choice(("plain", "speckle", "speckle")),
        period=3,
        thing="sand",
        tint=(-12, -22, 75),
    )
    _paint_slab(canvas, shore - slope, shore + slope, Paint("white", -10, thing="water"))
    _paint_slab(canvas, shore - slope + 2, shore + slope + 2, sand)
    _paint_scraps(canvas, rng, rng.randint(0, 6), shore + 8, [Paint("brown", 30), Paint("white"), Paint("grey")], 1)
    return shore + 2


def paint_sea(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(12, 30)
    _paint_sky(canvas, rng, ("blue", "white", "grey", "orange", "pink"))
    if rng.chance(30):
        island = make_ellipse(
            rng.randint(0, 63) * GRID_UNIT,
            horizon * GRID_UNIT,
            rng.randint(8, 16) * GRID_UNIT,
            rng.randint(3, 6) * GRID_UNIT,
        )
        canvas.draw_polygon(island, Paint(rng.choice(("green", "brown", "grey")), thing="hill"))
    _paint_band(canvas, horizon, 64, _choose_water(rng))
    for _ in range(rng.randint(2, 6)):
        x, y = rng.randint(0, 60) * GRID_UNIT, rng.randint(horizon + 3, 62) * GRID_UNIT
        canvas.draw_rectangle(x, y, x + rng.randint(4, 9) * GRID_UNIT, y + GRID_UNIT, Paint("white", thing="water"))
    return horizon


def paint_desert(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(22, 36)
    _paint_sky(canvas, rng, ("orange", "blue", "yellow", "pink", "white"), clouds=15)
    colour, tint = rng.choice((("yellow", (-15, -45, 30)), ("orange", (-15, 20, 45)), ("orange", (-10, 0, 20))))
    pattern = rng.choice(("waves", "waves", "plain", "speckle"))
    _paint_hills(canvas, rng, horizon + 2, Paint(colour, rng.randint(-50, -25), thing="dune", tint=tint))
    _paint_band(
        canvas,
        horizon,
        64,
        Paint(colour, rng.randint(-12, 15), pattern, period=rng.randint(4, 6), thing="sand", tint=tint),
    )
    for _ in range(rng.randint(1, 3)):
        y = rng.randint(horizon + 6, 60) * GRID_UNIT
        middle = rng.randint(0, 63) * GRID_UNIT
        dune = make_ellipse(middle, y + 14 * GRID_UNIT, rng.randint(20, 40) * GRID_UNIT, 15 * GRID_UNIT)
        canvas.draw_polygon(dune, Paint(colour, rng.randint(-30, 20), thing="dune", tint=tint))
    return horizon


def paint_snowfield(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(22, 34)
    _paint_sky(canvas, rng, ("grey", "blue", "white", "grey"), clouds=30)
    _paint_hills(
        canvas, rng, horizon, Paint(rng.choice(("white", "grey")), rng.randint(-30, -8), thing="hill", tint=(-5, 0, 15))
    )
    for _ in range(rng.randint(0, 4)):
        _paint_pine(
            canvas,
            rng.randint(0, 63),
            horizon + 1,
            rng.randint(6, 12),
            Paint("green", rng.randint(-50, -10), thing="tree", part="crown"),
        )
    _paint_band(
        canvas,
        horizon,
        64,
        Paint(
            "white",
            rng.randint(-14, 5),
            rng.choice(("plain", "plain", "speckle")),
            period=3,
            thing="snow",
            tint=(-5, 0, 6),
        ),
    )
    for _ in range(rng.randint(1, 3)):
        drift = make_ellipse(
            rng.randint(0, 63) * GRID_UNIT,
            rng.randint(50, 74) * GRID_UNIT,
            rng.randint(16, 36) * GRID_UNIT,
            rng.randint(5, 14) * GRID_UNIT,
        )
        canvas.draw_polygon(drift, Paint("white", rng.randint(-25, 5), thing="snow", tint=(-8, 0, 8)))
    _paint_scraps(canvas, rng, rng.randint(0, 25), 0, [Paint("white", 10, thing="snow")], 1)
    return horizon


def paint_night_sky(canvas: Canvas, rng: PortableRng) -> int:
    colour = rng.choice(("black", "black", "blue", "purple"))
    canvas.paint_pixels(
        slice(None), slice(None), Paint(colour, 0 if colour == "black" else -55, thing="sky", tint=(0, 0, 12))
    )
    _paint_scraps(
        canvas,
        rng,
        rng.randint(10, 30),
        0,
        [Paint("white", thing="star", part="body"), Paint("yellow", thing="star", part="body")],
        1,
    )
    horizon = rng.randint(46, 58)
    if rng.chance(70):
        _paint_hills(canvas, rng, horizon, Paint("black", rng.randint(-15, 15), thing="hill"))
        _paint_band(canvas, horizon, 64, Paint("black", rng.randint(-20, 8), thing="hill"))
    if rng.chance(40):
        for _ in range(rng.randint(2, 5)):
            x, wide, top = rng.randint(0, 60), rng.randint(5, 9), rng.randint(40, 54)
            _paint_tower(canvas, rng, (x, top, x + wide, 64), Paint("black", 22, thing="building"))
    return horizon


def paint_street(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(34, 42)
    _paint_sky(canvas, rng, ("blue", "white", "grey", "orange"))
    x = -rng.randint(0, 6)
    while x < 64:
        wide = rng.randint(11, 19)
        colour = rng.choice(("red", "brown", "grey", "yellow", "blue", "white", "pink", "orange"))
        pattern = rng.choice(("plain", "plain", "grid", "checks"))
        paint = Paint(colour, rng.randint(-45, -5), pattern, period=4, phase=rng.randrange(9), thing="building")
        _paint_tower(canvas, rng, (x, rng.randint(0, 18), x + wide, horizon), paint)
        x += wide
    _paint_band(canvas, horizon, horizon + 4, Paint("grey", rng.randint(25, 55), thing="pavement"))
    _paint_band(
        canvas,
        horizon + 4,
        64,
        Paint("grey", rng.randint(-70, -35), rng.choice(("plain", "speckle")), period=3, thing="road"),
    )
    line = horizon + rng.randint(10, 15)
    for start in range(rng.randint(-6, 0), 64, 11):
        canvas.draw_rectangle(
            start * GRID_UNIT,
            line * GRID_UNIT,
            (start + 6) * GRID_UNIT,
            (line + 2) * GRID_UNIT,
            Paint(rng.choice(("white", "white", "yellow")), thing="road"),
        )
    return horizon + 2


def paint_forest(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(38, 50)
    back = Paint(
        "green", rng.randint(-85, -35), "speckle", period=3, phase=rng.randrange(60), thing="foliage", tint=(0, 10, 0)
    )
    canvas.paint_pixels(slice(None), slice(None), back)
    _paint_band(
        canvas,
        horizon,
        64,
        Paint(*rng.choice((("brown", 10), ("brown", -20), ("green", -35))), "speckle", period=3, thing="ground"),
    )
    for _ in range(rng.randint(4, 8)):
        x, wide = rng.randint(-2, 62), rng.randint(3, 6)
        base = horizon + rng.randint(0, 8)
        trunk = Paint(
            rng.choice(("brown", "brown", "black", "grey")),
            rng.randint(-25, 15),
            rng.choice(("plain", "vertical stripes")),
            period=3,
        )
        canvas.draw_rectangle(
            x * GRID_UNIT, 0, (x + wide) * GRID_UNIT, base * GRID_UNIT, trunk._replace(thing="tree", part="trunk")
        )
    for _ in range(rng.randint(4, 8)):
        crown = make_ellipse(
            rng.randint(0, 63) * GRID_UNIT,
            rng.randint(-4, 12) * GRID_UNIT,
            rng.randint(7, 14) * GRID_UNIT,
            rng.randint(5, 9) * GRID_UNIT,
        )
        canvas.draw_polygon(
            crown,
            Paint(
                "green", rng.randint(-55, 15), "speckle", period=3, phase=rng.randrange(60), thing="tree", part="crown"
            ),
        )
    return horizon


def paint_room(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(38, 48)
    colour = rng.choice(("white", "yellow", "pink", "blue", "green", "purple", "red", "orange", "grey"))
    pattern = rng.choice(
        (
            "plain",
            "plain",
            "vertical stripes",
            "dots",
            "checks",
            "grid",
            "zigzag",
            "waves",
            "diagonal stripes",
            "horizontal stripes",
        )
    )
    shade = rng.randint(5, 45) if colour not in ("white", "yellow") else rng.randint(-30, 0)
    second = rng.choice(("", "", "white", "yellow", "pink", "grey"))
    canvas.paint_pixels(
        slice(None),
        slice(None),
        Paint(colour, shade, pattern, second, rng.randint(5, 9), rng.randrange(20), thing="wall"),
    )
    if rng.chance(55):
        _paint_picture(canvas, rng, horizon)
    planks = Paint(
        rng.choice(("brown", "brown", "orange", "grey")),
        rng.randint(-20, 40),
        rng.choice(("plain", "vertical stripes", "checks", "horizontal stripes")),
    )
    _paint_band(canvas, horizon - 2, horizon, Paint("white", -15, thing="wall"))
    _paint_band(canvas, horizon, 64, planks._replace(period=rng.randint(4, 8), thing="floor"))
    if rng.chance(45):
        rug = make_ellipse(
            rng.randint(18, 46) * GRID_UNIT,
            rng.randint(horizon + 8, 60) * GRID_UNIT,
            rng.randint(14, 26) * GRID_UNIT,
            rng.randint(4, 7) * GRID_UNIT,
        )
        colour, pattern = (
            rng.choice(("red", "blue", "green", "purple", "white", "pink")),
            rng.choice(("plain", "zigzag", "checks", "horizontal stripes")),
        )
        canvas.draw_polygon(rug, Paint(colour, rng.randint(-20, 20), pattern, period=5, thing="rug"))
    return horizon


def paint_farmland(canvas: Canvas, rng: PortableRng) -> int:
    horizon = rng.randint(18, 30)
    _paint_sky(canvas, rng, ("blue", "blue", "white", "grey", "orange"))
    _paint_hills(canvas, rng, horizon, Paint("green", rng.randint(-40, 10), thing="hill"))
    if rng.chance(50):
        _paint_barn(canvas, rng, horizon)
    edge = rng.randint(horizon + 6, 50)
    for top, bottom in ((horizon, edge), (edge, 64)):
        colour, shade, second = rng.choice(
            (
                ("brown", 10, "green"),
                ("green", 0, "yellow"),
                ("yellow", -25, "brown"),
                ("brown", -15, ""),
                ("green", 15, "brown"),
            )
        )
        pattern = rng.choice(("vertical stripes", "diagonal stripes", "horizontal stripes", "diagonal stripes"))
        _paint_band(
            canvas,
            top,
            bottom,
            Paint(colour, shade, pattern, second, rng.randint(5, 8), rng.randrange(20), thing="field"),
        )
    return horizon


BACKGROUND_PAINTERS: dict[str, Callable[[Canvas, PortableRng], int]] = {
    "meadow": paint_meadow, "beach": paint_beach, "sea": paint_sea, "desert": paint_desert,
    "snowfield": paint_snowfield,
    "night sky": paint_night_sky, "street": paint_street, "forest": paint_forest, "room": paint_room,
    "farmland": paint_farmland,
}  # fmt: skip


def _paint_sky(canvas: Canvas, rng: PortableRng, colours: tuple[str, ...], clouds: int = 55) -> None:
    colour = rng.choice(colours)
    pale = {
        "blue": (70, 75, 45),
        "orange": (10, 50, 70),
        "pink": (5, 45, 30),
        "yellow": (0, 5, 110),
        "grey": (30, 32, 36),
        "white": (-18, -10, -2),
    }
    canvas.paint_pixels(slice(None), slice(None), Paint(colour, rng.randint(-15, 10), thing="sky", tint=pale[colour]))
    if rng.chance(clouds):
        for _ in range(rng.randint(1, 3)):
            x, y, wide = rng.randint(2, 62), rng.randint(2, 16), rng.randint(4, 9)
            paint = Paint("grey" if colour == "white" else "white", 40 if colour == "white" else -4, thing="cloud")
            for shift, lift, part in ((-wide * 2 // 3, 0, 3), (0, -1, 4), (wide * 2 // 3, 0, 3)):
                canvas.draw_polygon(
                    make_ellipse(
                        (x + shift) * GRID_UNIT,
                        (y + lift) * GRID_UNIT,
                        wide * part * GRID_UNIT // 5,
                        wide * part * GRID_UNIT // 9,
                    ),
                    paint,
                )


def _choose_water(rng: PortableRng) -> Paint:
    colour, tint = rng.choice(
        (("blue", (-15, 20, 10)), ("blue", (-25, -15, -30)), ("blue", (-10, 55, 20)), ("green", (-25, 0, 70)))
    )
    pattern = rng.choice(("waves", "waves", "waves", "horizontal stripes", "plain"))
    return Paint(
        colour,
        rng.randint(-10, 10),
        pattern,
        period=rng.randint(4, 6),
        phase=rng.randrange(20),
        thing="water",
        tint=tint,
    )


def _paint_band(canvas: Canvas, top: int, bottom: int, paint: Paint) -> None:
    canvas.draw_rectangle(0, top * GRID_UNIT, SPAN, bottom * GRID_UNIT, paint)


def _paint_slab(canvas: Canvas, left: int, right: int, paint: Paint) -> None:
    """Paint everything below a slanted line."""
    canvas.draw_polygon(np.array([(0, left * GRID_UNIT), (SPAN, right * GRID_UNIT), (SPAN, SPAN), (0, SPAN)]), paint)


def _paint_hills(canvas: Canvas, rng: PortableRng, horizon: int, paint: Paint) -> None:
    for _ in range(rng.randint(1, 3)):
        hill = make_ellipse(
            rng.randint(0, 63) * GRID_UNIT,
            (horizon + 2) * GRID_UNIT,
            rng.randint(12, 30) * GRID_UNIT,
            rng.randint(4, 11) * GRID_UNIT,
        )
        canvas.draw_polygon(hill, paint._replace(shade=paint.shade + rng.randint(-8, 8)))


def _paint_pine(canvas: Canvas, x: int, base: int, tall: int, paint: Paint) -> None:
    canvas.draw_polygon(
        np.array([(x * 2 - tall // 2, base * 2), (x * 2, (base - tall) * 2), (x * 2 + tall // 2, base * 2)])
        * (GRID_UNIT // 2),
        paint,
    )


def _paint_scraps(canvas: Canvas, rng: PortableRng, count: int, top: int, paints: list[Paint], wide: int) -> None:
    for _ in range(count):
        x, y = rng.randrange(64) * GRID_UNIT, rng.randint(min(top, 62), 63) * GRID_UNIT
        canvas.draw_rectangle(x, y, x + wide * GRID_UNIT, y + wide * GRID_UNIT, rng.choice(paints))


def _paint_tower(canvas: Canvas, rng: PortableRng, box: tuple[int, int, int, int], paint: Paint) -> None:
    left, top, right, bottom = box
    canvas.draw_rectangle(left * GRID_UNIT, top * GRID_UNIT, right * GRID_UNIT, bottom * GRID_UNIT, paint)
    glass = Paint(
        rng.choice(("yellow", "blue", "white", "black")), rng.randint(-15, 15), thing="building", part="window"
    )
    step = rng.randint(5, 7)
    for y in range(top + 3, bottom - 4, step):
        for x in range(left + 2, right - 3, 5):
            canvas.draw_rectangle(x * GRID_UNIT, y * GRID_UNIT, (x + 3) * GRID_UNIT, (y + step - 3) * GRID_UNIT, glass)


def _paint_picture(canvas: Canvas, rng: PortableRng, horizon: int) -> None:
    x, y, wide, tall = rng.randint(2, 44), rng.randint(3, 10), rng.randint(11, 17), rng.randint(9, horizon - 24)
    if rng.chance(50):
        frame, pane = (
            Paint("white", thing="wall", part="frame"),
            Paint("blue", 25, thing="wall", part="window", tint=(60, 60, 10)),
        )
    else:
        frame = Paint(rng.choice(("brown", "black", "yellow")), thing="picture", part="frame")
        colour, pattern = (
            rng.choice(("red", "green", "blue", "purple", "pink", "orange")),
            rng.choice(("checks", "dots", "zigzag", "plain", "waves")),
        )
        pane = Paint(colour, 0, pattern, rng.choice(("", "white", "yellow")), 4, thing="picture")
    canvas.draw_rectangle(x * GRID_UNIT, y * GRID_UNIT, (x + wide) * GRID_UNIT, (y + tall) * GRID_UNIT, frame)
    canvas.draw_rectangle(
        (x + 2) * GRID_UNIT, (y + 2) * GRID_UNIT, (x + wide - 2) * GRID_UNIT, (y + tall - 2) * GRID_UNIT, pane
    )
    if pane.part == "window":
        canvas.draw_rectangle(
            (x + wide // 2) * GRID_UNIT, y * GRID_UNIT, (x + wide // 2 + 1) * GRID_UNIT, (y + tall) * GRID_UNIT, frame
        )


def _paint_barn(canvas: Canvas, rng: PortableRng, horizon: int) -> None:
    x, wide, tall = rng.randint(3, 48), rng.randint(7, 12), rng.randint(4, 7)
    canvas.draw_rectangle(
        x * GRID_UNIT,
        (horizon - tall) * GRID_UNIT,
        (x + wide) * GRID_UNIT,
        (horizon + 1) * GRID_UNIT,
        Paint("red", -30, thing="house", part="wall"),
    )
    gable = (
        np.array([(x - 1, horizon - tall), (x + wide // 2, horizon - tall - 4), (x + wide + 1, horizon - tall)])
        * GRID_UNIT
    )
    canvas.draw_polygon(gable, Paint(rng.choice(("grey", "brown", "white")), -10, thing="house", part="roof"))
