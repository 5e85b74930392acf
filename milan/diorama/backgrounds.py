"""The backgrounds of the ten settings."""

from collections.abc import Callable

from milan.diorama.background_shapes import (
    GRID_UNIT,
    choose_water,
    paint_band,
    paint_barn,
    paint_hills,
    paint_picture,
    paint_pine,
    paint_scraps,
    paint_sky,
    paint_slab,
    paint_tower,
)
from milan.diorama.canvas import Canvas, Paint
from milan.diorama.raster import make_ellipse
from milan.diorama.rng import PortableRng


def paint_meadow(canvas: Canvas, rng: PortableRng) -> int:
    """Paint a meadow with flowers and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(22, 36)
    paint_sky(canvas, rng, ("blue", "blue", "white", "grey"))
    if rng.chance(60):
        paint_hills(canvas, rng, horizon, Paint("green", rng.randint(-25, 20), thing="hill", tint=(0, 0, 20)))
    shade = rng.randint(-10, 35)
    grass = Paint(
        "green",
        shade,
        rng.choice(("speckle", "speckle", "plain", "vertical stripes")),
        period=2,
        thing="grass",
        tint=(15, 15, -15),
    )
    paint_band(canvas, horizon, 64, grass)
    paint_scraps(
        canvas,
        rng,
        rng.randint(3, 12),
        horizon + 3,
        [Paint(c, thing="flower", part="petal") for c in ("yellow", "white", "pink", "red")],
        1,
    )
    return horizon


def paint_beach(canvas: Canvas, rng: PortableRng) -> int:
    """Paint a beach below the sea and return the row of the shore, in 64ths of the image."""
    horizon = rng.randint(16, 26)
    shore = horizon + rng.randint(7, 14)
    paint_sky(canvas, rng, ("blue", "blue", "white", "orange"))
    paint_band(canvas, horizon, 64, choose_water(rng))
    slope = rng.randint(-4, 4)
    sand = Paint(
        "yellow",
        rng.randint(-20, 12),
        rng.choice(("plain", "speckle", "speckle")),
        period=3,
        thing="sand",
        tint=(-12, -22, 75),
    )
    paint_slab(canvas, shore - slope, shore + slope, Paint("white", -10, thing="water"))
    paint_slab(canvas, shore - slope + 2, shore + slope + 2, sand)
    paint_scraps(canvas, rng, rng.randint(0, 6), shore + 8, [Paint("brown", 30), Paint("white"), Paint("grey")], 1)
    return shore + 2


def paint_sea(canvas: Canvas, rng: PortableRng) -> int:
    """Paint a sea, with an island at times and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(12, 30)
    paint_sky(canvas, rng, ("blue", "white", "grey", "orange", "pink"))
    if rng.chance(30):
        island = make_ellipse(
            rng.randint(0, 63) * GRID_UNIT,
            horizon * GRID_UNIT,
            rng.randint(8, 16) * GRID_UNIT,
            rng.randint(3, 6) * GRID_UNIT,
        )
        canvas.draw_polygon(island, Paint(rng.choice(("green", "brown", "grey")), thing="hill"))
    paint_band(canvas, horizon, 64, choose_water(rng))
    for _ in range(rng.randint(2, 6)):
        x, y = rng.randint(0, 60) * GRID_UNIT, rng.randint(horizon + 3, 62) * GRID_UNIT
        canvas.draw_rectangle(x, y, x + rng.randint(4, 9) * GRID_UNIT, y + GRID_UNIT, Paint("white", thing="water"))
    return horizon


