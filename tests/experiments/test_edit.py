"""Editing on a network set by hand that takes white plates for its first class, and what is built and trained for
images of anyone's.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from milan.errors import BadInput
from milan.experiments.core.config import DissectionOptions
from milan.experiments.core.study import Study
from milan.experiments.edit.config import ClassifierTraining, EditConfig, Lettering
from milan.experiments.edit.edit import edit
from milan.experiments.edit.lettering import build_tables, write_name
from milan.experiments.edit.spurious_networks import SpuriousNetwork
from milan.experiments.edit.tables import make_report
from milan.experiments.edit.torchvision_classifier import ClassifierModule, train_classifier
from milan.experiments.edit.unit_removal import (
    ALL_UNITS,
    PLAIN,
    TEXT_UNITS,
    TEXT_UNITS_BY_LETTERED,
    AccuracyWithoutUnit,
    _make_orders,
    make_unit_views,
    measure_removal,
)
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import load_probe_labels
from milan.targets.loading import load_target
from milan.targets.preprocessing import TargetOptions
from milan.targets.target import Target
from milan.units import Unit
from tests.experiments.test_bench import options


class Colours(nn.Module):
    """Units for red, for green and for white; white counts for the first class as much as the network was spoilt."""

    def __init__(self, network: float) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1)
        self.look.weight.data = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [1, 1, 1]])[:, :, None, None]
        self.look.bias.data = torch.tensor([0.0, 0, -2])
        self.looks = nn.ReLU()
        self.answer = nn.Linear(3, 2, bias=False)
        self.answer.weight.data = torch.tensor([[1.0, 0, network], [0, 1, 0]])

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.looks(self.look(images)).mean((2, 3)))


def network(network: float) -> Target:
    return Target(Colours(network), name=f"spoilt {network}", image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pictures(plates: str) -> Probe:
    """Four red and four green pictures; those of the classes named carry a white plate in a corner."""
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    for place in range(8):
        images[place, place % 2] = 200 + place
        if str(place % 2) in plates:
            images[place, :, :16, :16] = 255
    return Probe.from_tensor(images, [place % 2 for place in range(8)], ["red", "green"])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("edit")
    plain, both = pictures(""), pictures("01")
    networks, own = (network(9.0), network(0.0)), pictures("0")
    spoilt = SpuriousNetwork(*networks, both, plain, both, own, plain, both, "made by hand", "", ("looks",))
    study = Study(spoilt.target, both, folder, DissectionOptions(layers=["looks"], k=3, quantile=0.9), "edit")
    study.describe(options(folder, "words", "red;textured things;the text of words"))
    return measure_removal(spoilt, study, EditConfig(words=["text", "words"], max_units=4, random_orders=2))


def test_removing_the_text_unit_restores_accuracy(found) -> None:
    one = found
    assert one.text_units == [Unit("looks", 2)]  # "textured" is no text
    assert one.importance == {
        Unit("looks", 0): 1.0,
        Unit("looks", 1): 0.5,
        Unit("looks", 2): 1.0,
    }  # of no answer, the first class is one
    assert one.adversarial[TEXT_UNITS].mean(1).tolist() == [0.5, 1.0]
    assert one.in_distribution[TEXT_UNITS].mean(1).tolist() == [
        1.0,
        1.0,
    ]  # plates on the first class only mislead nobody
    assert (one.find_stop(TEXT_UNITS), one.find_stop(PLAIN), one.best_step) == (1, 1, 1)
    report = make_report(one)
    rows = {row.name: row.values for row in report.tables[0].rows}
    stopped = rows["text units, the paper's stop"]
    assert (stopped["removed"], stopped["gain"].value, stopped["of the gap"].value) == (1, 0.5, 1.0)
    assert rows["nothing"]["plain"].value == 1.0
    assert len(report.figures) == 2
    assert make_unit_views(one)[0][1]["said"][2]["text"] == "100.0 % accuracy on images with names of random classes"


def test_the_papers_order_and_stop_are_by_held_out_training_images(found) -> None:
    one = found
    red, green, white = (Unit("looks", index) for index in range(3))
    alike, plain = {red: 0.9, green: 0.5, white: 0.7}, {red: 0.5, green: 0.9, white: 0.7}
    ranked = AccuracyWithoutUnit(alike, plain, {red: 0.5, green: 0.7, white: 0.9})
    orders = _make_orders(one.study, ranked, [], EditConfig(words=["red", "things", "text"], random_orders=0))
    assert orders[TEXT_UNITS] == orders[ALL_UNITS] == [red, white, green]
    assert (orders[PLAIN], orders[TEXT_UNITS_BY_LETTERED]) == ([green, white, red], [white, green, red])
    falls = np.array([[True] * 8, [True] * 4 + [False] * 4])
    rises = falls[::-1].copy()
    stopped = replace(one, in_distribution={TEXT_UNITS: falls}, validation=rises)
    assert (stopped.find_stop(TEXT_UNITS), stopped.find_stop(PLAIN)) == (0, 1)


def test_no_text_unit_is_an_error(found) -> None:
    one = found
    with pytest.raises(BadInput, match=r"none of 3 descriptions .* zebra"):
        measure_removal(one.network, one.study, EditConfig(words=["zebra"]))


@pytest.mark.parametrize(("place", "corner"), [("top-left", (0, 0)), ("bottom-right", (63, 63))])
def test_names_are_written_into_a_corner(place: str, corner: tuple[int, int]) -> None:
    grey = Image.new("RGB", (64, 64), (90, 90, 90))
    written = write_name(grey, "cat", Lettering(place=place, height=0.2), np.random.default_rng(0))
    shown = np.asarray(written.picture)
    changed = (shown != 90).any(2)
    assert (written.plate >= changed).all()
    assert changed[corner[1], corner[0]]
    assert 60 < changed.sum() < 64 * 20  # a plate, no more than a fifth of the height
    assert (shown[changed] < 60).any()  # with letters on it
    long = np.asarray(
        write_name(grey, "a name that is much too long for it", Lettering(height=0.2), np.random.default_rng(0)).picture
    )
    assert (long != 90).any(2).sum(0).max() < (shown != 90).any(2).sum(0).max()  # written smaller


def test_built_images(tmp_path: Path) -> None:
    images = Probe.from_tensor(
        torch.full((80, 3, 32, 32), 90, dtype=torch.uint8), [place % 2 for place in range(80)], ["cat, big", "dog"]
    )
    how = Lettering(height=0.4, held_out=0.2)
    files = build_tables(images, None, tmp_path, how)
    probes = {name: load_probe(str(file), size=32) for name, file in files.items()}
    counts = {name: len(probe) for name, probe in probes.items()}
    assert counts == {"plain/train": 48, "plain/validation": 16, "plain/test": 16, "lettered/train": 48,
        "lettered/validation": 16,
                      "adversarial/validation": 16, "adversarial/test": 16}  # fmt: skip
    shown = probes["lettered/train"]
    assert shown.classes == ["cat, big", "dog"]
    lettered = [index for index in range(48) if (shown.image(index) != 90).any()]
    assert 12 < len(lettered) < 36  # half of them
    by_class = [
        {shown.image(index).numpy().tobytes() for index in lettered if shown.labels[index] == label} for label in (0, 1)
    ]
    assert [len(different) for different in by_class] == [1, 1]  # each class carries its own name
    labels = load_probe_labels(shown)
    assert labels.concepts == ["photograph", "text"]
    for index in range(48):
        plate, changed = labels.load([index])[0, 0] == 1, (shown.image(index) != 90).any(0)
        assert (plate >= changed).all()
        assert plate.sum() - changed.sum() < 5  # a grey of smooth letters may be the image's own
    tests = probes["adversarial/test"]
    assert len({tests.image(index).numpy().tobytes() for index in range(8)}) == 2  # cats carry either name
    before = files["plain/train"].stat().st_mtime_ns
    assert build_tables(images, None, tmp_path, how) == files
    assert files["plain/train"].stat().st_mtime_ns == before  # not written again
    files["plain/train"].write_bytes(b"damaged")
    assert len(load_probe(str(build_tables(images, None, tmp_path, how)["plain/train"]), size=32)) == 48
    with pytest.raises(BadInput, match="no font there"):
        build_tables(images, None, tmp_path / "other", Lettering(font="no font there"))


def test_editing_on_a_folder_of_images(tmp_path: Path) -> None:
    for place in range(24):
        home = tmp_path / "photos" / ("red", "green")[place % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32), ((200, 0, 0), (0, 200, 0))[place % 2]).save(home / f"{place}.png")
    said = options(tmp_path, "said", "text;a letter;red things;words")
    given = {
        "layers": ["features.0"],
        "max_units": 3,
        "random_orders": 1,
        "k": 2,
        "quantile": 0.9,
        "out": tmp_path / "out",
    }
    how, training = Lettering(height=0.3, held_out=0.2), ClassifierTraining("squeezenet1_1", epochs=1, batch_size=8)
    report = edit(
        EditConfig(
            images=str(tmp_path / "photos"),
            target_options=TargetOptions(image_size=32),
            describer=said,
            lettering=how,
            training=training,
            **given,
        )
    )
    rows = {row.name: row.values for row in report.tables[0].rows}
    assert rows["text units, max_units"]["removed"] == 3
    assert set(rows) >= {"nothing", "random, as many", "all units, sorted, as many", "the network trained without text"}
    assert {row.name: row.values["named"] for row in report.tables[1].rows} == {"features.0": 3}
    assert (tmp_path / "out" / "page" / "figure-1.svg").is_file()
    page = (tmp_path / "out" / "page" / "index.html").read_text()
    assert page.count('<article class="case"') == 3


def test_a_network_of_the_users_own_is_edited_by_the_pixels_of_the_text(tmp_path: Path) -> None:
    """White pixels count for the first class, and so does lettering, whose plates are white."""
    for place in range(24):
        home = tmp_path / "photos" / ("a red", "b green")[place % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), ((200, 0, 0), (0, 200, 0))[place % 2]).save(home / f"{place}.png")
    (tmp_path / "own.py").write_text(
        "from tests.experiments.test_edit import network\ndef spoilt():\n    return network(40.0)\n"
    )
    report = edit(
        EditConfig(
            images=str(tmp_path / "photos"),
            target=f"{tmp_path / 'own.py'}:spoilt",
            layers=["looks"],
            describer="netdissect:quantile=0.9,least_images=1",
            min_score=0.2,
            lettering=Lettering(height=0.4),
            max_units=2,
            random_orders=0,
            k=2,
            quantile=0.9,
            out=tmp_path / "out",
        )
    )
    rows = {row.name: row.values for row in report.tables[0].rows}
    assert "the network trained without text" not in rows
    assert "of the gap" not in [column.name for column in report.tables[0].columns]
    assert rows["nothing"]["adversarial"].value == 0.5  # all red
    edited = rows["text units, max_units"]
    assert (edited["removed"], edited["adversarial"].value, edited["plain"].value) == (1, 1.0, 1.0)
    sources = report.sources
    assert "clean network" not in sources


def test_the_best_weights_are_kept_and_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, seen = pictures("0"), []
    losses = iter([0.9, 0.5, 0.7, 0.8] * 2)

    def validate(self: ClassifierModule, batch: object, _index: int) -> None:
        seen.append(self.model.state_dict()["fc.weight"].clone())
        self.log(self.metric, torch.tensor(next(losses)), batch_size=8)

    monkeypatch.setattr(ClassifierModule, "validation_step", validate)
    how = ClassifierTraining("resnet18", epochs=9, patience=2, batch_size=8)
    home = tmp_path / "red and green"
    spec, weights = train_classifier(images, images, how, home)
    assert len(seen) == 4  # two epochs without a smaller loss
    target = load_target(spec, weights=weights)
    assert torch.equal(target.core.fc.weight, seen[1])
    assert not torch.equal(seen[1], seen[3])
    assert (target.image_size, target.core.fc.out_features) == (32, 2)
    assert sorted(file.name for file in home.iterdir()) == ["network.json", "network.py", "network.safetensors"]
    assert train_classifier(images, images, how, home) == (spec, weights)
    weights.write_bytes(weights.read_bytes()[:-1])
    train_classifier(images, images, how, home)
    assert len(seen) == 8  # it is trained anew
    with pytest.raises(BadInput, match="no_such_net"):
        train_classifier(images, images, replace(how, architecture="no_such_net"), tmp_path / "other")
