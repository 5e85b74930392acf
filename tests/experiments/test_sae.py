"""A sparse autoencoder that is trained, saved, read back, interrupted, and held against known directions."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import milan
from milan.errors import BadInput, UnknownName
from milan.experiments.core.report import Report
from milan.experiments.sae import autoencoder
from milan.experiments.sae.activation_files import ActivationVectors, store_activations
from milan.experiments.sae.autoencoder import train_autoencoder
from milan.experiments.sae.config import SaeConfig
from milan.experiments.sae.sae import sae
from milan.models.lightning_modules import TrainingModule
from milan.scores.confidence_intervals import Measure
from milan.targets.hooks import run_to_layers
from tests.experiments import worlds

TARGET = f"{worlds.__file__}:looks"
CONFIG = SaeConfig(
    target=TARGET, probe="diorama:objects", limit=20, layer="looks", expansion=3, top_k=2, vectors=3000, updates=40,
    batch_size=200, learning_rate=0.01,
)  # fmt: skip
OPTIONS = ["--target", TARGET, "--probe", "diorama:objects", "--limit", "4", "--describer", "netdissect"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sae")


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return sae(replace(CONFIG, out=folder / "out"))


def held_out_vectors() -> Tensor:
    """The activations of the last two of the 20 images, which are held out."""
    target = milan.load_target(TARGET)
    _, images = next(milan.load_probe("diorama:objects", target=target, limit=20).batches(2, start=18))
    with milan.record(target, ["looks"]) as activations:
        target(images)
    return activations["looks"].movedim(1, -1).flatten(0, 2)


def test_the_files_are_read_back_and_agree_with_plain_arithmetic(report: Report, folder: Path) -> None:
    weights = {name: value.numpy() for name, value in load_file(folder / "out" / "sae_weights.safetensors").items()}
    vectors = held_out_vectors().numpy()[:500]
    projections = (vectors - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    cut = np.sort(projections)[:, [-2]]
    codes = np.where(projections >= cut, projections, 0).clip(0)
    read = milan.load_dictionary(folder / "out")
    assert (read.d_in, read.latents, read.config.k, read.config.hook_point) == (6, 18, 2, "looks")
    assert read.encode(torch.tensor(vectors)).numpy() == pytest.approx(codes, abs=1e-5)
    expected = codes @ weights["W_dec"] + weights["b_dec"]
    assert read(torch.tensor(vectors)).numpy() == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(weights["W_dec"], axis=1) == pytest.approx(np.ones(18), abs=1e-5)


def test_the_official_loader_agrees(report: Report, folder: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae_lens is not installed")
    official, vectors = sae_lens.SAE.load_from_disk(str(folder / "out")), held_out_vectors()
    assert official.cfg.metadata.hook_name == "looks"
    assert torch.allclose(official.encode(vectors), milan.load_dictionary(folder / "out").encode(vectors), atol=1e-5)


def test_the_report_has_the_quality_on_held_out_images(report: Report, folder: Path) -> None:
    quality = milan.load_dictionary(folder / "out").quality(held_out_vectors())
    rows = {row.name: row.values for row in report.tables[0].rows}
    values = [rows["held-out images"][name] for name in ("explained variance", "active", "dead")]
    assert all(isinstance(value, Measure) for value in values)
    # The report measures on 166 random places of each image.
    found = [value.value for value in values if isinstance(value, Measure)]
    assert found[:2] == pytest.approx([quality.explained_variance, quality.mean_l0], abs=0.03)
    untrained = rows["untrained, held-out images"]["explained variance"]
    assert isinstance(untrained, Measure)
    assert found[0] > 0.75
    assert found[0] > untrained.value + 0.1
    assert [rows[name]["images"] for name in rows] == [2, 18, 2]
    assert json.loads((folder / "out" / "report.json").read_text())["facts"]["stored"] == 18 * 166


def test_latents_are_described_by_the_command_of_the_report(report: Report, folder: Path) -> None:
    from milan.cli import describe

    command = report.notes[-1].partition("describe.py ")[2]
    assert describe.main([*OPTIONS, *shlex.split(command), "--out", str(folder / "described")]) == 0
    table = (folder / "described" / "descriptions.csv").read_text()
    assert "looks@sae" in table


def test_an_interrupted_run_continues_and_ends_with_the_same_weights(
    report: Report, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps: list[int] = []
    step = TrainingModule.training_step

    def counted(module: TrainingModule, batch: Tensor, index: int) -> Tensor:
        steps.append(module.trainer.global_step)
        if len(steps) == 25:
            raise KeyboardInterrupt
        return step(module, batch, index)  # type: ignore[arg-type]

    monkeypatch.setattr(autoencoder, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(TrainingModule, "training_step", counted)
    config = replace(CONFIG, out=folder / "again")
    with pytest.raises(KeyboardInterrupt):
        sae(config)
    files = {file: file.stat().st_mtime_ns for file in (folder / "again").rglob("*.npy")}
    sae(config)
    assert steps == [*range(25), *range(24, 40)]
    assert {file: file.stat().st_mtime_ns for file in (folder / "again").rglob("*.npy")} == files
    one, other = (load_file(folder / name / "sae_weights.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    sae(config)
    assert len(steps) == 41, "a finished run is not trained again"
    assert list(tmp_path.iterdir()) == [], "nothing is written to the working directory"


@pytest.mark.parametrize(
    ("options", "error", "value"),
    [
        ({"top_k": 19}, BadInput, "19"),
        ({"updates": 0}, BadInput, "updates is 0"),
        ({"limit": 1}, BadInput, "1 image"),
        ({"layer": "look"}, UnknownName, "'look'"),
    ],
)
def test_options_out_of_range_are_named(options: dict, error: type[Exception], value: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=value):
        sae(replace(CONFIG, out=tmp_path / "out", **options))
    assert not (tmp_path / "out" / "activations").exists()


def test_training_regains_directions_of_which_each_vector_has_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    strengths = rng.uniform(1, 2, (40, 100, 16)) * (rng.random((40, 100, 16)).argsort(-1) < 2)
    vectors = ActivationVectors([(strengths @ directions).astype(np.float32)], "directions")
    config = replace(CONFIG, expansion=2, updates=400, batch_size=256)
    decoder = train_autoencoder(vectors, config, tmp_path)["decoder"].numpy()
    assert ((decoder @ directions.T).max(0) > 0.95).sum() >= 15


def test_stored_vectors_are_those_of_all_places_and_of_the_class_token(tmp_path: Path) -> None:
    target = milan.load_target("diorama:dino-objects", weights="random")
    layer, probe = target.layer("blocks.1"), milan.load_probe("diorama:objects", target=target, limit=3)
    expected: list[Tensor] = []

    def keep(_: str, maps: Tensor, cls: Tensor | None) -> None:
        assert cls is not None
        expected.append(torch.cat([cls[:, None], maps.flatten(2).transpose(1, 2)], 1).clone())

    with run_to_layers(target, [layer.name], keep) as run:
        for ids, images in probe.inputs(3):
            run(target.make_input(ids, images))
    whole, some = (
        store_activations(target, probe, layer, 0, 3, most=most, seed=1, folder=tmp_path) for most in (10**6, 12)
    )
    assert whole[[*range(len(whole))]].numpy() == pytest.approx(expected[0].flatten(0, 1).numpy(), abs=1e-5)
    assert some.images(3).shape == (3, 4, layer.units)
    # Every stored vector is one of its image.
    apart = np.abs(some.images(3)[:, :, None] - whole.images(3)[:, None]).max(-1).min(-1)
    assert apart.max() < 1e-6
