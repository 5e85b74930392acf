"""A unit's value is a function of the image: what is not so is refused, or reported where it is allowed."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from milan.cli.describe import main
from milan.dissection.determinism import examine
from milan.dissection.dissect import dissect
from milan.errors import BadInput, MilanWarning
from milan.targets.target import Target
from tests.dissection.world import LAYERS, SIZE, counted, files, toy_probe, toy_target


class Then(nn.Module):
    """A convolution, a function of its maps, and a layer after it."""

    def __init__(self, function: Callable[[Tensor], Tensor], *parts: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.parts, self.last = nn.Conv2d(3, 6, 4, 4), nn.ModuleList(parts), nn.Conv2d(6, 6, 1)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        maps = self.function(self.conv(images))
        for part in self.parts:
            maps = part(maps)
        return self.last(maps)


class Across(nn.MultiheadAttention):
    """Attention whose first axis is taken for the sequence, so that it looks from image to image."""

    def __init__(self) -> None:
        super().__init__(6, 1)

    def forward(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        rows = maps.flatten(2).transpose(1, 2)
        return super().forward(rows, rows, rows)[0].transpose(1, 2).unflatten(2, maps.shape[2:])


class Counts(nn.Module):
    """Keeps a state from pass to pass, as spiking networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.state = 0.0

    def forward(self, maps: Tensor) -> Tensor:
        self.state += 1
        return maps + self.state


RANDOM = {
    "functional dropout": lambda: Then(lambda maps: nn.functional.dropout(maps, 0.5)),
    "noise": lambda: Then(lambda maps: maps + 0.1 * torch.randn_like(maps)),
    "state": lambda: Then(lambda maps: maps, Counts()),
}
BATCH = {
    "no running statistics": lambda: Then(lambda maps: maps, nn.BatchNorm2d(6, track_running_stats=False)),
    "centred over the batch": lambda: Then(lambda maps: maps - maps.mean(0)),
    "attention across images": lambda: Then(lambda maps: maps, Across()),
    "a scale of the whole batch": lambda: Then(lambda maps: (maps / maps.abs().max() * 127).round()),
}
SOUND = {
    "dropout": lambda: Then(lambda maps: maps, nn.Dropout(0.5), nn.BatchNorm2d(6)),
    "norms": lambda: Then(lambda maps: maps, nn.GroupNorm(2, 6), nn.InstanceNorm2d(6)),
    "dead": lambda: Then(lambda maps: maps * 0, nn.ReLU()),
    "not finite": lambda: Then(lambda maps: maps / torch.zeros(6, 1, 1)),
}


REASONS = dict.fromkeys(RANDOM, "in two runs") | dict.fromkeys(BATCH, "in a batch")


@pytest.mark.parametrize(("kind", "message"), REASONS.items())
def test_what_is_no_function_of_the_image_is_refused_or_told(kind: str, message: str, tmp_path: Path) -> None:
    target = Target((RANDOM | BATCH)[kind](), image_size=SIZE, name="net")
    with pytest.raises(BadInput, match=f"'last' of net .*{message}.*allow_nondeterministic"):
        dissect(target, toy_probe(20), ["conv", "last"], tmp_path, k=2)
    assert not list(tmp_path.iterdir())
    for _ in range(2):  # found the second time, and reported again
        with pytest.warns(MilanWarning, match=f"'last' of net .*{message}"):
            found = dissect(target, toy_probe(20), ["conv", "last"], tmp_path, k=2, allow_nondeterministic=True)
    assert found["conv"].facts["nondeterministic"] == ""
    assert message in found["last"].facts["nondeterministic"]
    assert found["last"].open_target().allow_nondeterministic
    dissect(target, toy_probe(20), ["conv"], tmp_path, k=2)  # a layer before it is sound


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_a_function_of_the_image_is_not_refused(kind: str) -> None:
    assert examine(Target(SOUND[kind](), image_size=SIZE), ["conv", "last"], SIZE).faults == {}


def test_the_first_module_to_differ_and_its_cause_are_named() -> None:
    with pytest.raises(BadInput, match=r"first in parts\.0, BatchNorm2d\); parts\.0 is batch normalization"):
        examine(Target(BATCH["no running statistics"](), image_size=SIZE), ["last"], SIZE)


def test_a_network_that_takes_no_single_image_is_refused_in_any_case(tmp_path: Path) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(BadInput, match=r"one image alone.*; 2 is batch normalization without running statistics"):
        dissect(Target(model, image_size=SIZE), toy_probe(20), ["2"], tmp_path, allow_nondeterministic=True)


def test_vitmaes_random_order_of_patches_is_refused() -> None:
    sizes = {"image_size": SIZE, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**sizes, intermediate_size=16, mask_ratio=0.0))
    with pytest.raises(BadInput, match=r"first in embeddings"):
        examine(Target(model, image_size=SIZE), ["layernorm"], SIZE)


def test_it_costs_two_passes_over_five_images(tmp_path: Path) -> None:
    target = toy_target()
    seen = counted(target)
    examine(target, LAYERS, SIZE)
    before = next(seen)
    examine(target, LAYERS, SIZE)
    assert next(seen) - before == 5


def test_describe_py_keeps_the_warning_in_its_facts(tmp_path: Path) -> None:
    code = "import torch; from torch import nn; import milan\nfrom tests.dissection.test_determinism import RANDOM\n"
    code += f"def net():\n    return milan.Target(RANDOM['noise'](), image_size={SIZE})\n"
    (tmp_path / "net.py").write_text(code)
    (tmp_path / "probe").mkdir()
    for index in range(6):
        Image.fromarray(toy_probe(6).image(index).permute(1, 2, 0).numpy()).save(tmp_path / "probe" / f"{index}.png")
    words = ["--target", f"{tmp_path / 'net.py'}:net", "--probe", str(tmp_path / "probe"), "--layers", "last"]
    words += ["--describer", "constant:text=things", "--k", "2", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert main([*words, "--dry_run"]) == 2
    assert not (tmp_path / "out" / "run.json").exists()
    for _ in range(2):
        assert main([*words, "--allow_nondeterministic"]) == 0
        assert any(
            "in two runs" in text for text in json.loads((tmp_path / "out" / "run.json").read_text())["warnings"]
        )
    assert main(["--config", str(tmp_path / "out" / "config.yaml"), "--out", str(tmp_path / "again")]) == 0


def test_the_examination_changes_no_result(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", MilanWarning)
        warnings.filterwarnings("ignore", ".* are shown whole", MilanWarning)
        dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "one")
        dissect(toy_target(), toy_probe(), LAYERS, tmp_path / "other", allow_nondeterministic=True)
    assert files(tmp_path / "one") == files(tmp_path / "other")
