"""SAND: what it masks, what it compares, and on the toy world what its colours say."""

import json

import pytest
import torch

from milan import Unit, check_describer, load_dissection
from milan.describers._shared.contract import UNITS, make_toy_dissection
from milan.describers.sand import make_peak_masks, mask_images
from milan.diorama.scene_vocabulary import COLOURS as ALL_COLOURS
from milan.dissection.masks import fill_empty_masks, masks_from_maps
from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from tests.describers.colour_embedder import ColourEmbedder
from tests.describers.makers import COLOURS, load_simulated


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


@pytest.fixture
def sand(cache, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("green\nblue\nred\nyellow\nmagenta\nnothing\n")

    def make(**settings):
        return load_simulated("sand", **{"embedder": COLOURS, "concepts": str(words), "prompts": "plain"} | settings)

    return make


@pytest.mark.filterwarnings("ignore:SAND is built")
@pytest.mark.parametrize(
    "settings", [{"threshold": "peak"}, {"threshold": "dissection", "outside": "grey"}, {"outside": "mean", "eta": 0.0}]
)
def test_the_contract_is_kept(settings, sand, toys):
    check_describer(lambda: sand(**settings), toys)


def test_the_colours_of_the_toy_world_are_found_and_what_is_inferred_is_told(sand, toys):
    with pytest.warns(MilanWarning, match="inferred are"):
        said = {UNITS[each.unit.index]: each for each in sand().describe(toys, toys.units)}
    assert [said[colour].text for colour in ("red", "green", "blue")] == ["red", "green", "blue"]
    assert said["red"].candidates[0].text == "red"
    assert 0.9 < said["red"].score <= 1


@pytest.mark.filterwarnings("ignore:SAND is built")
def test_the_score_is_the_mean_cosine_of_the_masked_exemplars(sand, toys):
    unit = Unit("answers", 6)
    said = next(iter(sand().describe(toys, [unit])))
    embedder = ColourEmbedder()
    exemplars = toys.exemplars(unit)
    shown = exemplars.images * make_peak_masks(toys.maps(unit), 0.10, 64)
    for each in said.candidates:
        cosine = float((embedder.encode_images(shown) @ embedder.encode_texts([each.text])[0]).mean())
        assert each.score == pytest.approx(cosine, abs=1e-5)
    assert [each.score for each in said.candidates] == sorted((each.score for each in said.candidates), reverse=True)


def test_a_place_belongs_to_the_mask_above_a_share_of_its_images_peak():
    maps = torch.tensor([[[1.0, 10.0], [0.0, 0.5]], [[0.2, 0.2], [0.2, 0.2]], [[-4.0, -1.0], [-2.0, -3.0]]])
    masks = make_peak_masks(maps, 0.10, 2)
    assert masks[:, 0].int().tolist() == [
        [[0, 1], [0, 0]],
        [[1, 1], [1, 1]],
        [[1, 1], [1, 1]],
    ]  # 1 is not above 0.1 of 10
    assert make_peak_masks(maps, 0.04, 2)[0, 0].tolist() == [[True, True], [False, True]]


def test_what_lies_outside_turns_one_colour():
    images = torch.tensor([[[[100, 200]], [[0, 50]], [[10, 10]]]], dtype=torch.uint8)
    masks = torch.tensor([[[[True, False]]]])
    assert mask_images(images, masks)[0, :, 0].tolist() == [[100, 0], [0, 0], [10, 0]]
    assert mask_images(images, masks, "grey")[0, :, 0].tolist() == [[100, 128], [0, 128], [10, 128]]
    assert mask_images(images, masks, "mean")[0, :, 0].tolist() == [[100, 150], [0, 25], [10, 10]]


def test_a_concept_is_the_mean_of_its_prompts(sand, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("{} red\n\n{} blue\n")
    describer = sand(prompts=str(prompts))
    embedder = ColourEmbedder()
    expected = torch.nn.functional.normalize(
        embedder.encode_texts(["green red"]) + embedder.encode_texts(["green blue"]), dim=1
    )
    assert torch.allclose(describer.concept_embeddings[0], expected[0], atol=1e-6)


def test_the_ensemble_has_twenty_prompts_each_once(sand):
    templates = sand(prompts="sand").templates
    assert len(set(templates)) == 20
    assert all(template.count("{}") == 1 for template in templates)


@pytest.mark.parametrize("lines", ["", "a picture\n", "a {}\nbare\n"])
def test_prompts_without_a_hole_are_refused(sand, tmp_path, lines):
    (tmp_path / "prompts.txt").write_text(lines)
    with pytest.raises(BadInput, match=r"needs \{\} for the concept"):
        _ = sand(prompts=str(tmp_path / "prompts.txt")).templates


def test_settings_that_change_answers_are_in_the_key(sand):
    assert (
        len(
            {
                sand(**each).key
                for each in ({}, {"eta": 0.2}, {"threshold": "dissection"}, {"outside": "grey"}, {"prompts": "sand"})
            }
        )
        == 5
    )
    assert sand(device="cpu").key == sand().key


def test_eta_is_a_share():
    with pytest.raises(BadInput, match=r"eta is 1\.5"):
        load_simulated("sand", eta=1.5)


@pytest.mark.filterwarnings("ignore:SAND is built")
def test_without_maps_the_dissections_own_masks_may_serve(sand, toys, tmp_path):
    folder = tmp_path / "released" / "answers"
    folder.mkdir(parents=True)
    import numpy as np

    exemplars = [toys.exemplars(unit) for unit in toys.units]
    np.save(folder / "images.npy", np.stack([each.images.numpy() for each in exemplars]))
    np.save(folder / "masks.npy", np.stack([each.masks.numpy().astype(np.uint8) for each in exemplars]))
    np.savetxt(folder / "ids.csv", np.stack([each.ids.numpy() for each in exemplars]), fmt="%d", delimiter=",")
    np.savetxt(folder / "activations.csv", np.stack([each.activations.numpy() for each in exemplars]), delimiter=",")
    released = load_dissection(folder)
    with pytest.raises(MissingEvidence, match="no activation maps"):
        list(sand().describe(released, [Unit("answers", 0)]))
    assert next(iter(sand(threshold="dissection").describe(released, [Unit("answers", 0)]))).text == "red"


@pytest.mark.filterwarnings("ignore:SAND is built")
def test_its_concepts_may_be_a_harvest_of_captions(cache, toys, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(
        json.dumps({"annotations": [{"caption": f"A {colour} car."} for colour in ALL_COLOURS for _ in range(3)]})
    )
    describer = load_simulated("sand", embedder=COLOURS, concepts=f"harvest:{captions}", prompts="plain")
    assert {"red", "red car", "car"} <= set(describer.concept_names)
    assert next(iter(describer.describe(toys, [Unit("answers", 0)]))).text in ("red", "red car")


def test_a_dissections_maps_are_those_its_masks_are_made_from(toys):
    for unit in toys.active_units():
        masks = masks_from_maps(toys.maps(unit), float(toys.thresholds()[toys.row_of(unit)]), 64)
        assert (fill_empty_masks(masks)[:, None] == toys.exemplars(unit).masks).all()
    with pytest.raises(UnknownName, match="unknown unit 'answers:99'"):
        toys.maps(Unit("answers", 99))
