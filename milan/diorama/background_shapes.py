"""Shapes that backgrounds are painted from: sky, water, hills, buildings. Positions are 64ths of the image."""

import numpy as np

from milan.diorama.canvas import Canvas, Paint
from milan.diorama.raster import SPAN, make_ellipse
from milan.diorama.rng import PortableRng

GRID_UNIT = SPAN // 64  # a 64th of the image


def paint_sky(canvas: Canvas, rng: PortableRng, colours: tuple[str, ...], clouds: int = 55) -> None:
    """Fill the canvas with a sky; ``clouds`` is the probability of clouds in percent."""
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


def choose_water(rng: PortableRng) -> Paint:
    """Return a random paint for water."""
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


def paint_band(canvas: Canvas, top: int, bottom: int, paint: Paint) -> None:
    """Paint the rows from ``top`` to ``bottom``, in 64ths of the image."""
    canvas.draw_rectangle(0, top * GRID_UNIT, SPAN, bottom * GRID_UNIT, paint)


def paint_slab(canvas: Canvas, left: int, right: int, paint: Paint) -> None:
    """Paint everything below a slanted line."""
    canvas.draw_polygon(np.array([(0, left * GRID_UNIT), (SPAN, right * GRID_UNIT), (SPAN, SPAN), (0, SPAN)]), paint)


def paint_hills(canvas: Canvas, rng: PortableRng, horizon: int, paint: Paint) -> None:
    """Paint one to three hills whose feet are at the horizon."""
    for _ in range(rng.randint(1, 3)):
        hill = make_ellipse(
            rng.randint(0, 63) * GRID_UNIT,
            (horizon + 2) * GRID_UNIT,
            rng.randint(12, 30) * GRID_UNIT,
            rng.randint(4, 11) * GRID_UNIT,
        )
        canvas.draw_polygon(hill, paint._replace(shade=paint.shade + rng.randint(-8, 8)))


def paint_pine(canvas: Canvas, x: int, base: int, tall: int, paint: Paint) -> None:
    """Paint a triangular tree with its foot at (``x``, ``base``), in 64ths of the image."""
    canvas.draw_polygon(
        np.array([(x * 2 - tall // 2, base * 2), (x * 2, (base - tall) * 2), (x * 2 + tall // 2, base * 2)])
        * (GRID_UNIT // 2),
        paint,
    )


def paint_scraps(canvas: Canvas, rng: PortableRng, count: int, top: int, paints: list[Paint], wide: int) -> None:
    """Paint ``count`` squares of ``wide`` 64ths at random places below ``top``, each in one of the paints."""
    for _ in range(count):
        x, y = rng.randrange(64) * GRID_UNIT, rng.randint(min(top, 62), 63) * GRID_UNIT
        canvas.draw_rectangle(x, y, x + wide * GRID_UNIT, y + wide * GRID_UNIT, rng.choice(paints))


def paint_tower(canvas: Canvas, rng: PortableRng, box: tuple[int, int, int, int], paint: Paint) -> None:
    """Paint a building with windows; ``box`` is left, top, right and bottom in 64ths of the image."""
    left, top, right, bottom = box
    canvas.draw_rectangle(left * GRID_UNIT, top * GRID_UNIT, right * GRID_UNIT, bottom * GRID_UNIT, paint)
    glass = Paint(
        rng.choice(("yellow", "blue", "white", "black")), rng.randint(-15, 15), thing="building", part="window"
    )
    step = rng.randint(5, 7)
    for y in range(top + 3, bottom - 4, step):
        for x in range(left + 2, right - 3, 5):
            canvas.draw_rectangle(x * GRID_UNIT, y * GRID_UNIT, (x + 3) * GRID_UNIT, (y + step - 3) * GRID_UNIT, glass)


def paint_picture(canvas: Canvas, rng: PortableRng, horizon: int) -> None:
    """Paint a window or a framed picture on the wall above the horizon."""
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


def paint_barn(canvas: Canvas, rng: PortableRng, horizon: int) -> None:
    """Paint a barn with a roof at the horizon."""
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
