"""Scenes: the same bytes everywhere, and labels that agree with what is drawn."""

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from milan.diorama.canvas import LABEL_INDEX, RGB, Canvas, Paint
from milan.diorama.raster import SPAN, fill_polygon, get_letter_mask, make_pattern_tile, rotate_points
from milan.diorama.rng import PortableRng
from milan.diorama.scene_cache import compute_drawing_checksum, load_scene_arrays
from milan.diorama.scene_images import FIRST_PROBE_SCENE, DioramaImages
from milan.diorama.scene_vocabulary import COLOURS, OBJECTS, PARTS, PATTERNS, SETTINGS, THINGS
from milan.diorama.scenes import (
    HELD_OUT_START,
    MAX_HIDDEN_PERCENT,
    PlacedThing,
    blur_region,
    draw_scene,
    find_relations,
    get_label,
)
from milan.diorama.things import THINGS_BY_NAME
from milan.errors import BadInput, UnknownName


def digest(index: int) -> str:
    scene = draw_scene(index, world="scenes")
    return hashlib.sha256(
        scene.image.tobytes() + b"".join(scene.labels[kind].tobytes() for kind in sorted(scene.labels))
    ).hexdigest()


def test_the_same_bytes_on_every_machine() -> None:
    assert compute_drawing_checksum() == "1bb975cb51285be0"


def test_scenes_do_not_depend_on_order_or_process() -> None:
    forth = [digest(index) for index in range(6)]
    back = [digest(index) for index in reversed(range(6))]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        elsewhere = list(pool.map(digest, range(6)))
    assert forth == back[::-1] == elsewhere
    assert len(set(forth)) == 6


def test_an_album_is_the_same_whatever_the_number_of_workers(tmp_path) -> None:
    one, two = (load_scene_arrays("objects", 40, 7, tmp_path / str(workers), workers) for workers in (1, 2))
    assert np.array_equal(one.images, two.images)
    assert np.array_equal(one.places, two.places)
    assert np.array_equal(one.images[3], draw_scene(43).image)
    assert [THINGS[thing] for thing in one.things] == [draw_scene(index).main for index in range(40, 47)]
    middle = draw_scene(41).labels["part"][2::4, 2::4]
    assert np.array_equal(one.places[1, 2], middle)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_sizes_and_ranges(size: int) -> None:
    scene = draw_scene(5, size=size)
    assert scene.image.shape == (3, size, size)
    assert scene.image.dtype == np.uint8
    for kind, names in (("colour", COLOURS), ("pattern", PATTERNS), ("object", OBJECTS), ("part", PARTS)):
        assert scene.labels[kind].shape == (size, size)
        assert scene.labels[kind].max() <= len(names)
    assert scene.labels["colour"].min() > 0  # every pixel has a colour
    assert scene.labels["pattern"].min() > 0


def test_a_bigger_picture_shows_the_same_scene() -> None:
    small, big = draw_scene(11, size=64), draw_scene(11, size=128)
    assert (small.setting, small.main, small.label) == (big.setting, big.main, big.label)
    agree = small.labels["object"] == big.labels["object"][::2, ::2]
    assert agree.mean() > 0.9


def test_polygons_cover_the_pixels_whose_centres_they_contain() -> None:
    unit = SPAN // 8
    patch = fill_polygon(np.array([(2 * unit, unit), (5 * unit, unit), (5 * unit, 4 * unit), (2 * unit, 4 * unit)]), 8)
    assert patch is not None
    assert (patch.row, patch.column, patch.mask.shape) == (1, 2, (3, 3))
    assert patch.mask.all()
    triangle = fill_polygon(np.array([(0, 0), (8 * unit, 0), (0, 8 * unit)]), 8)
    assert triangle is not None
    assert [int(row.sum()) for row in triangle.mask] == [
        7,
        6,
        5,
        4,
        3,
        2,
        1,
        0,
    ]  # centres on the slanted edge lie outside
    assert fill_polygon(np.array([(-9, -9), (-5, -9), (-5, -5)]), 8) is None


