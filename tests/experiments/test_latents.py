"""Experiments that ablate units take the latents of a dictionary."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from milan import Probe, Target, ablate, dissect
from milan.experiments.ablation.ablation import ablation
from milan.experiments.ablation.config import AblationConfig
from milan.experiments.core.config import DissectionOptions
from milan.experiments.core.study import Study
from milan.experiments.edit.config import EditConfig
from milan.experiments.edit.spurious_networks import SpuriousNetwork
from milan.experiments.edit.unit_removal import TEXT_UNITS, measure_removal
from milan.experiments.impact.config import ImpactConfig
from milan.experiments.impact.impact import impact
from milan.scores.ablation_score import compute_impacts
from milan.scores.accuracy_under_ablation import evaluate_ablations
from milan.targets.dictionary import Dictionary, DictionaryConfig
from milan.targets.preprocessing import TargetOptions
from milan.units import Unit
from tests.experiments import coloured
from tests.experiments.test_ablation import EMBEDDER, TARGET, WORDS
from tests.experiments.test_bench import options
from tests.experiments.test_edit import network, pictures

pytestmark = pytest.mark.filterwarnings("ignore::milan.errors.MilanWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours, and directions that copy the six neurons of ``units``."""
    folder = tmp_path_factory.mktemp("latents")
    coloured.pictures(folder / "pictures")
    save_file({"directions": torch.eye(6)}, folder / "directions.safetensors")
    return folder


def run_on(experiment: str, layer: str, folder: Path) -> list[Any]:
    """Run an experiment on neurons or on the latents that copy them; return the values of its first table."""
    given: dict[str, Any] = {"target": TARGET, "probe": str(folder / "pictures"), "layers": [layer]}
    given["out"] = folder / f"{experiment}-{layer}"
    if "@" in layer:
        file = str(folder / "directions.safetensors")
        given["target_options"] = TargetOptions(dictionary=file, dictionary_layer="units")
    if experiment == "impact":
        tables = impact(ImpactConfig(**given, units_per_layer=6, top_shares=[0.1, 1.0])).tables
        return [dict(row.values) for row in tables[0].rows]
    given |= {"describer": options(folder, "said", WORDS), "evaluation_probe": given["probe"], "k": 2}
    given |= {"max_share": 0.5, "step": 0.5, "orders_per_criterion": 2, "random_orders": 1, "vectors": EMBEDDER}
    tables = ablation(AblationConfig(**given)).tables
    table = next(each for each in tables if each.name == "accuracy")
    # Others are ordered at random.
    return [dict(row.values) for row in table.rows if row.name in ("adjectives", "nouns", "length")]


@pytest.mark.parametrize("experiment", ["ablation", "impact"])
def test_latents_that_copy_neurons_have_their_results(experiment: str, folder: Path) -> None:
    neurons = run_on(experiment, "units", folder)
    assert neurons
    assert run_on(experiment, "units@sae", folder) == neurons


def test_removing_the_text_latent_restores_accuracy(tmp_path: Path) -> None:
    plain, both = pictures(""), pictures("01")
    copy = Dictionary(torch.eye(3), torch.eye(3))
    target = network(9.0).with_dictionary(copy, "looks")
    spoilt = SpuriousNetwork(target, network(0.0), both, plain, both, plain, plain, both, "", "", ("looks@sae",))
    study = Study(target, both, tmp_path, DissectionOptions(layers=["looks@sae"], k=3, quantile=0.9), "edit")
    study.describe(options(tmp_path, "words", "red;textured things;the text of words"))
    found = measure_removal(spoilt, study, EditConfig(words=["text", "words"], max_units=4, random_orders=1))
    assert found.text_units == [Unit("looks@sae", 2)]
    assert found.adversarial[TEXT_UNITS].mean(1).tolist() == [0.5, 1.0]


def test_latents_of_a_transformer_are_ablated_as_by_a_hand_written_hook(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    target = Target(model, name="vit", image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    config = DictionaryConfig(activation="topk", k=4)
    # Latents write large directions, so that ablating them changes answers.
    dictionary = Dictionary(torch.randn(32, 40), 20 * torch.randn(40, 32), config=config)
    attached = target.with_dictionary(dictionary, "blocks.1")
    images = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
    probe = Probe.from_tensor(images, target(images).argmax(1).tolist(), [f"class {number}" for number in range(5)])
    found = dissect(attached, probe, ["blocks.1@sae"], tmp_path, k=2)["blocks.1@sae"]
    activity = (found.activations("max") > 0).sum(0) + (found.activations("cls") > 0).sum(0)
    unit = found.units[int(activity.argmax())]
    correct = evaluate_ablations(attached, probe, [[], [unit]], tmp_path / "kept.sqlite")[1]

    def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output - dictionary.encode(output)[..., unit.index, None] * dictionary.decoder[unit.index]

    handle = model.blocks[1].register_forward_hook(hook)
    expected = target(images)
    handle.remove()
    right = expected.argmax(1) == target(images).argmax(1)
    assert correct[0].all()
    assert 0 < right.sum() < 30
    assert correct[1].tolist() == right.tolist()
    with ablate(attached, [unit]):
        torch.testing.assert_close(attached(images), expected)
    impacts = compute_impacts(attached, "blocks.1@sae", [unit.index], probe)
    assert impacts.accuracy[0] == pytest.approx(1 - right.float().mean().item())