def paint_desert(canvas: Canvas, rng: PortableRng) -> int:
    """Paint a desert with dunes and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(22, 36)
    paint_sky(canvas, rng, ("orange", "blue", "yellow", "pink", "white"), clouds=15)
    colour, tint = rng.choice((("yellow", (-15, -45, 30)), ("orange", (-15, 20, 45)), ("orange", (-10, 0, 20))))
    pattern = rng.choice(("waves", "waves", "plain", "speckle"))
    paint_hills(canvas, rng, horizon + 2, Paint(colour, rng.randint(-50, -25), thing="dune", tint=tint))
    paint_band(
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
    """Paint a field of snow with pines and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(22, 34)
    paint_sky(canvas, rng, ("grey", "blue", "white", "grey"), clouds=30)
    paint_hills(
        canvas, rng, horizon, Paint(rng.choice(("white", "grey")), rng.randint(-30, -8), thing="hill", tint=(-5, 0, 15))
    )
    for _ in range(rng.randint(0, 4)):
        paint_pine(
            canvas,
            rng.randint(0, 63),
            horizon + 1,
            rng.randint(6, 12),
            Paint("green", rng.randint(-50, -10), thing="tree", part="crown"),
        )
    paint_band(
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
    paint_scraps(canvas, rng, rng.randint(0, 25), 0, [Paint("white", 10, thing="snow")], 1)
    return horizon


def paint_night_sky(canvas: Canvas, rng: PortableRng) -> int:
    """Paint a night sky with stars above hills and return the row of the horizon, in 64ths of the image."""
    colour = rng.choice(("black", "black", "blue", "purple"))
    canvas.paint_pixels(
        slice(None), slice(None), Paint(colour, 0 if colour == "black" else -55, thing="sky", tint=(0, 0, 12))
    )
    paint_scraps(
        canvas,
        rng,
        rng.randint(10, 30),
        0,
        [Paint("white", thing="star", part="body"), Paint("yellow", thing="star", part="body")],
        1,
    )
    horizon = rng.randint(46, 58)
    if rng.chance(70):
        paint_hills(canvas, rng, horizon, Paint("black", rng.randint(-15, 15), thing="hill"))
        paint_band(canvas, horizon, 64, Paint("black", rng.randint(-20, 8), thing="hill"))
    if rng.chance(40):
        for _ in range(rng.randint(2, 5)):
            x, wide, top = rng.randint(0, 60), rng.randint(5, 9), rng.randint(40, 54)
            paint_tower(canvas, rng, (x, top, x + wide, 64), Paint("black", 22, thing="building"))
    return horizon


def paint_street(canvas: Canvas, rng: PortableRng) -> int:
    """Paint a street with buildings and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(34, 42)
    paint_sky(canvas, rng, ("blue", "white", "grey", "orange"))
    x = -rng.randint(0, 6)
    while x < 64:
        wide = rng.randint(11, 19)
        colour = rng.choice(("red", "brown", "grey", "yellow", "blue", "white", "pink", "orange"))
        pattern = rng.choice(("plain", "plain", "grid", "checks"))
        paint = Paint(colour, rng.randint(-45, -5), pattern, period=4, phase=rng.randrange(9), thing="building")
        paint_tower(canvas, rng, (x, rng.randint(0, 18), x + wide, horizon), paint)
        x += wide
    paint_band(canvas, horizon, horizon + 4, Paint("grey", rng.randint(25, 55), thing="pavement"))
    paint_band(
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
    """Paint a forest and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(38, 50)
    back = Paint(
        "green", rng.randint(-85, -35), "speckle", period=3, phase=rng.randrange(60), thing="foliage", tint=(0, 10, 0)
    )
    canvas.paint_pixels(slice(None), slice(None), back)
    paint_band(
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
    """Paint a room with a wall and a floor and return the row of the horizon, in 64ths of the image."""
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
        paint_picture(canvas, rng, horizon)
    planks = Paint(
        rng.choice(("brown", "brown", "orange", "grey")),
        rng.randint(-20, 40),
        rng.choice(("plain", "vertical stripes", "checks", "horizontal stripes")),
    )
    paint_band(canvas, horizon - 2, horizon, Paint("white", -15, thing="wall"))
    paint_band(canvas, horizon, 64, planks._replace(period=rng.randint(4, 8), thing="floor"))
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
    """Paint fields, with a barn at times and return the row of the horizon, in 64ths of the image."""
    horizon = rng.randint(18, 30)
    paint_sky(canvas, rng, ("blue", "blue", "white", "grey", "orange"))
    paint_hills(canvas, rng, horizon, Paint("green", rng.randint(-40, 10), thing="hill"))
    if rng.chance(50):
        paint_barn(canvas, rng, horizon)
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
        paint_band(
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
