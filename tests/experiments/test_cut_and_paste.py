"""Cut-and-paste images on a network set by hand, one unit of which answers to red and to blue and speaks for
red alone.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from milan.errors import BadInput
from milan.experiments.core.described_network import DescribedNetwork, DescriptionConfig
from milan.experiments.cut_and_paste.attacks import AttackConfig, attack_unit, find_either_or_units, make_unit_views
from milan.experiments.cut_and_paste.tables import make_report
from milan.probes import Probe
from milan.targets.target import Target
from milan.units import Unit
from tests.experiments.test_bench import options

GREEN, RED, BLUE = range(3)


class EitherOr(nn.Module):
    """Units for green, for red or blue, and for blue; what the second sees is called red however blue it is."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 1, bias=False)
        self.look.weight.data = torch.tensor([[-1.0, 1, -1], [1, -1, 1], [-1, -1, 1]])[:, :, None, None]
        self.looks = nn.ReLU()
        self.answer = nn.Linear(3, 3, bias=False)
        self.answer.weight.data = torch.tensor([[1.0, 0, 0], [0, 3, 0], [0, 0, 2]])

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.looks(self.look(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[DescribedNetwork, Probe]:
    """Thirty grey pictures with a square in the middle, green, red and blue in turn."""
    folder = tmp_path_factory.mktemp("paste")
    images = torch.zeros(30, 3, 32, 32, dtype=torch.uint8)
    for place in range(30):
        images[place, (1, 0, 2)[place % 3], 8:24, 8:24] = 140 + (60 if place % 3 else 0) + place
    probe = Probe.from_tensor(images, [place % 3 for place in range(30)], ["green", "red", "blue"])
    target = Target(EitherOr(), name="either", image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    look = DescriptionConfig(
        options(folder, "words", "green things;red things or blue things;the sky"), ["looks"], k=6, quantile=0.8
    )
    return DescribedNetwork.dissect_and_describe(target, probe, look, folder), probe


def test_blue_pasted_into_green_is_called_red(world: tuple[DescribedNetwork, Probe], tmp_path: Path) -> None:
    described, probe = world
    found = attack_unit(described, probe, Unit("looks", 1), 0.5, AttackConfig(originals=5, distractors=6, pushed=1))
    assert found is not None
    assert found.pushed == ("red",)
    assert set(found.rows.tolist()) == {GREEN}
    assert set(found.columns.tolist()) == {RED, BLUE}
    fooled = found.find_fooled(found.answers)
    assert fooled[:, found.columns == BLUE].all()
    assert not fooled[:, found.columns == RED].any()  # what is red is no surprise
    assert not found.find_fooled(found.without).any()
    assert not found.find_fooled(found.control).any()
    report = make_report(described, [found], AttackConfig(5, 6, 1), "diorama")
    assert report.tables[0].rows[0].values["fooled"].value == pytest.approx(fooled.mean())
    case = make_unit_views([found], tmp_path)[0]
    assert case["said"][1]["text"] == "green, with a piece of a picture of blue: red"
    assert case["said"][1]["mark"] == "fooled"
    assert (tmp_path / case["sheet"].file).is_file()


def test_units_that_join_unlike_things_are_found(world: tuple[DescribedNetwork, Probe]) -> None:
    described, _ = world
    assert [unit.index for unit, apart in find_either_or_units(described, (), 5, "diorama", "cpu") if apart > 0] == [1]
    with pytest.raises(BadInput, match="looks:7 has no description"):
        find_either_or_units(described, ["looks:7"], 5, "diorama", "cpu")


def test_a_unit_that_pushes_nothing_is_left_out(world: tuple[DescribedNetwork, Probe]) -> None:
    described, probe = world
    assert (
        attack_unit(described, probe, Unit("looks", 0), 0.5, AttackConfig(originals=5, distractors=2, pushed=3))
        is not None
    )
    with torch.no_grad():
        kept = described.target.core.answer.weight.clone()
        described.target.core.answer.weight[:, 0] = 0
    assert (
        attack_unit(described, probe, Unit("looks", 0), 0.5, AttackConfig(originals=5, distractors=2, pushed=3)) is None
    )
    described.target.core.answer.weight.data = kept