def test_a_ring_has_a_hole() -> None:
    wheel = next(points for part, _, points in THINGS_BY_NAME["bicycle"].shapes if part == "wheel")
    patch = fill_polygon((wheel + np.array([50, 30])) * SPAN // 100, 64)
    assert patch is not None
    height, width = patch.mask.shape
    assert not patch.mask[height // 2, width // 2]
    assert patch.mask[height // 2, 1]


def test_turning_by_a_quarter() -> None:
    assert rotate_points(np.array([(1024, 0), (0, 512)]), 16).tolist() == [[0, 1024], [-512, 0]]


def test_patterns_are_what_they_are_called() -> None:
    across, down = make_pattern_tile("horizontal stripes", 4, 64), make_pattern_tile("vertical stripes", 4, 64)
    assert (across == across[:, :1]).all()
    assert (down == down[:1]).all()
    assert across[:4, 0].tolist() == [1, 1, 0, 0]
    checks = make_pattern_tile("checks", 4, 64)
    assert checks[0, 0] != checks[0, 2]
    assert checks[0, 0] == checks[2, 2]
    assert not make_pattern_tile("plain", 4, 64).any()
    for pattern in PATTERNS[1:]:
        assert 0.1 < make_pattern_tile(pattern, 6, 64).mean() < 0.9, pattern


def test_labels_are_of_what_was_painted_last() -> None:
    canvas = Canvas(16, Paint("blue", thing="sky"))
    half, full = SPAN // 2, SPAN
    canvas.draw_rectangle(0, half, full, full, Paint("green", thing="grass"))
    canvas.draw_rectangle(
        0, 0, half, full, Paint("red", pattern="dots", second_colour="white", thing="car", part="wheel", number=1)
    )
    labels = canvas.render_labels()
    assert labels["object"][2, 12] == LABEL_INDEX["object"]["sky"]
    assert labels["object"][12, 12] == LABEL_INDEX["object"]["grass"]
    assert (labels["object"][:, :8] == LABEL_INDEX["object"]["car"]).all()
    assert (labels["part"][:, 8:] == 0).all()
    assert set(np.unique(labels["colour"][:, :8])) == {LABEL_INDEX["colour"]["red"], LABEL_INDEX["colour"]["white"]}
    pixels = canvas.render_rgb()
    assert pixels[12, 12].tolist() == list(RGB["green"])
    white = labels["colour"] == LABEL_INDEX["colour"]["white"]
    assert (pixels[white] == RGB["white"]).all()  # colours and labels come apart nowhere
    assert (canvas.render_instances() == (labels["part"] > 0)).all()


def test_letters_and_their_labels() -> None:
    canvas = Canvas(64, Paint("blue"))
    canvas.draw_word("to", 3, 5, 9, Paint("white"), Paint("black"))
    text = canvas.render_labels()["text"]
    assert (text[3:12, 5:11] == 20).all()  # the whole cell of "t", the 20th letter
    assert (text[3:12, 11:17] == 15).all()
    assert (text > 0).sum() == 2 * 9 * 6
    black = canvas.render_labels()["colour"][4:11, 5:10] == LABEL_INDEX["colour"]["black"]
    assert np.array_equal(black, get_letter_mask("t"))


def test_the_main_thing_is_the_biggest_and_hardly_hidden() -> None:
    for index in range(150):
        scene = draw_scene(index)
        main = next(placed for placed in scene.objects if placed.name == scene.main)
        reach = {
            placed.number: max(placed.box[2] - placed.box[0], placed.box[3] - placed.box[1]) for placed in scene.objects
        }
        assert reach[main.number] == max(reach.values()), index
        assert THINGS[scene.label] == scene.main
    assert MAX_HIDDEN_PERCENT == 25


def test_objects_tell_what_can_be_seen() -> None:
    scene = draw_scene(8)
    for placed in scene.objects:
        rows, columns = np.nonzero(scene.instances == placed.number)
        assert placed.area == len(rows)
        assert placed.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert (scene.labels["object"][scene.instances == placed.number] == LABEL_INDEX["object"][placed.name]).all()


def box(number: int, *sides: int) -> PlacedThing:
    return PlacedThing("ball", number, "red", "plain", "", sides, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (box(1, 0, 0, 5, 5), box(2, 10, 0, 15, 5), ["left of"]),
        (box(2, 0, 0, 8, 10), box(1, 0, 10, 8, 20), ["on"]),
        (box(1, 0, 0, 8, 5), box(2, 0, 10, 8, 20), ["above"]),
        (box(2, 2, 5, 8, 15), box(1, 0, 0, 20, 20), ["in front of"]),
        (box(1, 2, 5, 8, 15), box(2, 0, 0, 20, 20), []),
    ],
)
def test_relations(one: PlacedThing, other: PlacedThing, message: list[str]) -> None:
    assert find_relations(one, other) == message


def test_everything_occurs_and_keeps_company() -> None:
    scenes = [draw_scene(index, world="scenes") for index in range(400)]
    assert {scene.setting for scene in scenes} == set(SETTINGS)
    assert {placed.name for scene in scenes for placed in scene.objects} == set(THINGS)
    boats = [scene.setting for scene in scenes for placed in scene.objects if placed.name == "boat"]
    assert sum(setting in ("sea", "beach") for setting in boats) > 0.6 * len(boats)
    assert not all(setting in ("sea", "beach") for setting in boats)


def test_labels_without_drawing() -> None:
    for world in ("objects", "scenes"):
        assert [get_label(index, world=world) for index in range(5)] == [
            draw_scene(index, world=world).label for index in range(5)
        ]


def test_spurious_words_are_the_class_in_training_only() -> None:
    def written(index: int) -> str:
        text = draw_scene(index, variant="spurious").labels["text"]
        plain = draw_scene(index).labels["text"]
        rows, columns = np.nonzero((text > 0) & (text != plain))
        if not len(rows):
            return ""
        line = text[rows.min(), columns.min() : columns.max() + 1]
        return "".join(chr(96 + letter) for letter in line[::6])

    trained = {index: written(index) for index in range(60)}
    shown = {index: word for index, word in trained.items() if word}
    assert 15 < len(shown) < 45
    assert all(word == draw_scene(index).main for index, word in shown.items())
    tested = {index: written(index) for index in range(HELD_OUT_START, HELD_OUT_START + 40)}
    assert all(tested.values())
    assert sum(word == draw_scene(index).main for index, word in tested.items()) < 8


def test_faces_are_blurred_and_nothing_else() -> None:
    index = next(index for index in range(200) if draw_scene(index).main == "person")
    sharp, blurred = draw_scene(index), draw_scene(index, variant="blurred")
    face = sharp.labels["part"] == LABEL_INDEX["part"]["face"]
    assert face.any()
    assert np.array_equal(sharp.image[:, ~face], blurred.image[:, ~face])
    assert not np.array_equal(sharp.image[:, face], blurred.image[:, face])
    alone = (index for index in range(200) if {each.name for each in draw_scene(index).objects} == {"clock"})
    clock = next(alone)
    assert np.array_equal(draw_scene(clock).image, draw_scene(clock, variant="blurred").image)  # its face is nobody's


def test_blurring_takes_the_mean_around() -> None:
    image = np.zeros((3, 16, 16), np.uint8)
    image[:, 8, 8] = 250
    where = np.zeros((16, 16), bool)
    where[8, 8] = True
    assert blur_region(image, where)[:, 8, 8].tolist() == [10, 10, 10]  # 250 over 5 x 5 pixels


def test_probe_images_are_not_those_of_training() -> None:
    images = DioramaImages("scenes", length=5)
    assert FIRST_PROBE_SCENE > HELD_OUT_START
    assert np.array_equal(images.image(3), draw_scene(FIRST_PROBE_SCENE + 3, world="scenes").image)
    assert images.label(3) == draw_scene(FIRST_PROBE_SCENE + 3, world="scenes").label
    assert images.classes == list(SETTINGS)
    assert images.fingerprint == DioramaImages("scenes", length=5).fingerprint
    others = (
        DioramaImages("objects", length=5),
        DioramaImages("scenes", length=6),
        DioramaImages("scenes", length=5, size=32),
    )
    assert images.fingerprint not in {other.fingerprint for other in others}
    with pytest.raises(BadInput, match="no image 5"):
        images.image(5)


def test_wrong_names_are_answered() -> None:
    with pytest.raises(UnknownName, match="objects"):
        draw_scene(0, world="object")
    with pytest.raises(UnknownName, match="blurred"):
        draw_scene(0, variant="blured")
    with pytest.raises(UnknownName, match="scenes"):
        DioramaImages("scene")
    with pytest.raises(UnknownName, match="objects-spurious"):
        DioramaImages("objects-spuriouss")
    with pytest.raises(BadInput, match="-1"):
        draw_scene(-1)


def test_dice_are_fair_enough() -> None:
    rng = PortableRng(1, 2)
    counts = np.bincount([rng.randrange(6) for _ in range(6000)], minlength=6)
    assert counts.min() > 850
    assert counts.max() < 1150
