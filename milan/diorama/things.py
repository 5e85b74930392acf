"""The things of Diorama, each built from named parts: polygons in a box of -50..50, y downwards, painted in order."""

from dataclasses import dataclass, field

import numpy as np

from milan.diorama.raster import make_ellipse
from milan.diorama.scene_vocabulary import COLOURS

Shape = tuple[str, str, np.ndarray]  # part, role in the palette, corners
ANY = COLOURS
BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SKIN = ("pink", "brown")


@dataclass(frozen=True)
class Thing:
    """A kind of thing: its appearance and its usual settings."""

    name: str
    shapes: tuple[Shape, ...]
    palette: dict[str, tuple[str, ...]]  # colours each role may have
    usual_settings: tuple[str, ...]  # settings it is mostly seen in
    place: str = "ground"  # ground, air, water or wall
    patterned_roles: tuple[str, ...] = ()  # roles that may carry a pattern
    patterns: tuple[str, ...] = ()  # which patterns; any when empty
    max_tilt: int = 1  # 64ths of a turn it may lean either way
    usual_size: int = 100  # its usual size, percent
    word_box: tuple[int, int, int, int] | None = None  # where it carries a word: left, top, right, bottom


def _oval(part: str, role: str, x: int, y: int, rx: int, ry: int) -> Shape:
    return part, role, make_ellipse(x, y, rx, ry)


def _box(part: str, role: str, left: int, top: int, right: int, bottom: int) -> Shape:
    return part, role, np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.int64)


def _poly(part: str, role: str, *places: int) -> Shape:
    return part, role, np.array(places, dtype=np.int64).reshape(-1, 2)


def _ring(part: str, role: str, x: int, y: int, radius: int, width: int) -> Shape:
    """Return a ring as one polygon, whose two joining lines cancel out."""
    outer, inner = make_ellipse(x, y, radius, radius), make_ellipse(x, y, radius - width, radius - width)
    return part, role, np.concatenate([outer, outer[:1], inner, inner[:1]])


def _bar(part: str, role: str, x0: int, y0: int, x1: int, y1: int, width: int) -> Shape:
    """Return a thick line."""
    across = np.array([y0 - y1, x1 - x0], dtype=np.int64)
    long = int(np.abs(across).max())
    half = across * width // (2 * long)
    ends = np.array([(x0, y0), (x1, y1)], dtype=np.int64)
    return part, role, np.array([ends[0] + half, ends[1] + half, ends[1] - half, ends[0] - half])


def _dome(part: str, role: str, x: int, y: int, rx: int, ry: int) -> Shape:
    """Return the upper half of an ellipse, its flat side at y."""
    whole = make_ellipse(x, y, rx, ry, 32)
    return part, role, np.concatenate([whole[16:], whole[:1]])


def _round(
    part: str, role: str, count: int, distance: int, rx: int, ry: int, x: int = 0, y: int = 0
) -> tuple[Shape, ...]:
    centres = make_ellipse(x, y, distance, distance, count).tolist()
    return tuple(_oval(part, role, cx, cy, rx, ry) for cx, cy in centres)


