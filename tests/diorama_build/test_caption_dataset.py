"""What image-text models are taught is true: every text of its picture, and every pair as the scenes' labels
have it.
"""

import numpy as np
import pytest
import torch

from milan.diorama.formulas import evaluate_formula
from milan.diorama.label_signatures import KINDS
from milan.diorama.scene_concepts import ALL_KINDS, get_concepts_by_name, list_concepts
from milan.diorama.scene_vocabulary import SETTINGS, THINGS
from milan.diorama.scenes import draw_scene
from milan.diorama.sentences import generate_sentences
from milan.diorama.text_reader import parse_description
from milan.diorama_build import image_text_batches as views_module
from milan.diorama_build.caption_dataset import LABEL_GRID, SENTENCES_PER_SCENE, load_caption_dataset
from milan.diorama_build.image_text_batches import (
    MIN_CONCEPT_PLACES,
    MIN_MAIN_PLACES,
    PREFIXES,
    ImageTextBatches,
    SceneView,
)

COUNT = 24


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return load_caption_dataset(500, COUNT, tmp_path_factory.mktemp("training_set"), workers=1)


@pytest.fixture(scope="module")
def views(taught):
    return ImageTextBatches(taught, 16, seed=3)


@pytest.fixture(scope="module")
def batches(views):
    return [views.make_batch(step) for step in range(2 * views.steps_per_epoch)]


def _is_phrase(text, views):
    """Whether a text came from concepts, and not from a scene's sentence."""
    for prefix in PREFIXES:
        text = text.removeprefix(prefix + " ")
    return any(text in ways or text.removeprefix("the ") in ways for ways in views._phrases_by_concepts.values())


def _scene(row):
    return draw_scene(500 + row % COUNT, world="objects" if row < COUNT else "scenes")


