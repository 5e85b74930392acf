"""Generators: fed latents by number, looked at by the pictures they make themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from milan.cli.describe import describe, main
from milan.dissection.dissect import dissect
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import export_compact, export_milannotations
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe, load_probe
from milan.targets.generator_target import GeneratorTarget
from milan.targets.latents import Latents
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Unit
from tests.dissection.world import files

SIZE, COUNT = 32, 60
MAKER = """
from torch import nn
from milan.targets.generator_target import GeneratorTarget
from milan.targets.latents import Latents
from tests.targets.test_generator_target import painter

def make():
    return painter(seed=3)

def classifier():
    return nn.Sequential(nn.Conv2d(3, 2, 1))
"""


class Painter(nn.Module):
    """Paints the left half as bright as the first latent and the right half as the second, red where the class is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Identity()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, latents: Tensor) -> Tensor:
        left, right = (latents[:, at, None, None, None].expand(-1, 1, 4, 2) for at in (0, 1))
        maps = self.halves(
            torch.cat([torch.cat([left, right], 3), latents[:, 2:, None, None].expand(-1, 2, 4, 4)], 1) * self.scale
        )
        bright = torch.tanh(nn.functional.interpolate(maps[:, :1], scale_factor=8))
        cool = torch.where(latents[:, 3, None, None, None] > 0.5, -1.0, bright)
        return torch.cat([bright, cool, cool], 1)


def painter(seed: int = 0, **options) -> GeneratorTarget:
    return GeneratorTarget(
        Painter(), Latents(2, ["grey", "red"], count=COUNT, seed=seed), image_size=SIZE, name="painter", **options
    )


def test_a_row_of_latents_depends_on_its_number_alone() -> None:
    latents = Latents(5, ["a", "b", "c"], seed=1)
    rows = latents.rows(torch.tensor([7, 2, 7]))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], latents.rows(torch.tensor([2]))[0])
    assert rows[:, 5:].argmax(1).tolist() == [1, 2, 1] == [latents.label(row) for row in (7, 2, 7)]
    assert latents.key != Latents(5, ["a", "b", "c"], seed=2).key
    many = latents.rows(torch.arange(2_000))[:, :5]
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1) < 0.05
    assert Latents(4).rows(torch.arange(3)).shape == (3, 4)
    with pytest.raises(BadInput, match="at least 1"):
        Latents(0)


def test_its_probe_is_its_own_pictures() -> None:
    target = painter()
    probe = Probe.from_generator(target)
    assert (len(probe), probe.size, probe.classes) == (COUNT, SIZE, ["grey", "red"])
    assert probe.labels == [0, 1] * 30
    row = target.latents.rows(torch.tensor([5]))[0]
    found = probe.image(5)
    assert abs(int(found[0, 0, 0]) - round(255 * (float(torch.tanh(row[0])) + 1) / 2)) <= 1
    assert abs(int(found[0, 0, -1]) - round(255 * (float(torch.tanh(row[1])) + 1) / 2)) <= 1
    assert not found[1:].any()  # class 1 is red
    _, images = next(probe.batches(8))
    assert torch.equal(images[5], found)
    assert Probe.from_generator(painter(seed=1)).fingerprint != probe.fingerprint
    assert (
        Probe.from_generator(painter(), limit=9).fingerprint
        != probe.fingerprint
        == Probe.from_generator(painter()).fingerprint
    )