def _star() -> Shape:
    outer, inner = make_ellipse(0, 2, 50, 50, 64), make_ellipse(0, 2, 20, 20, 64)
    corners = [(inner if i % 2 else outer)[(48 + 64 * i // 10) % 64] for i in range(10)]
    return "body", "main", np.array(corners)


def _moon() -> Shape:
    outer, inner = make_ellipse(0, 0, 46, 46, 32), make_ellipse(20, 0, 34, 38, 32)
    return "body", "main", np.concatenate([outer[3:30], inner[27:4:-1]])


def _rays() -> tuple[Shape, ...]:
    far, near = make_ellipse(0, 0, 50, 50, 64), make_ellipse(0, 0, 26, 26, 64)
    spikes = (np.array([far[i], near[(i - 3) % 64], near[(i + 3) % 64]]) for i in range(0, 64, 8))
    return tuple(("ray", "ray", spike) for spike in spikes)


def _wheels(role: str, *places: tuple[int, int, int]) -> tuple[Shape, ...]:
    return tuple(
        s
        for x, y, r in places
        for s in (_oval("wheel", role, x, y, r, r), _oval("wheel", "hub", x, y, r // 2 - 1, r // 2 - 1))
    )


DARK = ("black", "grey")
WOOD = ("brown", "orange", "grey")
GLASS = ("blue", "white", "yellow", "black")

_ALL = (
    Thing("house", (
        _box("chimney", "door", 18, -46, 29, -18), _box("wall", "wall", -38, -8, 38, 50),
        _poly("roof", "main", -50, -6, 0, -50, 50, -6),
        _box("window", "glass", -29, 6, -9, 26), _box("door", "door", 8, 12, 27, 50)),
        {"main": ("red", "brown", "grey", "black", "orange", "blue"),
         "wall": ("white", "yellow", "brown", "pink", "grey", "blue"),
         "glass": GLASS, "door": ("brown", "red", "green", "black", "blue")},
        ("street", "farmland", "snowfield", "meadow"), patterned_roles=("main", "wall"), max_tilt=0, usual_size=125),
    Thing("car", (
        _poly("body", "main", -50, 22, -50, 4, -44, -3, -27, -6, -15, -26, 17, -26, 30, -5, 46, -1, 50, 8, 50, 22),
        _poly("window", "glass", -20, -6, -12, -21, -2, -21, -2, -6),
        _poly("window", "glass", 3, -6, 3, -21, 14, -21, 23, -6),
        *_wheels("tyre", (-27, 22, 13), (28, 22, 13))),
        {"main": ANY, "glass": ("blue", "white", "grey"), "tyre": DARK, "hub": ("white", "grey", "yellow")},
        ("street", "street", "desert", "farmland"), patterned_roles=("main",), max_tilt=1),
    Thing("tree", (
        _box("trunk", "wood", -7, 5, 7, 50), _oval("crown", "main", -14, -8, 25, 22),
        _oval("crown", "main", 15, -6, 25, 22),
        _oval("crown", "main", 0, -28, 26, 22)),
        {"main": ("green", "green", "green", "orange", "yellow", "pink", "red"),
         "wood": ("brown", "brown", "grey", "black")},
        ("meadow", "forest", "forest", "snowfield", "farmland"), patterned_roles=("main",),
         patterns=("speckle", "dots"), usual_size=125),
    Thing("person", (
        _box("leg", "legs", -12, 14, -2, 50), _box("leg", "legs", 2, 14, 12, 50),
        _bar("arm", "skin", -15, -12, -27, 14, 9),
        _bar("arm", "skin", 15, -12, 27, 14, 9), _poly("torso", "main", -19, -14, 19, -14, 14, 20, -14, 20),
        _oval("hair", "hair", 0, -34, 16, 17), _oval("face", "skin", 0, -30, 12, 13),
        _oval("eye", "ink", -5, -32, 2, 2), _oval("eye", "ink", 5, -32, 2, 2)),
        {"main": ANY, "legs": ("blue", "black", "brown", "grey", "red"), "skin": SKIN,
         "hair": ("black", "brown", "yellow", "orange",
        "grey"),
         "ink": ("black",)}, ("street", "beach", "snowfield", "room", "meadow"), patterned_roles=("main",), max_tilt=1),
    Thing("boat", (
        _box("mast", "wood", -2, -50, 3, 16), _poly("sail", "main", 5, -48, 5, 8, 40, 8),
        _poly("sail", "main", -4, -38, -4, 8, -30, 8),
        _poly("hull", "hull", -48, 14, 48, 14, 30, 42, -32, 42)),
        {"main": ("white", "red", "yellow", "orange", "blue", "pink"),
         "hull": ("brown", "red", "blue", "white", "black", "green"),
        "wood": WOOD},
        ("sea", "sea", "beach"), place="water", patterned_roles=("main", "hull"), max_tilt=2, usual_size=110),
    Thing("fish", (
        _poly("tail", "fin", 18, 0, 48, -22, 40, 0, 48, 22), _poly("fin", "fin", -14, -14, 14, -34, 14, -10),
        _oval("body", "main", -8, 0, 36, 22), _oval("eye", "white", -28, -5, 6, 6), _oval("eye", "ink", -29, -5, 3, 3)),
        {"main": ANY, "fin": BRIGHT, "white": ("white",), "ink": ("black",)},
        ("sea", "sea", "sea", "beach"), place="water", patterned_roles=("main",), max_tilt=4, usual_size=80),
    Thing("bird", (
        _bar("leg", "beak", -2, 15, -4, 42, 4), _bar("leg", "beak", 8, 15, 10, 42, 4),
        _poly("tail", "wing", -18, 0, -50, -14, -46, 8),
        _oval("body", "main", 0, 4, 27, 19), _oval("head", "main", 23, -16, 14, 14),
        _poly("beak", "beak", 34, -22, 50, -14, 34, -9),
        _poly("wing", "wing", 12, -6, -6, -8, -28, 10, -6, 16, 8, 10), _oval("eye", "ink", 26, -19, 3, 3)),
        {"main": ANY, "wing": BRIGHT, "beak": ("orange", "yellow"), "ink": ("black",)},
        ("meadow", "forest", "sea", "beach", "farmland", "snowfield"), place="air", patterned_roles=("wing",),
         max_tilt=3, usual_size=75),
    Thing("cat", (
        _bar("tail", "main", 20, 40, 44, 16, 8), _bar("tail", "main", 42, 20, 38, -6, 8),
        _oval("body", "main", 2, 25, 23, 25),
        _box("leg", "main", -14, 24, -5, 50), _box("leg", "main", 4, 24, 13, 50),
        _poly("ear", "main", -30, -18, -27, -48, -8, -32), _poly("ear", "main", 20, -18, 17, -48, -2, -32),
        _oval("head", "main", -5, -18, 25, 20), _oval("eye", "eye", -14, -20, 5, 5), _oval("eye", "eye", 5, -20, 5, 5),
        _poly("nose", "nose", -9, -12, 0, -12, -5, -6)),
        {"main": ("orange", "black", "grey", "white", "brown"), "eye": ("green", "yellow", "blue"),
         "nose": ("pink", "red")},
        ("room", "room", "meadow", "street"), patterned_roles=("main",),
         patterns=("horizontal stripes", "vertical stripes", "speckle"), max_tilt=1,
        usual_size=80),
    Thing("dog", (
        _bar("tail", "main", -30, -2, -46, -26, 8), _box("leg", "main", -30, 10, -21, 46),
        _box("leg", "main", -16, 10, -8, 46),
        _box("leg", "main", 8, 10, 16, 46), _box("leg", "main", 19, 10, 28, 46), _oval("body", "main", -2, 6, 32, 17),
        _oval("head", "main", 28, -18, 17, 16), _oval("head", "snout", 43, -13, 11, 8),
        _oval("nose", "ink", 51, -17, 5, 4),
        _oval("ear", "ear", 19, -16, 7, 17), _oval("eye", "ink", 33, -22, 3, 3)),
        {"main": ("brown", "white", "grey", "black", "orange", "yellow"), "ear": ("brown", "black", "grey"),
         "snout": ("white", "brown",
        "pink"),
         "ink": ("black",)}, ("meadow", "farmland", "room", "snowfield", "street"), patterned_roles=("main",),
         patterns=("dots", "speckle"),
        max_tilt=1, usual_size=85),
    Thing("flower", (
        _bar("stem", "stem", 0, 0, 0, 50, 6), _poly("leaf", "stem", 2, 40, 14, 20, 30, 18, 20, 34),
        *_round("petal", "main", 8, 20, 12, 12, 0, -18), _oval("centre", "centre", 0, -18, 12, 12)),
        {"main": ("red", "pink", "white", "yellow", "purple", "blue", "orange"),
         "centre": ("yellow", "orange", "brown", "black"),
         "stem": ("green",)}, ("meadow", "meadow", "farmland", "room", "forest"), max_tilt=3, usual_size=75),
    Thing("mushroom", (
        _poly("stem", "stem", -12, -2, 12, -2, 16, 48, -16, 48), _dome("cap", "main", 0, 6, 46, 52)),
        {"main": ("red", "brown", "orange", "purple", "yellow"), "stem": ("white", "yellow", "grey")},
        ("forest", "forest", "meadow"), patterned_roles=("main",), patterns=("dots", "dots", "speckle"), max_tilt=2,
         usual_size=75),
    Thing("cup", (
        _ring("handle", "main", 28, 2, 20, 8), _poly("body", "main", -34, -30, 28, -30, 20, 40, -26, 40),
        _oval("rim", "rim", -3, -30, 31,
        9),
        _oval("rim", "drink", -3, -29, 26, 6)),
        {"main": ANY, "rim": ("white", "grey"), "drink": ("brown", "black", "orange")}, ("room",),
         patterned_roles=("main",), max_tilt=1, usual_size=70),
    Thing("clock", (
        _oval("rim", "main", 0, 0, 48, 48), _oval("face", "face", 0, 0, 38, 38), _bar("hand", "ink", 0, 2, 0, -30, 6),
        _bar("hand", "ink", -2, 0, 22, 8, 6), *_round("face", "ink", 4, 33, 3, 3)),
        {"main": ("red", "blue", "brown", "black", "green", "yellow", "purple"),
         "face": ("white", "white", "yellow", "pink"),
        "ink": ("black",)},
        ("room", "room", "street"), place="wall", max_tilt=0, usual_size=75),
    Thing("chair", (
        _box("back", "main", -28, -50, 16, 0), _box("leg", "wood", -28, 0, -20, 50),
        _box("leg", "wood", 24, 10, 32, 50),
        _box("leg", "wood", -14, 10, -8, 44), _box("leg", "wood", 10, 10, 16, 44),
        _poly("seat", "seat", -28, -2, 16, -2, 34, 12, -26, 12)),
        {"main": ANY, "seat": ("brown", "red", "blue", "white", "green"), "wood": ("brown", "black", "grey")},
        ("room", "room", "beach"), patterned_roles=("main", "seat"), max_tilt=0),
    Thing("lamp", (
        _bar("pole", "pole", 0, -14, 0, 44, 6), _poly("base", "pole", -20, 50, -12, 40, 12, 40, 20, 50),
        _poly("shade", "main", -18, -50, 18, -50, 34, -8, -34, -8)),
        {"main": ("yellow", "white", "orange", "red", "green", "pink"), "pole": ("black", "grey", "brown")},
        ("room", "room", "street"), patterned_roles=("main",), max_tilt=0),
    Thing("umbrella", (
        _bar("handle", "wood", 0, -30, 0, 44, 5), _bar("handle", "wood", 0, 44, 14, 44, 6),
        _dome("canopy", "main", 0, 2, 50, 46),
        _poly("canopy", "second", -16, 2, -12, -28, 0, -44, 12, -28, 16, 2)),
        {"main": ANY, "second": ANY, "wood": ("brown", "black", "grey")}, ("beach", "beach", "street"),
         patterned_roles=("main",), max_tilt=4,
        usual_size=105),
    Thing("ball", (_oval("body", "main", 0, 0, 46, 46), _poly("body", "main", -10, -40, 10, -40, 10, 40, -10, 40)),
          {"main": BRIGHT}, ("beach", "meadow", "room", "street"), patterned_roles=("main", "main"),
          patterns=("horizontal stripes", "vertical stripes", "diagonal stripes", "dots", "checks", "zigzag", "waves",
          "plain"), usual_size=65),
    Thing("kite", (
        _bar("tail", "string", 0, 20, 12, 36, 4), _bar("tail", "string", 12, 36, 0, 50, 4),
        _poly("tail", "second", 6, 30, 22, 28, 18, 42),
        _poly("tail", "second", -4, 42, 10, 50, -8, 52), _poly("body", "main", 0, -50, 32, -18, 0, 24, -32, -18),
        _poly("body", "second", 0, -50, 32, -18, 0, -18), _poly("body", "second", 0, -18, 0, 24, -32, -18)),
        {"main": BRIGHT, "second": BRIGHT, "string": ("black", "white", "brown")}, ("meadow", "beach"), place="air",
        patterned_roles=("main",), max_tilt=6),
    Thing("bicycle", (
        _ring("wheel", "tyre", -28, 18, 22, 6), _ring("wheel", "tyre", 28, 18, 22, 6),
        _bar("frame", "main", -28, 18, -12, -12, 6),
        _bar("frame", "main", -12, -12, 20, -12, 6), _bar("frame", "main", 20, -12, -2, 18, 6),
        _bar("frame", "main", -28, 18, -2, 18, 6),
        _bar("frame", "main", -2, 18, -12, -12, 6), _bar("frame", "main", 28, 18, 17, -24, 6),
        _bar("handle", "grip", 8, -26, 24, -26, 6),
        _poly("seat", "grip", -22, -20, -2, -20, -6, -12, -16, -12)),
        {"main": BRIGHT, "tyre": ("black", "black", "grey"), "grip": ("black", "brown", "red")},
         ("street", "street", "meadow"), max_tilt=1,
        usual_size=95),
    Thing("train", (
        _poly("chimney", "second", 22, -38, 42, -38, 36, -16, 28, -16), _box("body", "main", -16, -18, 46, 18),
        _box("body", "second", -48, -36, -12, 18), _box("roof", "tyre", -50, -42, -10, -34),
        _box("window", "glass", -42, -28, -20, -10),
        _poly("base", "tyre", 46, 2, 50, 24, -48, 24, -48, 14, 46, 14),
        *_wheels("wheel", (-30, 28, 16), (4, 32, 12), (32, 32, 12))),
        {"main": BRIGHT, "second": BRIGHT, "glass": GLASS, "wheel": ("black", "red", "grey"), "tyre": DARK,
         "hub": ("yellow", "white",
        "red")},
        ("farmland", "street", "desert"), patterned_roles=("main",), max_tilt=0, usual_size=115),
    Thing("plane", (
        _poly("wing", "second", -4, -4, -18, -42, -4, -42, 18, -4),
        _poly("tail", "second", -38, -4, -50, -30, -36, -30, -24, -4),
        _poly("body", "main", -48, -6, 30, -10, 44, -6, 50, 2, 40, 9, -30, 9),
        _poly("wing", "second", -2, 4, -26, 40, -10, 40, 20, 4),
        _oval("window", "glass", -16, -3, 4, 4), _oval("window", "glass", -4, -3, 4, 4),
        _oval("window", "glass", 8, -3, 4, 4),
        _poly("window", "glass", 30, -8, 40, -5, 30, 0)),
        {"main": ("white", "grey", "red", "yellow", "blue"), "second": BRIGHT, "glass": ("blue", "black")},
        ("night sky", "sea", "desert", "meadow"), place="air", max_tilt=5, usual_size=105),
    Thing("rocket", (
        _poly("flame", "flame", -10, 30, 0, 50, 10, 30), _poly("fin", "fin", -12, 8, -30, 36, -10, 32),
        _poly("fin", "fin", 12, 8, 30, 36,
        10, 32),
        _poly("nose", "fin", -15, -24, -8, -42, 0, -50, 8, -42, 15, -24), _box("body", "main", -15, -25, 15, 32),
        _oval("window", "rim", 0, -6, 10, 10), _oval("window", "glass", 0, -6, 6, 6)),
        {"main": ("white", "grey", "yellow", "green", "blue"), "fin": ("red", "orange", "blue", "purple", "pink"),
         "flame": ("orange",
        "yellow", "red"),
         "rim": ("black", "white"), "glass": ("blue", "yellow")}, ("night sky", "night sky", "desert"), place="air",
         patterned_roles=("main",),
         max_tilt=6),
    Thing("star", (_star(),), {"main": ("yellow", "yellow", "white", "orange", "red", "blue", "pink")}, ("night sky",),
    place="air",
    max_tilt=5, usual_size=65,
          patterned_roles=("main",), patterns=("plain", "speckle", "dots")),
    Thing("moon", (_moon(),), {"main": ("yellow", "white", "orange", "grey")}, ("night sky",), place="air", max_tilt=5,
    usual_size=75,
    patterned_roles=("main",),
          patterns=("plain", "speckle")),
    Thing("cactus", (
        _box("body", "main", -10, -40, 11, 50), _oval("body", "main", 0, -40, 10, 10),
        _box("arm", "main", -36, 2, -6, 15),
        _box("arm", "main", -38, -22, -25, 14), _oval("arm", "main", -32, -22, 6, 7),
        _box("arm", "main", 6, 12, 36, 25),
        _box("arm", "main", 24, -14, 37, 24), _oval("arm", "main", 30, -14, 6, 7)),
        {"main": ("green", "green", "green", "green", "yellow", "blue")}, ("desert", "desert", "desert", "room"),
         patterned_roles=("main",),
        patterns=("vertical stripes", "dots", "speckle", "plain"), max_tilt=1),
    Thing("fence", (
        _box("rail", "main", -50, -10, 50, 0), _box("rail", "main", -50, 18, 50, 28),
        *(shape for x in (-44, -22, 0, 22, 44) for shape in (_poly("post", "post", x - 7, 40, x - 7, -20, x, -32,
        x + 7, -20, x + 7,
        40),))),
        {"main": WOOD, "post": ("white", "brown", "grey", "red", "green", "yellow")},
         ("farmland", "farmland", "meadow", "snowfield"),
        max_tilt=0, usual_size=110),
    Thing("ladder", (
        _bar("rail", "main", -22, 50, -16, -50, 7), _bar("rail", "main", 22, 50, 16, -50, 7),
        *(_bar("rung", "rung", -19, y, 19, y, 6) for y in (-36, -16, 4, 24, 42))),
        {"main": ("brown", "yellow", "grey", "red", "white", "black"),
         "rung": ("brown", "yellow", "grey", "white", "black")},
        ("farmland", "room", "forest"), max_tilt=3, usual_size=110),
    Thing("sign", (_box("pole", "pole", -4, 8, 4, 50), _box("board", "rim", -50, -44, 50, 10),
    _box("board", "main", -46, -40, 46, 6)),
          {"main": ("red", "yellow", "green", "blue", "white", "orange"), "rim": ("black", "white"),
           "pole": ("grey", "brown", "black")},
          ("street", "street", "street", "beach", "farmland"), max_tilt=0, word_box=(-46, -40, 46, 6)),
    Thing("butterfly", (
        _oval("wing", "main", -24, -16, 23, 24), _oval("wing", "main", 24, -16, 23, 24),
        _oval("wing", "second", -18, 20, 18, 20),
        _oval("wing", "second", 18, 20, 18, 20), _oval("body", "ink", 0, 2, 5, 34),
        _bar("head", "ink", -2, -28, -14, -48, 4),
        _bar("head", "ink", 2, -28, 14, -48, 4)),
        {"main": BRIGHT, "second": BRIGHT, "ink": ("black", "brown")}, ("meadow", "meadow", "forest"), place="air",
         patterned_roles=("main",),
        patterns=("dots", "speckle", "vertical stripes", "checks", "plain"), max_tilt=5, usual_size=65),
    Thing("snowman", (
        _bar("arm", "wood", -14, -2, -44, -18, 5), _bar("arm", "wood", 14, -2, 44, -18, 5),
        _oval("body", "main", 0, 26, 28, 25),
        _oval("body", "main", 0, -4, 20, 18), _oval("head", "main", 0, -26, 14, 14),
        _box("hat", "hat", -20, -40, 20, -34),
        _box("hat", "hat", -11, -52, 11, -38), _oval("eye", "ink", -5, -29, 2, 2), _oval("eye", "ink", 5, -29, 2, 2),
        _poly("nose", "nose", 0, -26, 18, -22, 0, -20), _oval("body", "ink", 0, -4, 3, 3),
        _oval("body", "ink", 0, 16, 3, 3)),
        {"main": ("white", "white", "white", "grey", "blue"), "hat": ("black", "red", "blue", "green", "purple"),
         "nose": ("orange",),
         "wood": ("brown", "black"), "ink": ("black",)}, ("snowfield", "snowfield", "snowfield"), max_tilt=1),
    Thing("table", (
        _box("leg", "wood", -42, -10, -33, 46), _box("leg", "wood", 33, -10, 42, 46),
        _box("leg", "wood", -24, -8, -18, 34),
        _box("leg", "wood", 18, -8, 24, 34), _poly("top", "main", -36, -28, 36, -28, 50, -6, -50, -6)),
        {"main": ANY, "wood": ("brown", "black", "grey", "white")}, ("room", "room", "beach"),
         patterned_roles=("main",), max_tilt=0, usual_size=105),
    Thing("apple", (
        _oval("body", "main", -15, 8, 28, 36), _oval("body", "main", 15, 8, 28, 36),
        _bar("stem", "wood", 0, -20, 5, -46, 6),
        _poly("leaf", "leaf", 5, -32, 18, -48, 38, -44, 26, -30)),
        {"main": ("red", "green", "yellow", "pink"), "wood": ("brown", "black"), "leaf": ("green",)},
         ("room", "farmland", "forest"),
        patterned_roles=("main",), patterns=("plain", "speckle"), max_tilt=3, usual_size=60),
    Thing("tent", (
        _poly("wall", "main", 0, -40, 50, 44, -50, 44), _poly("door", "door", 0, -20, 16, 44, -16, 44),
        _bar("pole", "pole", 0, -50, 0,
        -32, 5)),
        {"main": BRIGHT, "door": ("black", "brown", "grey", "white"), "pole": ("brown", "grey")},
        ("forest", "desert", "meadow", "beach"), patterned_roles=("main",), max_tilt=0, usual_size=105),
    Thing("sun", (*_rays(), _oval("body", "main", 0, 0, 28, 28), _oval("eye", "ink", -9, -5, 3, 3),
    _oval("eye", "ink", 9, -5, 3, 3)),
          {"main": ("yellow", "orange", "yellow", "red"), "ray": ("orange", "yellow", "red"),
           "ink": ("black", "brown")},
          ("beach", "desert", "sea", "meadow"), place="air", max_tilt=4, usual_size=75),
    Thing("tractor", (
        _box("chimney", "tyre", 20, -38, 27, -6), _box("window", "glass", -34, -38, -2, -8),
        _box("roof", "main", -40, -46, 4, -37),
        _box("frame", "main", -38, -40, -32, -4), _box("frame", "main", -4, -40, 2, -4),
        _poly("body", "main", -40, -8, 46, -8, 48, 16,
        -40, 16),
        *_wheels("tyre", (-22, 18, 27), (34, 30, 15))),
        {"main": ("red", "green", "blue", "yellow", "orange"), "glass": ("blue", "white", "grey"), "tyre": DARK,
         "hub": ("yellow",
        "white", "red", "orange")},
        ("farmland", "farmland", "farmland", "desert"), max_tilt=1),
)  # fmt: skip

THINGS_BY_NAME: dict[str, Thing] = {thing.name: thing for thing in _ALL}


@dataclass
class Appearance:
    """The colours and patterns of one rendered thing: role -> (colour, pattern, second colour)."""

    roles: dict[str, tuple[str, str, str]] = field(default_factory=dict)
