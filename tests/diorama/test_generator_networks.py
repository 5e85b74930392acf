"""Diorama's generators: their latents are read as scenes are, they are trained alike twice, and what they draw is what
was asked for.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from milan.describers.annotators import simulate_annotations
from milan.diorama import DioramaImages
from milan.diorama.canvas import RGB
from milan.diorama.generator_networks import (
    BOX_NUMBERS,
    READ_SIZES,
    STAGE_WIDTHS,
    STAGES,
    SceneGenerator,
    render_placement,
)
from milan.diorama.label_signatures import KINDS
from milan.diorama.networks import GENERATORS, LAYERS, load_network
from milan.diorama.predicted_labels import predict_label_signatures
from milan.diorama.scene_vocabulary import COLOURS, PATTERNS, SETTINGS, THINGS
from milan.diorama.scenes import draw_scene
from milan.diorama_build.caption_dataset import CaptionDataset, load_caption_dataset
from milan.diorama_build.generator_training import (
    SceneFacts,
    evaluate_generator,
    fit_latent_reader,
    make_box_mask,
    sample_latents,
    train_generator,
    update_batch_norm,
)
from milan.dissection.dissect import dissect
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import read_unit_annotations
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import DioramaLabels, load_probe_labels
from milan.scores.truth_score import Truth
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.generator_target import GeneratorTarget
from milan.targets.loading import load_target

HOME = locate_packaged_data("data") / "diorama"


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> CaptionDataset:
    return load_caption_dataset(0, 60, tmp_path_factory.mktemp("training_set"), workers=1)


def test_facts_are_those_of_the_scenes(taught) -> None:
    facts = SceneFacts.from_dataset(taught, "objects")
    assert facts.rows.tolist() == list(range(60))
    alike = {"box": 0, "colour": 0, "pattern": 0}
    for place, row in enumerate(facts.rows.tolist()):
        scene = draw_scene(row)
        main = next(thing for thing in scene.objects if thing.name == scene.main)
        across, down, wide, high = facts.box[place].tolist()
        edges = [across - wide / 2, down - high / 2, across + wide / 2, down + high / 2]
        alike["box"] += np.allclose(edges, np.array(main.box) / 64, atol=2 / 64)
        assert THINGS[facts.label[place]] == scene.main
        assert SETTINGS[facts.read[place, 0]] == scene.setting
        shown = scene.labels["colour"][scene.instances == main.number]
        alike["colour"] += (shown == facts.read[place, 1].item() + 1).mean() > 0.2
        alike["pattern"] += PATTERNS[facts.read[place, 2]] in {"plain", *(pattern for _, _, pattern in main.parts)}
    assert min(alike.values()) >= 54, alike  # of 60: trees in forests hang together
    others = SceneFacts.from_dataset(taught, "scenes")
    assert [SETTINGS[label] for label in others.label[:5]] == [
        draw_scene(int(row) - 60, world="scenes").setting for row in others.rows[:5]
    ]


def test_latents_are_read_as_often_as_scenes_have_it(taught) -> None:
    facts = SceneFacts.from_dataset(taught, "objects")
    generator = SceneGenerator("objects")
    fit_latent_reader(generator, facts)
    label = int(facts.label.bincount().argmax())
    of_class = facts.label == label
    assert of_class.sum() > BOX_NUMBERS
    with torch.no_grad():
        box, read = generator.read(
            sample_latents(generator, torch.full((4_000,), label), torch.Generator().manual_seed(0))
        )
    assert (box[:, :2] - box[:, 2:] / 2 > -1e-5).all()  # the whole box lies in the picture
    assert (box[:, :2] + box[:, 2:] / 2 < 1 + 1e-5).all()
    assert np.allclose(box[:, 2:].mean(0), facts.box[of_class][:, 2:].mean(0), atol=0.03)
    for at in range(len(READ_SIZES)):
        size = int(max(read[:, at].max(), facts.read[of_class, at].max())) + 1
        found = read[:, at].bincount(minlength=size) / 4_000
        assert np.allclose(found, facts.read[of_class, at].bincount(minlength=size) / of_class.sum(), atol=0.03)


def test_what_is_told_of_places() -> None:
    box, inks = torch.tensor([[0.25, 0.5, 0.5, 1.0]]), torch.tensor([[1.0, -1.0, 0.5, 0.0, 0.0, 0.0]])
    here = render_placement(box, inks, torch.arange(2.0).view(1, 1, 1, 2).expand(1, 24, 16, 2).contiguous(), 16)
    assert here.shape == (1, 35, 16, 16)
    assert here[0, 0, 3].tolist() == pytest.approx([(2 * at + 1) / 16 - 1 for at in range(16)])
    assert here[0, 2, 8, 3] > 0.9 > 0.1 > here[0, 2, 8, 12]  # within the left half
    assert here[0, 5, 8, 3] > 0.9
    assert here[0, 6, 8, 3] < -0.9
    assert here[0, 20, 8, 1] < 0.2 < 0.8 < here[0, 20, 8, 6]  # the stamp grows from left to right in the box
    assert not here[0, 20, 8, 12]
    assert make_box_mask(box, 4)[0, 0].tolist() == [[1, 1, 0, 0]] * 4


def test_training_twice_makes_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "networks").symlink_to(HOME / "networks")
    for run in ("a", "b"):
        (tmp_path / run / "networks").mkdir(parents=True)
        for name in ("encoder", "resnet-scenes"):
            (tmp_path / run / "networks" / f"{name}.safetensors").symlink_to(HOME / "networks" / f"{name}.safetensors")
        measured = train_generator("scenes", tmp_path / run / "networks", tmp_path / "work", steps=2, scenes=60)
        assert set(measured) == {"recognised", "least"}
    first, second = ((tmp_path / run / "networks" / "generator-scenes.safetensors").read_bytes() for run in ("a", "b"))
    assert first == second
    kept = json.loads((tmp_path / "a" / "networks" / "generator-scenes.json").read_text())
    assert kept["drawn"] == measured
    assert kept["units"] == dict(zip(STAGES, STAGE_WIDTHS, strict=True))


def test_an_untrained_generator_is_not_recognised() -> None:
    torch.manual_seed(0)
    generator = SceneGenerator("objects")
    update_batch_norm(generator, 0, 1)
    assert evaluate_generator(generator, "objects", 70)["recognised"] < 15


def test_pictures_are_judged_as_scenes_are_known(tmp_path: Path) -> None:
    """The labeller looks at scenes whose labels are known."""
    images = DioramaImages("objects", length=20)
    pixels = torch.from_numpy(np.stack([images.image(index) for index in range(20)]))
    signatures = predict_label_signatures(pixels.split(8), "a test", tmp_path)
    shown = signatures.table[signatures.pixels]
    for kind, least in (("colour", 0.95), ("object", 0.85), ("setting", 0.9)):
        truth = np.stack([images.scene(index).labels.get(kind, np.zeros((64, 64), int)) for index in range(20)])
        if kind == "setting":
            truth += np.array([SETTINGS.index(images.scene(index).setting) + 1 for index in range(20)])[:, None, None]
        assert (shown[..., KINDS.index(kind)] == truth).mean() > least
    again = predict_label_signatures(iter([]), "a test", tmp_path)  # found, not judged again
    assert np.array_equal(again.table[again.pixels], shown)


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_draw_what_they_are_asked_for(name: str) -> None:
    world = name.partition("-")[2]
    kept = json.loads((HOME / "networks" / f"{name}.json").read_text())
    assert kept["drawn"]["recognised"] >= 60
    generator = load_network(name)
    assert isinstance(generator, SceneGenerator)
    again = evaluate_generator(generator, world, 140)["recognised"]
    assert abs(again - kept["drawn"]["recognised"]) < 12
    assert (HOME / "networks" / f"{name}.safetensors").stat().st_size < 2.1e6
    assert list(kept["units"]) == LAYERS[name]


@pytest.mark.parametrize("name", GENERATORS)
def test_the_probe_is_the_generators_own_pictures(name: str) -> None:
    target = load_target(f"diorama:{name}")
    assert isinstance(target, GeneratorTarget)
    probe = load_probe(target.generated_probe_spec)
    assert (probe.spec, probe.size, len(probe)) == (f"latents:diorama:{name}", 64, 3_000)
    judge = load_network(f"resnet-{name.partition('-')[2]}")
    from milan.diorama.scene_classifiers import normalize_images

    pictures = torch.stack([probe.image(index) for index in range(70)])
    with torch.no_grad():
        right = judge(normalize_images(pictures)).argmax(1) == torch.tensor(probe.labels[:70])
    assert right.float().mean() > 0.5
    assert isinstance(load_probe_labels(probe), DioramaLabels)


def test_a_latent_moves_the_thing() -> None:
    """The first latent is where the main thing is from left to right."""
    generator = load_network("generator-objects")
    rows = sample_latents(generator, torch.full((2,), THINGS.index("ball")), torch.Generator().manual_seed(3))
    rows[1] = rows[0]
    rows[:, :BOX_NUMBERS] = 0
    rows[0, 0], rows[1, 0] = -1.5, 1.5
    with torch.no_grad():
        box, _ = generator.read(rows)
        left, right = generator(rows)
    assert box[0, 0] < box[1, 0] - 0.1
    change = (left - right).abs().mean((0, 1))
    places = torch.arange(64)[change > 0.5 * change.max()]
    assert places.min() / 64 < box[0, 0] + 0.1
    assert places.max() / 64 > box[1, 0] - 0.1


def test_dissecting_a_generator_measures_what_its_units_draw(tmp_path: Path) -> None:
    target = load_target("diorama:generator-objects")
    probe = load_probe("latents:diorama:generator-objects", limit=90)
    layer = STAGES[3]
    dissection = dissect(target, probe, [layer], tmp_path / "d", units={layer: range(12)})[layer]
    units = dissection.active_units()
    said = {unit: simulate_annotations(dissection, unit) for unit in units}
    truth = Truth.measure(dissection, target, tmp_path / "work")
    true = np.nanmean([truth.score(unit, text) for unit in units for text in said[unit]])
    turned = np.nanmean(
        [
            truth.score(unit, text)
            for unit, other in zip(units, units[1:] + units[:1], strict=True)
            for text in said[other]
        ]
    )
    assert true > turned


@pytest.mark.parametrize("name", GENERATORS)
def test_every_unit_has_three_descriptions_and_its_own_pictures(name: str) -> None:
    folder = HOME / "annotations" / name
    said = read_unit_annotations(folder)
    assert len(said) > 0.9 * sum(STAGE_WIDTHS)
    assert all(len(texts) == 3 and all(text == text.lower().strip() for text in texts) for texts in said.values())
    dissection = load_dissection(folder / "stage3")
    assert (dissection.target, dissection.probe) == (f"diorama:{name}", f"latents:diorama:{name}")
    exemplars = dissection.exemplars(dissection.units[0])
    made = Probe.from_generator(load_target(f"diorama:{name}")).image(int(exemplars.ids[4]))  # type: ignore[arg-type]
    assert int((exemplars.images[4].int() - made.int()).abs().max()) <= 1


def test_colours_are_read_as_they_are_painted() -> None:
    inks = SceneGenerator("scenes").inks
    assert torch.allclose((inks + 1) * 127.5, torch.tensor([RGB[colour] for colour in COLOURS]).float())
