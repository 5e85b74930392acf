"""A dissection on disk finds its probe and its network again, and says so when they have changed."""

import shutil
from pathlib import Path

import pytest
import torch

from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.dissect import dissect
from milan.dissection.loading import load_dissection
from milan.errors import MissingEvidence
from milan.probes import Probe
from milan.targets.target import Target
from milan.units import Unit


def test_probe_and_target_are_opened_again(tmp_path: Path) -> None:
    made = make_toy_dissection(tmp_path)
    again = load_dissection(made.folder)
    assert torch.equal(again.open_probe().image(3), made.open_probe().image(3))
    assert again.open_target().fingerprint == made.open_target().fingerprint
    image = again.open_probe().image(int(again.exemplars(Unit("answers", 0)).ids[0]))
    outputs = again.open_target().outputs(again.open_target().prepare(image[None]))
    assert float(outputs[0, 0]) == pytest.approx(float(again.exemplars(Unit("answers", 0)).activations[0]))


def test_a_changed_probe_is_not_opened(tmp_path: Path) -> None:
    made = make_toy_dissection(tmp_path)
    shutil.rmtree(tmp_path / "probe" / "grey")
    with pytest.raises(MissingEvidence, match="has changed since"):
        load_dissection(made.folder).open_probe()


def test_a_target_with_other_weights_is_not_opened(tmp_path: Path) -> None:
    from milan.targets.loading import load_target

    made = make_toy_dissection(tmp_path)
    weights = tmp_path / "weights.pt"
    target = load_target(made.target, weights=None)
    torch.save(target.model.state_dict(), weights)
    target = load_target(made.target, weights=weights)
    folder = dissect(target, made.open_probe(), ["answers"], tmp_path / "other", k=5)["answers"].folder
    torch.save({name: value + 1 for name, value in target.model.state_dict().items()}, weights)
    with pytest.raises(MissingEvidence, match="is not the one"):
        load_dissection(folder).open_target()


def test_relative_paths_of_another_folder_are_explained(tmp_path: Path) -> None:
    again = load_dissection(make_toy_dissection(tmp_path).folder)
    again.facts["target"]["settings"]["dictionary"] = again.facts["probe"]["settings"]["spec"] = "elsewhere"
    for open_again in (again.open_target, again.open_probe):
        with pytest.raises(MissingEvidence, match=r"'?elsewhere'?.*relative paths"):
            open_again()


def test_what_was_given_in_python_has_no_name_to_be_loaded_by(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    probe = Probe.from_tensor(torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8))
    made = dissect(Target(model, image_size=16), probe, ["1"], tmp_path, k=2)["1"]
    assert made.open_target().model is model  # at hand as long as the process that dissected it
    with pytest.raises(MissingEvidence, match="given in Python"):
        load_dissection(made.folder).open_target()
    with pytest.raises(MissingEvidence, match="given in Python"):
        load_dissection(made.folder).open_probe()
