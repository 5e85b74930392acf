"""Cut-and-paste images on a network set by hand, one unit of which answers to red and to blue and speaks for
red alone.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from milan.errors import BadInput
from milan.experiments.core.config import DissectionOptions
from milan.experiments.core.study import Study
from milan.experiments.cut_and_paste.attacks import attack_unit, find_either_or_units
from milan.experiments.cut_and_paste.config import CutAndPasteConfig
from milan.experiments.cut_and_paste.examples import make_unit_views
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
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Thirty grey pictures with a square in the middle, green, red and blue in turn."""
    folder = tmp_path_factory.mktemp("paste")
    images = torch.zeros(30, 3, 32, 32, dtype=torch.uint8)
    for place in range(30):
        images[place, (1, 0, 2)[place % 3], 8:24, 8:24] = 140 + (60 if place % 3 else 0) + place
    probe = Probe.from_tensor(images, [place % 3 for place in range(30)], ["green", "red", "blue"])
    target = Target(EitherOr(), name="either", image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    study = Study(target, probe, folder, DissectionOptions(layers=["looks"], k=6, quantile=0.8))
    study.describe(options(folder, "words", "green things;red things or blue things;the sky"))
    return study


def test_blue_pasted_into_green_is_called_red(study: Study, tmp_path: Path) -> None:
    config = CutAndPasteConfig(originals=5, distractors=6, promoted_classes=1)
    found = attack_unit(study, Unit("looks", 1), 0.5, config)
    assert found is not None
    assert found.promoted == ("red",)
    assert set(found.original_classes.tolist()) == {GREEN}
    assert set(found.distractor_classes.tolist()) == {RED, BLUE}
    fooled = found.find_fooled(found.predictions)
    assert fooled[:, found.distractor_classes == BLUE].all()
    assert not fooled[:, found.distractor_classes == RED].any()  # what is red is no surprise
    assert not found.find_fooled(found.without).any()
    assert not found.find_fooled(found.control).any()
    report = make_report(study, [found], config)
    assert report.tables[0].rows[0].values["fooled"].value == pytest.approx(fooled.mean())
    case = make_unit_views([found], tmp_path)[0]
    assert case["said"][1]["text"] == "green, with a region of an image of blue: red"
    assert case["said"][1]["mark"] == "fooled"
    assert all((tmp_path / file).is_file() for file in case["pictures"][0].files)


def test_units_whose_descriptions_join_dissimilar_things(study: Study) -> None:
    assert [unit.index for unit, apart in find_either_or_units(study, CutAndPasteConfig(max_units=5)) if apart > 0] == [
        1
    ]
    with pytest.raises(BadInput, match="looks:7 has no description"):
        find_either_or_units(study, CutAndPasteConfig(units=["looks:7"]))


def test_a_unit_that_promotes_no_class_is_left_out(study: Study) -> None:
    config, weight = CutAndPasteConfig(originals=5, distractors=2), study.target.core.answer.weight
    assert attack_unit(study, Unit("looks", 0), 0.5, config) is not None
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:, 0] = 0
        assert attack_unit(study, Unit("looks", 0), 0.5, config) is None
        weight.copy_(kept)
