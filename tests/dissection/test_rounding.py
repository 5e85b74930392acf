"""A target in 16 bits: what it changes is measured relative to 32 bits, and stated."""

import json

import pytest
import torch
from torch import nn

from milan.cli.describe import main
from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.rounding import measure_rounding
from milan.probes import Probe
from milan.targets.loading import load_target
from milan.targets.target import Target
from tests.cli.test_describe import COLOUR, DETECTORS

GREYS = torch.arange(0, 256, 4, dtype=torch.uint8)  # of 64 images


def make_target(biases: list[float], precision: str | None = "bf16") -> Target:
    """Units that copy the grey level of the image, in 0..1, plus a bias."""
    network = nn.Sequential(nn.Conv2d(3, len(biases), 1))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight[:, 0] = 1
        network[0].bias.copy_(torch.tensor(biases))
    return Target(network, image_size=4, mean=(0.0,) * 3, std=(1.0,) * 3, precision=precision)


@pytest.fixture
def probe() -> Probe:
    return Probe.from_tensor(GREYS.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous())


def test_units_whose_levels_16_bits_merge_have_other_exemplars(probe: Probe) -> None:
    # At 100, 16 bits have steps of 0.5: the largest are the 16 images above 0.75, of which the first 4 are taken.
    found = measure_rounding(make_target([0.0, 100.0]), probe, ["0"], k=4, quantile=0.9)
    assert (found.images, found.units, found.k) == (64, 2, 4)
    assert found.same_exemplars == 0.5
    merged = measure_rounding(make_target([100.0]), probe, ["0"], k=4, quantile=0.9)
    assert merged.same_exemplars == 0
    # The threshold is 101, above which there is nothing.
    assert merged.mask_iou == 0
    assert merged.relative_error == pytest.approx(0.125 / 100.5, rel=0.05)


def test_dead_units_are_not_compared(probe: Probe) -> None:
    target = make_target([0.0, 0.0])
    with torch.no_grad():
        for model in (target.model, target.unrounded_model):
            model[0].weight[1] = 0
    assert measure_rounding(target, probe, ["0"]).units == 1


def test_a_network_of_16_bits_has_nothing_to_compare(probe: Probe) -> None:
    network = make_target([0.0], None).model.to(torch.bfloat16)
    target = Target(network, image_size=4, precision="bf16")
    assert measure_rounding(target, probe, ["0"]) is None


@pytest.mark.parametrize(
    ("precision", "kind"), [("bf16", torch.bfloat16), ("fp32", torch.float32), (None, torch.float32)]
)
def test_the_precision_is_a_setting_of_the_target_and_keeps_the_given_module(precision, kind) -> None:
    target = load_target("diorama:resnet-objects", **({"precision": precision} if precision else {}))
    assert target.dtype == kind
    assert target.settings.get("precision") == precision
    assert target.unrounded().dtype == torch.float32
    assert (target.fingerprint == load_target("diorama:resnet-objects").fingerprint) == (precision != "bf16")


def test_a_run_in_16_bits_states_what_they_change(tmp_path, capsys) -> None:
    make_toy_dissection(tmp_path)
    words = ["--target", DETECTORS, "--probe", str(tmp_path / "probe"), "--layers", "answers", "--describer", COLOUR]
    assert main([*words, "--k", "5", "--precision", "bf16", "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert facts["precision"]["target"] == "bf16"
    assert facts["precision"]["k"] == 5
    assert f"{facts['precision']['same_exemplars']:.1%} of the 5 exemplars" in capsys.readouterr().err