def _places(scene):
    """Labels of all kinds at LABEL_GRID x LABEL_GRID places, as names."""
    middles = slice(1, None, 64 // LABEL_GRID)
    found = {kind: np.array(["", *ALL_KINDS[kind]])[values[middles, middles]] for kind, values in scene.labels.items()}
    return found | {"setting": np.full((LABEL_GRID, LABEL_GRID), scene.setting)}


def test_scenes_with_what_is_said_of_them(taught):
    assert len(taught) == 2 * COUNT
    for row in (0, 7, COUNT, 2 * COUNT - 1):
        scene = _scene(row)
        np.testing.assert_array_equal(taught.images[row], scene.image)
        assert taught.sentences[row] == generate_sentences(scene, SENTENCES_PER_SCENE)
        assert (THINGS[taught.things[row]], SETTINGS[taught.settings[row]]) == (scene.main, scene.setting)
        labels = taught.signatures.table[taught.signatures.pixels[row]]
        for kind, names in _places(scene).items():
            np.testing.assert_array_equal(np.array(["", *ALL_KINDS[kind]])[labels[..., KINDS.index(kind)]], names)


def test_drawn_once_by_any_number_of_processes(tmp_path, monkeypatch):
    first = load_caption_dataset(900, 2, tmp_path, workers=2)
    alone = load_caption_dataset(900, 2, tmp_path / "alone", workers=1)
    monkeypatch.setattr("milan.diorama_build.caption_dataset.draw_scene", lambda *_, **__: pytest.fail("drawn again"))
    again = load_caption_dataset(900, 2, tmp_path, workers=1)
    for other in (alone, again):
        np.testing.assert_array_equal(first.images, other.images)
        assert first.sentences == other.sentences


def test_a_batch_is_the_same_whenever_asked_for(taught, batches):
    views = ImageTextBatches(taught, 16, seed=3)
    views.make_batch(4)
    again = views.make_batch(1)
    assert again.texts == batches[1].texts
    for name in ("images", "own_text", "truth", "has_concept", "main_looks", "place_labels"):
        assert torch.equal(getattr(again, name), getattr(batches[1], name)), name
    assert ImageTextBatches(taught, 16, seed=4).make_batch(1).texts != again.texts


def test_a_round_shows_each_scene_once_at_most_and_all_of_one_big_thing(taught, monkeypatch):
    shown = []

    def whole(self, codes, rng):
        shown.append(codes.tobytes())
        return SceneView(np.asarray(codes), None, (0.0, 0.0, 64.0))

    monkeypatch.setattr(ImageTextBatches, "_make_view", whole)
    views = ImageTextBatches(taught, 4)
    for step in range(views.steps_per_epoch):
        views.make_batch(step)
    of = {taught.signatures.pixels[row].tobytes(): row for row in range(len(taught))}
    rows = [of[codes] for codes in shown]
    assert len(rows) == len(set(rows)) == COUNT + COUNT // 3
    assert set(range(COUNT)) <= set(rows)
    shown.clear()
    for step in range(views.steps_per_epoch, 2 * views.steps_per_epoch):
        views.make_batch(step)
    assert [of[codes] for codes in shown] != rows


def test_every_pair_is_as_the_labels_say(taught, views, batches):
    whole = {taught.images[row].tobytes(): row for row in range(len(taught))}
    checked = {0: 0, 1: 0, -1: 0}
    for batch in batches:
        rows = [whole.get(image.numpy().tobytes()) for image in batch.images]
        assert sum(row is not None for row in rows) >= 3
        for text_number, text in enumerate(batch.texts):
            if not _is_phrase(text, views):
                continue
            for number, row in enumerate(rows):
                if row is not None:
                    truth = int(batch.truth[number, text_number])
                    _check(_places(_scene(row)), text, truth, own=batch.own_text[number] == text_number)
                    checked[truth] += 1
    assert min(checked.values()) > 5, checked


def _check(places, text, truth, own):
    """By reading the text, which the batch does not do."""
    for prefix in PREFIXES:  # "a picture of" speaks of no picture on a wall
        text = text.removeprefix(prefix + " ")
    parsed = parse_description(text)
    place = any(concept.kind == "setting" for concept in parsed.concepts)
    shows = evaluate_formula(
        parsed.terms[0][1], lambda concept: _has(places, concept).ravel(), places["colour"].size
    ).sum()
    if own:
        assert truth == 1
        assert shows > 0, text
    else:
        right = 1 if shows >= MIN_CONCEPT_PLACES else -1 if shows else 0
        assert truth == right or (place and truth == -1), (text, shows)  # a cover may leave all of a scene in sight


def _has(places, concept):
    return np.logical_or.reduce([places[kind] == name for kind, name in concept.members])


def test_sentences_are_true_of_their_own_scene_alone(views, batches):
    found = 0
    for batch in batches:
        for number, text in enumerate(batch.texts):
            if not _is_phrase(text, views):
                found += 1
                owners = (batch.own_text == number).nonzero().flatten()
                assert batch.truth[:, number].clamp_min(0).nonzero().flatten().tolist() == owners.tolist()
    assert found > 10


def test_concepts_of_whole_scenes(taught, batches):
    whole = {taught.images[row].tobytes(): row for row in range(len(taught))}
    for batch in batches[:2]:
        for image, shows in zip(batch.images, batch.has_concept, strict=True):
            row = whole.get(image.numpy().tobytes())
            if row is not None:
                places = _places(_scene(row))
                counts = [_has(places, concept).sum() for concept in list_concepts()]
                right = [1 if count >= MIN_CONCEPT_PLACES else -1 if count else 0 for count in counts]
                message = [concept.kind != "setting" for concept in list_concepts()]
                assert [one for one, sure in zip(shows.tolist(), message, strict=True) if sure] == [
                    one for one, sure in zip(right, message, strict=True) if sure
                ]


def test_the_main_thing_and_its_looks(taught, batches):
    whole = {taught.images[row].tobytes(): row for row in range(len(taught))}
    found = 0
    for batch in batches:
        for image, looks in zip(batch.images, batch.main_looks.tolist(), strict=True):
            row = whole.get(image.numpy().tobytes())
            if row is None:
                continue
            places = _places(_scene(row))
            counts = [(places["object"] == name).sum() for name in THINGS]
            if max(counts) < MIN_MAIN_PLACES:
                assert looks == [-1, -1, -1]
                continue
            found += 1
            assert counts[looks[0]] == max(counts)
            its = places["object"] == THINGS[looks[0]]
            for kind, look in zip(("colour", "pattern"), looks[1:], strict=True):
                shares = [(places[kind][its] == name).sum() for name in ALL_KINDS[kind]]
                assert shares[look] == max(shares)
    assert found > 20


def test_rivals_say_something_else_of_the_same(taught):
    views, rng = ImageTextBatches(taught, 16), np.random.default_rng(2)
    assert views._make_negative("there is a dog in a room", (), rng) == ("", ())
    text, named = views._make_negative("a red dog and a cat", (), rng)
    assert named == ()
    assert text != "a red dog and a cat"
    assert text.split()[1] in ALL_KINDS["colour"]
    assert text.replace(text.split()[1], "red") == "a red dog and a cat"
    pair = (get_concepts_by_name()["red"], get_concepts_by_name()["house"])
    for _ in range(20):
        text, named = views._make_negative("red houses", pair, rng)
        assert [concept.kind for concept in named] in ([], ["colour", "object"])
        assert sum(one != other for one, other in zip(named, pair, strict=False)) <= 1
        assert (text == "") == (named == ())
    assert views._make_negative("wheels", (get_concepts_by_name()["wheel"],), rng) == ("", ())


def test_names_asked_for_besides_are_judged_by_the_labels(taught):
    views, plain = ImageTextBatches(taught, 16, seed=3, names=8), ImageTextBatches(taught, 16, seed=3).make_batch(1)
    asking, numbers = views.make_batch(1), {concept.name: number for number, concept in enumerate(list_concepts())}
    assert asking.texts[: len(plain.texts)] == plain.texts
    assert torch.equal(asking.truth[:, : len(plain.texts)], plain.truth)
    assert 4 <= len(asking.texts) - len(plain.texts) <= 8
    for column in range(len(plain.texts), len(asking.texts)):
        text = asking.texts[column]
        for prefix in PREFIXES:
            text = text.removeprefix(prefix + " ")
        meant = [
            named[0].name
            for named, ways in views._phrases_by_concepts.items()
            if len(named) == 1 and {text, text.removeprefix("the ")} & {*ways}
        ]
        assert any(torch.equal(asking.truth[:, column], asking.has_concept[:, numbers[name]]) for name in meant), (
            text,
            meant,
        )


def test_crops_and_covers_show_what_their_labels_say(taught):
    views, rng = ImageTextBatches(taught, 16), np.random.default_rng(5)
    kinds = set()
    for row in [*range(0, len(taught), 3)] * 6:
        codes = taught.signatures.pixels[row]
        view = views._make_view(codes, rng)
        kinds.add((view.visible is not None, view.box[2] < 64))
        assert set(view.codes[view.codes >= 0]) <= set(codes.ravel())
        assert (view.codes >= 0).any()
        assert (view.codes < 0).any() <= (view.visible is not None)
        x, y, side = view.box
        assert min(x, y) >= 0
        assert max(x, y) + side <= 64.001
        pixels = views_module.render_views(torch.from_numpy(taught.images[row][None].copy()), [view], rng)
        if view.visible is not None and side == 64:
            covered = ~torch.from_numpy(view.visible.repeat(2, 0).repeat(2, 1))
            assert len(pixels[0][:, covered].unique()) <= 1
            assert torch.equal(pixels[0][:, ~covered], torch.from_numpy(taught.images[row].copy())[:, ~covered])
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


def test_a_crop_is_the_part_of_the_picture():
    """Of a picture whose pixels say where they are."""
    ramp = torch.arange(64).expand(64, 64)
    picture = torch.stack([ramp, ramp.T, ramp * 0]).to(torch.uint8)[None]
    view = SceneView(np.zeros((LABEL_GRID, LABEL_GRID), dtype=int), None, (16.0, 8.0, 32.0))
    seen = views_module.render_views(picture, [view], np.random.default_rng(0))[0].float()
    expected = (torch.arange(64) + 0.5) / 2 - 0.5
    assert (seen[0] - (16 + expected)).abs().max() <= 0.51
    assert (seen[1] - (8 + expected)[:, None]).abs().max() <= 0.51
    codes = np.arange(LABEL_GRID * LABEL_GRID).reshape(LABEL_GRID, LABEL_GRID)
    np.testing.assert_array_equal(views_module._crop_codes(codes, (16.0, 8.0, 32.0))[::2, ::2], codes[4:20, 8:24])
