"""A canvas of paint numbers: pixels and labels are looked up in one table, so that they always agree."""

from typing import NamedTuple

import numpy as np

from milan.diorama.raster import SPAN, fill_polygon, make_letter_cells, make_pattern_tile
from milan.diorama.scene_vocabulary import COLOURS, KINDS, LETTERS, OBJECTS, PARTS, PATTERNS

RGB = {
    "red": (205, 35, 35), "orange": (240, 135, 25), "yellow": (243, 215, 50), "green": (50, 150, 55),
    "blue": (50, 100, 210),
    "purple": (130, 55, 165), "pink": (245, 150, 180), "brown": (120, 75, 40), "black": (25, 25, 28),
    "white": (242, 242, 240),
    "grey": (135, 137, 140),
}  # fmt: skip
LABEL_INDEX = {kind: {name: number for number, name in enumerate(names, 1)} for kind, names in KINDS.items()}


class Paint(NamedTuple):
    """The appearance and the labels of a painted pixel."""

    colour: str
    shade: int = 0  # added to all of red, green and blue
    pattern: str = "plain"
    second_colour: str = ""  # the pattern's other colour; the same colour, darker, when empty
    period: int = 6  # of the pattern, in 64ths of the picture
    phase: int = 0
    thing: str = ""  # a thing or stuff
    part: str = ""
    number: int = 0  # which of the scene's things, from 1; 0 for none
    letter: str = ""
    tint: tuple[int, int, int] = (0, 0, 0)  # added to the colour as it is drawn, not to its name


class Canvas:
    """Paints shapes over one another, and renders colours and label maps."""

    def __init__(self, size: int, background: Paint):
        self.size = size
        self.paints: list[Paint] = [background]
        self.paint_ids = np.zeros(
            (size, size), dtype=np.uint16
        )  # twice the paint's number, plus 1 on its pattern's second colour
        self.paint_pixels(slice(None), slice(None), background)

    def _patterned_ids(self, rows: slice, columns: slice, paint: Paint) -> np.ndarray | int:
        value = 2 * (len(self.paints) - 1)
        if paint.pattern == "plain":
            return value
        bits = make_pattern_tile(paint.pattern, paint.period, self.size)
        shift = paint.phase % self.size
        top, left = rows.start or 0, columns.start or 0
        bottom, right = rows.stop or self.size, columns.stop or self.size
        # The pattern starts anew at the shape's own corner region, shifted by its phase, and stays within the tile.
        down, across = min(shift, 2 * self.size - bottom), min(shift // 2, 2 * self.size - right)
        return bits[top + down : bottom + down, left + across : right + across] + np.uint16(value)

    def paint_pixels(self, rows: slice, columns: slice, paint: Paint) -> None:
        """Paint a rectangle of pixels."""
        self.paints.append(paint)
        self.paint_ids[rows, columns] = self._patterned_ids(rows, columns, paint)

    def draw_polygon(self, points: np.ndarray, paint: Paint) -> None:
        """Paint a polygon given in SPAN units."""
        patch = fill_polygon(points, self.size)
        if patch is None:
            return
        self.paints.append(paint)
        height, width = patch.mask.shape
        rows, columns = slice(patch.row, patch.row + height), slice(patch.column, patch.column + width)
        np.copyto(
            self.paint_ids[rows, columns],
            np.asarray(self._patterned_ids(rows, columns, paint), dtype=np.uint16),
            where=patch.mask,
        )

    def draw_rectangle(self, left: int, top: int, right: int, bottom: int, paint: Paint) -> None:
        """Paint the pixels whose centres lie in a rectangle given in SPAN units."""
        edges = [
            max(0, min(self.size, (2 * self.size * value + SPAN - 1) // (2 * SPAN)))
            for value in (left, top, right, bottom)
        ]
        if edges[0] < edges[2] and edges[1] < edges[3]:
            self.paint_pixels(slice(edges[1], edges[3]), slice(edges[0], edges[2]), paint)

    def draw_word(self, text: str, row: int, column: int, height: int, plate: Paint, ink: Paint) -> None:
        """Write letters on a plate, as far as they fit; the whole cells of the letters are labelled as text."""
        for cell in make_letter_cells(text, height):
            tall, wide = cell.shape
            if row < 0 or column < 0 or row + tall > self.size or column + wide > self.size:
                break
            letter = text[0]
            text = text[1:]
            place = self.paint_ids[row : row + tall, column : column + wide]
            self.paints.extend([plate._replace(letter=letter), ink._replace(letter=letter)])
            place[...] = np.where(cell, 2 * (len(self.paints) - 1), 2 * (len(self.paints) - 2))
            column += wide

    def render_rgb(self) -> np.ndarray:
        """Return red, green and blue before light and noise, int32 (height, width, 3)."""
        table = np.array([rgb for paint in self.paints for rgb in _pattern_colours(paint)], dtype=np.int32)
        return table[self.paint_ids]

    def render_instances(self) -> np.ndarray:
        """Return the number of the placed thing that each pixel shows, uint8; 0 for none."""
        return np.array([paint.number for paint in self.paints], dtype=np.uint8)[self.paint_ids >> 1]

    def render_labels(self) -> dict[str, np.ndarray]:
        """Return index maps of colour, pattern, part, object and text, uint8 (height, width); 0 is none of the kind."""
        colours = [
            LABEL_INDEX["colour"][name]
            for paint in self.paints
            for name in (paint.colour, paint.second_colour or paint.colour)
        ]
        maps = {"colour": np.array(colours, dtype=np.uint8)[self.paint_ids]}
        which = self.paint_ids >> 1
        for kind, names in (
            ("pattern", [paint.pattern for paint in self.paints]),
            ("part", [paint.part for paint in self.paints]),
            ("object", [paint.thing for paint in self.paints]),
            ("text", [paint.letter for paint in self.paints]),
        ):
            maps[kind] = np.array([LABEL_INDEX[kind].get(name, 0) for name in names], dtype=np.uint8)[which]
        return maps


def _pattern_colours(paint: Paint) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first = tuple(value + paint.shade + tint for value, tint in zip(RGB[paint.colour], paint.tint, strict=True))
    if paint.second_colour and paint.second_colour != paint.colour:
        return first, tuple(value + paint.shade for value in RGB[paint.second_colour])
    # A pattern in one colour shows by light and dark.
    step = 55 if sum(first) < 240 else -48
    return first, tuple(value + step for value in first)


assert len(COLOURS) == len(RGB)
assert all(len(names) < 256 for names in (COLOURS, PATTERNS, OBJECTS, PARTS, LETTERS))
