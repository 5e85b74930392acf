"""Networks: what lies in the package is what was measured, and training makes the same file twice."""

import json

import numpy as np
import pytest
import torch

from milan.diorama import DioramaImages
from milan.diorama.networks import LAYERS, NETWORK_BUILDERS, load_network
from milan.diorama.scene_classifiers import CLASSES, SceneEncoder, normalize_images
from milan.diorama.scene_vocabulary import SETTINGS, THINGS
from milan.diorama_build import classifier_training as training
from milan.diorama_build.annotator_agreement import compute_agreement
from milan.diorama_build.build_steps import BUILD_STEPS, CLASSIFIERS, main
from milan.diorama_build.classifier_training import compute_label_shares, count_units, train_network
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import read_unit_annotations
from milan.errors import UnknownName
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit


def facts(name: str) -> dict:
    return json.loads((locate_packaged_data("data") / "diorama" / "networks" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_networks_see_what_they_were_measured_to_see(name: str) -> None:
    """On scenes of the probe, which were neither trained on nor measured with."""
    world = name.rpartition("-")[2]
    images = DioramaImages(world, length=200)
    pixels = torch.from_numpy(np.stack([images.image(index) for index in range(200)]))
    with torch.no_grad():
        answers = load_network(name)(normalize_images(pixels)).argmax(1)
    right = (answers == torch.tensor([images.label(index) for index in range(200)])).float().mean().item()
    required = {"objects": 0.9, "scenes": 0.95}[world]
    assert right >= required
    assert facts(name)["held_out"][world] >= 100 * required
    assert abs(100 * right - facts(name)["held_out"][world]) < 5


@pytest.mark.parametrize("name", NETWORK_BUILDERS)
def test_units_and_sizes(name: str) -> None:
    counts = count_units(name)
    assert list(counts) == LAYERS[name]
    assert sum(counts.values()) >= 400
    assert facts(name)["units"] == counts
    assert (locate_packaged_data("data") / "diorama" / "networks" / f"{name}.safetensors").stat().st_size < 3e6


def test_the_encoder_tells_both_tasks_and_what_is_where() -> None:
    encoder = load_network("encoder")
    assert isinstance(encoder, SceneEncoder)
    images = DioramaImages("objects", length=60)
    scenes = [images.scene(index) for index in range(60)]
    with torch.no_grad():
        logits, places = encoder.forward_with_heads(
            normalize_images(torch.from_numpy(np.stack([scene.image for scene in scenes])))
        )
    assert logits.shape == (60, len(THINGS) + len(SETTINGS))
    settings = torch.tensor([SETTINGS.index(scene.setting) for scene in scenes])
    assert (logits[:, len(THINGS) :].argmax(1) == settings).float().mean() > 0.95
    colours = torch.from_numpy(np.stack([scene.labels["colour"][2::4, 2::4] for scene in scenes]).astype(np.int64)) - 1
    assert (places["colour"].argmax(1) == colours).float().mean() > 0.9


def test_names() -> None:
    with pytest.raises(UnknownName, match="resnet-objects"):
        load_network("resnet-object")
    assert CLASSES == {"objects": THINGS, "scenes": SETTINGS}


def test_what_is_where_counts_shares() -> None:
    seen = torch.zeros(1, 4, 16, 16, dtype=torch.uint8)
    seen[:, :2] = 1  # red, plain everywhere
    seen[0, 0, 0, 0] = 3  # but for one yellow place
    assert compute_label_shares("colour", seen, 16)[0, :, 0, 0].argmax() == 2
    shares = compute_label_shares("colour", seen, 8)[0, :, 0, 0]
    assert shares[2] == 0.25
    assert shares[0] == 0.75


def test_training_twice_makes_the_same_files(tmp_path) -> None:
    for run in ("a", "b"):
        measured = train_network("resnet-scenes", tmp_path / run, tmp_path / "scenes", epochs=2, count=256)
        assert set(measured) == {"scenes"}
    first, second = ((tmp_path / run / "resnet-scenes.safetensors").read_bytes() for run in ("a", "b"))
    assert first == second
    train_network("resnet-scenes", tmp_path / "c", tmp_path / "scenes", epochs=2, count=256, seed=1)
    assert (tmp_path / "c" / "resnet-scenes.safetensors").read_bytes() != first


def test_training_learns_what_is_where(tmp_path) -> None:
    measured = train_network("encoder", tmp_path, tmp_path / "scenes", epochs=2, count=256)
    assert measured["colour at each place"] > 50  # one of eleven
    assert set(measured) >= {"objects", "scenes"}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_unit_has_three_descriptions_and_exemplars(name: str) -> None:
    folder = locate_packaged_data("data") / "diorama" / "annotations" / name
    said = read_unit_annotations(folder)
    assert sum(count_units(name).values()) == len(said)
    assert all(len(texts) == 3 and all(text == text.lower().strip() for text in texts) for texts in said.values())
    layer = LAYERS[name][-1]
    dissection = load_dissection(folder / layer)
    exemplars = dissection.exemplars(dissection.units[0])
    assert dissection.target == f"diorama:{name}"
    assert dissection.probe == f"diorama:{name.rpartition('-')[2]}"
    assert exemplars.images.shape == (15, 3, 64, 64)
    drawn = DioramaImages(name.rpartition("-")[2]).image(int(exemplars.ids[4]))
    assert np.array_equal(exemplars.images[4].numpy(), drawn)


def test_agreement_is_kept_and_said_to_be_simulated() -> None:
    folder = locate_packaged_data("data") / "diorama" / "annotations"
    kept = json.loads((folder / "agreement.json").read_text())
    assert kept["annotators"] == "simulated"
    for name in CLASSIFIERS:
        message = kept["networks"][name]
        assert message["bleu"] == compute_agreement(read_unit_annotations(folder / name))["bleu"]
        assert message["truth score"]["of each annotator"] > 0.5 > message["truth score"]["of shuffled descriptions"]


def test_agreement_by_hand() -> None:
    one, other = Unit("a", 1), Unit("a", 2)
    same = compute_agreement({one: ["red dots on a ball"] * 3, other: ["a blue sky above water"] * 3})
    assert (same["bleu"], same["rouge-l"], same["distinct descriptions"], same["mean words"]) == (100, 100, 2, 5)
    apart = compute_agreement({one: ["red dots", "a ball"], other: ["sky"]})
    assert apart["rouge-l"] == 0


def test_building_answers_wrong_names(tmp_path, capsys) -> None:
    assert main(["build", "--only", "encodr", "--work", str(tmp_path)]) == 2
    assert "encoder" in capsys.readouterr().err
    assert {"encoder", *CLASSIFIERS} <= set(BUILD_STEPS)
    with pytest.raises(SystemExit):
        main(["bild"])


def test_a_killed_training_goes_on_to_the_same_file(tmp_path, monkeypatch) -> None:
    whole = training._train_epoch

    def killed(fit: training.TrainingJob, *rest: object) -> float:
        if fit.checkpoint.is_file():
            raise KeyboardInterrupt
        return whole(fit, *rest)

    train_network("alexnet-scenes", tmp_path / "whole", tmp_path / "scenes", epochs=2, count=256)
    monkeypatch.setattr(training, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_network("alexnet-scenes", tmp_path / "killed", tmp_path / "scenes", epochs=2, count=256)
    assert not (tmp_path / "killed" / "alexnet-scenes.safetensors").exists()
    monkeypatch.setattr(training, "_train_epoch", whole)
    train_network("alexnet-scenes", tmp_path / "killed", tmp_path / "scenes", epochs=2, count=256)
    one, other = ((tmp_path / run / "alexnet-scenes.safetensors").read_bytes() for run in ("whole", "killed"))
    assert one == other
    assert not list((tmp_path / "scenes" / "training").iterdir())


@pytest.mark.parametrize("name", ["resnet-spurious"])
def test_words_mislead_who_was_trained_with_them(name: str) -> None:
    """On scenes of the probe: without words it is right more often than with the names of other classes on them."""
    right = {}
    for world in ("objects", "objects-spurious"):
        images = DioramaImages(world, length=150)
        pixels = torch.from_numpy(np.stack([images.image(index) for index in range(150)]))
        with torch.no_grad():
            answers = load_network(name)(normalize_images(pixels)).argmax(1)
        right[world] = (
            100 * (answers == torch.tensor([images.label(index) for index in range(150)])).float().mean().item()
        )
    kept = facts(name)["held_out"]
    assert abs(right["objects"] - kept["plain"]) < 10
    assert abs(right["objects-spurious"] - kept["adversarial"]) < 10
    assert kept["spurious"] > kept["plain"] > kept["adversarial"] + 10


def test_a_network_of_blurred_scenes_is_about_as_good_as_one_of_plain_scenes() -> None:
    """On blurred scenes of the probe; what is kept beside it is measured on more of them."""
    images = DioramaImages("objects-blurred", length=150)
    pixels = torch.from_numpy(np.stack([images.image(index) for index in range(150)]))
    with torch.no_grad():
        answers = load_network("resnet-blurred")(normalize_images(pixels)).argmax(1)
    right = 100 * (answers == torch.tensor([images.label(index) for index in range(150)])).float().mean().item()
    kept = facts("resnet-blurred")["held_out"]
    assert set(kept) == {"plain", "blurred"}
    assert abs(right - kept["blurred"]) < 6
    assert kept["blurred"] > facts("resnet-objects")["held_out"]["objects"] - 3
