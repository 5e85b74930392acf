"""Sparse layers are stored sparsely, with the statistics of dense ones; images are ranked by any pooled activation."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from milan import Dictionary, Probe, Target, dissect
from milan.dissection import sparse_statistics
from milan.dissection.dissection import Dissection
from milan.dissection.forward_blocks import BlockOutputs
from milan.dissection.layer_statistics import LayerPlan
from milan.dissection.loading import load_dissection
from milan.dissection.pass_options import check_settings
from milan.dissection.sparse_statistics import SparseLayerStatistics
from milan.errors import BadInput
from milan.targets.dictionary import DictionaryConfig
from milan.targets.dictionary_layers import DictionaryLayer
from milan.targets.sparse_activations import SparseActivations
from tests.dissection.world import all_maps, files, toy_images, toy_probe, toy_target

pytestmark = pytest.mark.filterwarnings("ignore::milan.errors.MilanWarning")


class Patches(nn.Module):
    """Colours of 8 x 8 patches, as maps or as tokens after a class token; NaN for black images."""

    def __init__(self, tokens: bool):
        super().__init__()
        self.tokens, self.conv, self.out = tokens, nn.Conv2d(3, 4, 8, 8), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images) / (images.amax((1, 2, 3), keepdim=True) > 0)
        if not self.tokens:
            return self.out(maps)
        patches = maps.flatten(2).movedim(1, 2)
        return self.out(torch.cat([patches.mean(1, keepdim=True), patches], 1))


def make_target(has_tokens: bool, **config: Any) -> Target:
    torch.manual_seed(0)
    target = Target(Patches(has_tokens), name="patches", image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    dictionary = Dictionary(torch.randn(4, 30), torch.randn(30, 4), config=DictionaryConfig(**config))
    return target.with_dictionary(dictionary, "out")


def make_probe(black: bool = True) -> Probe:
    images = toy_images(20)
    images[7] = images[3]
    if black:
        images[11] = 0
    return Probe.from_tensor(images)


@pytest.mark.parametrize(
    ("rank_by", "config"),
    [
        ("max", {"activation": "topk", "k": 2}),
        ("max", {"activation": "signed_topk", "k": 3}),
        ("max", {"activation": "abstopk", "k": 2, "tokens": "patches"}),
        ("cls", {"activation": "topk", "k": 2}),
        ("cls", {}),
        ("mean", {"activation": "topk", "k": 2}),
    ],
    ids=str,
)
def test_statistics_are_those_of_dense_layers(
    rank_by: Any, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = rank_by == "cls"
    target, probe = make_target(tokens, **config), make_probe()
    # The records are sorted in several parts, and read in pieces.
    monkeypatch.setattr(sparse_statistics, "_MOST_RECORDS", 50)
    monkeypatch.setattr(sparse_statistics, "_READ_RECORDS", 7)
    settings: dict[str, Any] = {"k": 4, "quantile": 0.9, "rank_by": rank_by}
    found = dissect(target, probe, ["out@sae"], tmp_path / "sparse", **settings)["out@sae"]
    monkeypatch.setattr(DictionaryLayer, "is_sparse", False)
    dense = dissect(target, probe, ["out@sae"], tmp_path / "dense", **settings)["out@sae"]
    assert [(each.folder / "pooled_images.npy").exists() for each in (found, dense)] == [True, False]
    assert found.status == dense.status
    assert torch.equal(found.thresholds(), dense.thresholds())
    for pooling in ("max", "cls") if tokens else ("max",):
        assert torch.equal(found.activations(pooling).nan_to_num(9), dense.activations(pooling).nan_to_num(9))
    assert torch.allclose(found.activations("mean"), dense.activations("mean"), atol=1e-6, equal_nan=True)
    for unit in found.units:
        # Means are summed in another order, so that equal ones may rank otherwise.
        if rank_by != "mean":
            assert found.exemplars(unit).ids.tolist() == dense.exemplars(unit).ids.tolist()
            assert torch.equal(found.maps(unit), dense.maps(unit))
        peaks = found.activations(rank_by, [unit])[:, 0][found.exemplars(unit).ids]
        assert torch.equal(found.exemplars(unit).activations, peaks.nan_to_num(-torch.inf))


def test_activations_of_some_units_are_columns_of_all(tmp_path: Path) -> None:
    target, probe = make_target(True, activation="topk", k=2), make_probe(black=False)
    for layer in ("out", "out@sae"):
        found = dissect(target, probe, [layer], tmp_path)[layer]
        units = [found.units[3], found.units[0], found.units[2]]
        assert torch.equal(found.activations("max", units), found.activations("max")[:, [3, 0, 2]])
        blocks = [values for _, values in found.iter_activations("mean", count=7)]
        assert torch.equal(torch.cat(blocks, 1), found.activations("mean"))
        assert found.has_activations().all()


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 7, "workers": 2}], ids=str)
def test_batches_change_no_byte(settings: dict[str, int], tmp_path: Path) -> None:
    target = make_target(True, activation="topk", k=2)
    dissect(target, make_probe(), ["out@sae", "out"], tmp_path / "one")
    dissect(target, make_probe(), ["out@sae", "out"], tmp_path / "other", **settings)
    assert files(tmp_path / "one") == files(tmp_path / "other")


def make_blocks(layer: str, maps: Tensor) -> list[BlockOutputs]:
    """Return blocks of two images with these maps."""
    parts = enumerate(maps.split(2))
    return [
        BlockOutputs(torch.arange(2) + 2 * at, part[:, :3], {}, {}, {layer: SparseActivations.from_dense(part, None)})
        for at, part in parts
    ]


def test_interrupted_runs_and_parts_give_the_same_files(tmp_path: Path) -> None:
    layer = make_target(False).layer("out@sae")
    plan = LayerPlan(layer, (1, 2), (0, 1, 2), images=6, k=2, quantile=0.9)
    maps = torch.rand(6, 3, 1, 2, generator=torch.Generator().manual_seed(0)).sub(0.6).relu()
    blocks, readable, results = make_blocks(layer.name, maps), torch.ones(6, dtype=torch.bool), []
    for bounds in ([0, 6], [0, 4, 6]):
        parts = []
        for start, stop in pairwise(bounds):
            part = SparseLayerStatistics(plan, start, stop)
            folder = tmp_path / f"{len(bounds)}-{start}"
            folder.mkdir()
            part.create_files(folder)
            for block in blocks[start // 2 : stop // 2]:
                part.add(part.reduce(block))
            if start == 4:
                # As if it had ended after a further block, which was written and not in the checkpoint.
                state = part.state()
                part.add(part.reduce(blocks[0]))
                part = SparseLayerStatistics(plan, start, stop)
                part.open_files(folder)
                part.restore(state)
            parts.append((part, folder))
        first = parts[0][0]
        for part, _ in parts[1:]:
            first.merge(part)
        out = tmp_path / f"out{len(bounds)}"
        out.mkdir()
        first.write_results(out, [folder for _, folder in parts], readable, 2)
        results.append(files(out))
    assert results[0] == results[1]
    active = maps.amax((2, 3)).T.nonzero()[:, 1]
    assert 0 < len(active) < 18
    assert np.load(tmp_path / "out2" / "pooled_images.npy").tolist() == active.tolist()


def test_neurons_are_ranked_by_mean_or_class_token(tmp_path: Path) -> None:
    target, images = toy_target(), toy_images(60)
    maps = all_maps(target, images)["conv2"].double().mean((2, 3))
    found = dissect(target, toy_probe(60), ["conv2"], tmp_path, k=5, rank_by="mean")["conv2"]
    for unit in found.units:
        exemplars = found.exemplars(unit)
        assert exemplars.ids.tolist() == maps[:, unit.index].argsort(descending=True)[:5].tolist()
        assert torch.equal(exemplars.activations, found.activations("mean")[exemplars.ids, unit.index])
    assert (found.rank_by, load_dissection(tmp_path / "conv2").rank_by) == ("mean", "mean")
    tokens = dissect(make_target(True), make_probe(black=False), ["out"], tmp_path, k=3, rank_by="cls")["out"]
    check_ranked_by_class_token(tokens)
    with pytest.raises(BadInput, match=r"rank_by.*conv2"):
        dissect(target, toy_probe(60), ["conv2"], tmp_path, rank_by="cls")
    with pytest.raises(BadInput, match="peak"):
        check_settings(k=1, quantile=0.9, rank_by="peak")


def check_ranked_by_class_token(found: Dissection) -> None:
    for unit in found.units:
        values = found.activations("cls", [unit])[:, 0]
        assert torch.equal(found.exemplars(unit).activations, values.sort(descending=True).values[:3])