def test_dissecting_finds_the_latents_that_drive_a_unit(tmp_path: Path) -> None:
    target = painter()
    probe = Probe.from_generator(target)
    dissection = dissect(target, probe, ["halves"], tmp_path, k=4, quantile=0.8)["halves"]
    rows = target.latents.rows(torch.arange(COUNT)).numpy()
    strongest = np.sort(rows[:, :2].max(1))[::-1][:4]
    exemplars = dissection.exemplars(Unit("halves", 0))
    assert np.allclose(exemplars.activations.numpy(), strongest)
    assert exemplars.ids.tolist() == np.argsort(-rows[:, :2].max(1), kind="stable")[:4].tolist()
    first = int(exemplars.ids[0])
    assert torch.equal(exemplars.images[0], probe.image(first))
    side = rows[first, :2].argmax()  # the mask lies on the half that the larger latent drives
    halves = exemplars.masks[0, 0].float().view(SIZE, 2, SIZE // 2).mean((0, 2))
    assert halves[side] > 0.9
    red = dissection.exemplars(Unit("halves", 2))
    assert (red.ids % 2 == 1).all()
    assert np.allclose(dissection.activations("max")[:, 0].numpy(), rows[:, :2].max(1))


def test_nothing_depends_on_batches_or_a_second_run(tmp_path: Path) -> None:
    target = painter()
    dissect(target, Probe.from_generator(target), ["halves"], tmp_path / "a", batch_size=7)
    dissect(painter(), Probe.from_generator(painter()), ["halves"], tmp_path / "b", workers=2)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    before = files(tmp_path / "a")
    dissect(painter(), Probe.from_generator(painter()), ["halves"], tmp_path / "a")
    assert files(tmp_path / "a") == before
    other = painter()
    with torch.no_grad():
        other.model.scale.mul_(2)
    dissect(other, Probe.from_generator(other), ["halves"], tmp_path / "a")
    assert files(tmp_path / "a") != before  # other weights: not found again but made anew


def test_hooks_and_painting_do_not_meet() -> None:
    """Pictures are made by a copy, so a hook that changes the network under study changes none of them."""
    target = painter()
    before = target.generate_image(3)
    handle = target.model.halves.register_forward_hook(lambda module, given, maps: torch.zeros_like(maps))
    assert torch.equal(target.generate_image(3), before)
    assert not target.outputs(target.noise(2, SIZE))[:, 0].any()  # red: tanh of nothing
    handle.remove()


def test_a_wrong_probe_is_told(tmp_path: Path) -> None:
    target = painter()
    with pytest.raises(BadInput, match="--probe latents:SPEC"):
        dissect(target, load_probe("diorama:objects", size=SIZE, limit=5), ["halves"], tmp_path)
    with pytest.raises(BadInput, match="images that painter generates"):
        dissect(target, Probe.from_generator(painter(seed=1)), ["halves"], tmp_path)
    assert not list(tmp_path.glob("halves"))
    with pytest.raises(BadInput, match="painter generates images"):
        target.prepare(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
    with pytest.raises(BadInput, match=r"puts out \(1, 3, 32, 32\).*should \(1, 3, 64, 64\)"):
        Probe.from_generator(GeneratorTarget(Painter(), Latents(2, ["grey", "red"]), image_size=64, name="painter"))
    with pytest.raises(BadInput, match="diorama:resnet-scenes generates no images"):
        load_probe("latents:diorama:resnet-scenes")
    with pytest.raises(BadInput, match="low is 1"):
        painter(low=1.0, high=0.0)


def test_a_classifier_may_look_at_a_generators_pictures(tmp_path: Path) -> None:
    vision_encoder = Target(nn.Sequential(nn.Conv2d(3, 2, 1)), image_size=SIZE)
    found = dissect(vision_encoder, Probe.from_generator(painter()), ["0"], tmp_path, k=2)["0"]
    assert found.exemplars(Unit("0", 0)).images.shape == (2, 3, SIZE, SIZE)


def test_a_generator_of_a_file_by_name(tmp_path: Path) -> None:
    file = tmp_path / "maker.py"
    file.write_text(MAKER)
    spec = f"{file}:make"
    target = load_target(spec)
    assert isinstance(target, GeneratorTarget)
    assert target.generated_probe_spec == f"latents:{spec}"
    probe = load_probe(target.generated_probe_spec)
    found = dissect(target, probe, ["halves"], tmp_path / "d", k=3)["halves"]
    again = load_dissection(tmp_path / "d" / "halves")
    assert again.open_probe().fingerprint == probe.fingerprint
    assert again.open_target().fingerprint == target.fingerprint
    assert load_target(spec, layout="BCHW").latents.seed == 3  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="generates no images"):
        load_probe(f"latents:{file}:classifier")
    for export in (export_milannotations, export_compact):
        place = export(found, tmp_path / export.__name__, {unit: ["a half"] for unit in found.units})
        kept = load_dissection(place).exemplars(found.units[0])
        assert torch.equal(kept.images, found.exemplars(found.units[0]).images)
        assert torch.equal(kept.masks, found.exemplars(found.units[0]).masks)


def test_without_a_name_it_is_not_exported_compactly(tmp_path: Path) -> None:
    target = painter()
    found = dissect(target, Probe.from_generator(target), ["halves"], tmp_path, k=3)["halves"]
    with pytest.raises(MissingEvidence, match="so its images would be lost"):
        export_compact(found, tmp_path / "kept")
    assert Probe.from_generator(target).settings["spec"] == ""


def test_describing_takes_the_generators_own_pictures(tmp_path: Path, capsys) -> None:
    file = tmp_path / "maker.py"
    file.write_text(MAKER)
    words = [
        "--target",
        f"{file}:make",
        "--layers",
        "halves",
        "--describer",
        "constant:text=things",
        "--out",
        str(tmp_path / "run"),
        "--k",
        "3",
    ]
    assert main(words) == 0
    table = (tmp_path / "run" / "run.json").read_text()
    assert f'"probe": "latents:{file}:make"' in table
    assert main([*words[:-4], "--dry_run", "true"]) == 0
    assert "latents:" in capsys.readouterr().out
    catalogue = describe(
        f"{file}:make", layers=["halves"], describer="constant:text=things", out=tmp_path / "again", k=3
    )
    assert catalogue.facts["probe"] == f"latents:{file}:make"
