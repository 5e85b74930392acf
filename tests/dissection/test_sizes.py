"""What a network is shown in a whole run: images of its own size and preprocessing, square or not, or an error that
names both.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from milan.cli.describe import describe, main
from milan.dissection.dissect import dissect
from milan.dissection.loading import load_dissection
from milan.errors import BadInput, MilanWarning
from milan.experiments.__main__ import main as experiment_main
from milan.probes import Probe, load_probe
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Unit
from tests.dissection.world import brute_exemplars, toy_images

NETWORK = """
import torch
from torch import nn
from milan import Target

def network():
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    return nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), *head)

def small():
    return Target(network(), image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
"""
PLAIN = ["--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(NETWORK)
    return tmp_path / "own.py"


def pictures(folder: Path, height: int, width: int, count: int = 24) -> Path:
    """Pictures of that size in two classes."""
    large = toy_images(count, max(height, width))[:, :, :height, :width]
    for number, pixels in enumerate(large.permute(0, 2, 3, 1).numpy()):
        place = folder / ("odd" if number % 2 else "even") / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return folder


def by_hand(folder: Path, model: nn.Module) -> Tensor:
    """The maps of the network's first layer on the pictures as they are, as plain PyTorch has them."""
    files = sorted(folder.rglob("*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model[0]((pixels / 255 - 0.5) / 0.5)


def test_pictures_of_the_networks_size_are_shown_as_they_are(file: Path, tmp_path: Path) -> None:
    """By file and options, as a Target from a file, and as a module in Python: the exemplars are plain PyTorch's."""
    folder, module = pictures(tmp_path / "small", 32, 32), load_target(f"{file}:small").model
    expected = brute_exemplars(by_hand(folder, module), 5)
    run = ["--probe", str(folder), "--layers", "0", "--k", "5", "--describer", "constant:text=things"]
    assert (
        main(["--target", f"{file}:network", "--image_size", "32", *PLAIN, *run, "--out", str(tmp_path / "file")]) == 0
    )
    assert main(["--target", f"{file}:small", *run, "--out", str(tmp_path / "target")]) == 0
    own = Target(module, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    describe(own, str(folder), "constant:text=things", layers=["0"], out=tmp_path / "module", k=5)
    for way in ("file", "target", "module"):
        found = load_dissection(tmp_path / way / "dissection" / "0")
        assert [found.exemplars(unit).ids.tolist() for unit in found.units] == expected.tolist(), way
    facts = json.loads((tmp_path / "file" / "run.json").read_text())
    assert not facts["warnings"]
    assert main(["--config", str(tmp_path / "file" / "config.yaml")]) == 0  # the options are kept


def test_images_of_another_size_are_refused(file: Path, tmp_path: Path) -> None:
    target = load_target(f"{file}:small")
    for probe in (load_probe(str(pictures(tmp_path / "large", 64, 64))), Probe.from_tensor(toy_images(4, 48))):
        with pytest.raises(BadInput, match=r"(224 x 224|48 x 48) pixels and .*own.py:small takes 32 x 32"):
            dissect(target, probe, ["0"], tmp_path / "out")
        with pytest.raises(BadInput, match="takes 32 x 32"):
            evaluate_ablations(target, probe, [[]], tmp_path / "right.sqlite")
    assert not (tmp_path / "out").exists()


def test_another_way_of_scaling_is_warned_of(file: Path, tmp_path: Path) -> None:
    target, folder = load_target(f"{file}:small"), str(pictures(tmp_path / "large", 64, 64))
    with pytest.warns(MilanWarning, match=r"cover 37 x 37 .*own.py:small scaled to cover 32 x 32"):
        dissect(target, load_probe(folder, size=32, resize=37), ["0"], tmp_path / "out")
    with warnings.catch_warnings(action="error"):
        probe = load_probe(folder, target=target)
        dissect(target, probe, ["0"], tmp_path / "out")
    assert load_probe(**probe.settings).fingerprint == probe.fingerprint


def test_images_that_are_not_square(file: Path, tmp_path: Path) -> None:
    """From the options through masks, table and page to accuracy."""
    folder = pictures(tmp_path / "wide", 24, 40)
    run = ["--target", f"{file}:network", "--image_size", "24", "40", *PLAIN, "--probe", str(folder), "--layers", "0"]
    assert main([*run, "--k", "5", "--describer", "constant:text=things", "--out", str(tmp_path / "out")]) == 0
    target = load_target(f"{file}:network", image_size=[24, 40], mean=[0.5] * 3, std=[0.5] * 3)
    maps = by_hand(folder, target.model)
    found = dissect(target, load_probe(str(folder), target=target), ["0"], tmp_path / "out" / "dissection", k=5)["0"]
    assert [found.exemplars(unit).ids.tolist() for unit in found.units] == brute_exemplars(maps, 5).tolist()
    assert (found.image_size, found.exemplars(Unit("0", 0)).masks.shape) == ((24, 40), (5, 1, 24, 40))
    picture = next((tmp_path / "out" / "page" / "images").rglob("*.webp"))
    width, height = Image.open(picture).size
    assert width > height
    _, right = evaluate_ablations(target, load_probe(str(folder), target=target), [[]], tmp_path / "right.sqlite")
    with torch.no_grad():
        answers = target.model[1:](maps).argmax(1)
    assert (
        right[0].tolist() == (answers == torch.arange(24) // 12).tolist()
    )  # the first twelve files are of the first class


def test_options_reach_the_target_of_an_experiment(file: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "wide", 24, 40)
    given = ["--target", f"{file}:network", "--image_size", "24", "40", *PLAIN, "--name", "mine"]
    run = ["--probe", str(folder), "--layers", "0", "--units_per_layer", "2", "--max_images", "8"]
    run += ["--out", str(tmp_path / "impact")]
    assert experiment_main(["impact", *given, *run]) == 0
    facts = json.loads((tmp_path / "impact" / "report.json").read_text())["facts"]
    assert (facts["target"], facts["warnings"]) == ("mine", [])


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("sizes", ["any", "one"])
def test_tokens_of_images_that_are_not_square(prefix: int, sizes: str) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.block = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6)

        def forward(self, images: Tensor) -> Tensor:
            assert sizes == "any" or images.shape[2:] == (32, 48)
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            return self.block(torch.cat([tokens[:, :1]] * prefix + [tokens], 1))

    layer = Target(Tokens(), image_size=(32, 48)).layer("block")
    assert (layer.grid, layer.prefix_tokens) == ((4, 6), prefix)


def mobilevit(folder: Path) -> tuple[Target, Callable[[Image.Image], Tensor], str]:
    """A network of transformers that takes blue first."""
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[16] * 3, neck_hidden_sizes=[8] * 7, num_attention_heads=2
    )
    transformers.MobileViTModel(config).save_pretrained(folder)
    processor = transformers.MobileViTImageProcessor(size={"shortest_edge": 73}, crop_size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    target = load_target(f"hf:{folder}")
    return (
        target,
        lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0],
        "conv_stem.convolution",
    )


def squashing(folder: Path) -> tuple[Target, Callable[[Image.Image], Tensor], str]:
    """A network of timm whose pictures are squashed, by bicubic interpolation."""
    target = load_target("timm:test_resnet", weights="random", crop="squash")
    data = timm.data.resolve_data_config({}, model=target.model) | {"crop_mode": "squash"}
    return target, timm.data.create_transform(**data, is_training=False), "layer2"


@pytest.mark.parametrize("kind", [mobilevit, squashing])
def test_exemplars_are_those_of_the_librarys_own_transform_and_plain_hooks(
    kind: Callable[[Path], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    target, transform, layer = kind(tmp_path / "network")
    folder = pictures(tmp_path / "pictures", 120, 150)
    seen: list[Tensor] = []
    handle = target.modules()[layer].register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        target.model.eval()(torch.stack([transform(Image.open(file)) for file in sorted(folder.rglob("*.png"))]))
    handle.remove()
    found = dissect(target, load_probe(str(folder), target=target), [layer], tmp_path / "out", k=5)[layer]
    ids = torch.stack([found.exemplars(unit).ids for unit in found.units]).numpy()
    assert (ids == brute_exemplars(seen[0], 5)).mean() > 0.99  # near equals may change places
