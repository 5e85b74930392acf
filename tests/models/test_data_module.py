"""Annotations as training data: groups, splits without leaks, cached features, and batch orders that can be resumed."""

import csv
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from milan.errors import BadInput, MilanWarning, UnknownName
from milan.models.annotated_units import (
    MILANNOTATIONS_GROUPS,
    find_annotation_sources,
    find_group_folders,
    read_annotations,
    split_by_unit,
)
from milan.models.data_module import EpochBatchSampler, MilannotationsDataModule, TrainingProgress
from milan.storage.files import cache_folder
from milan.units import Unit

ENCODER = f"{Path(__file__).parents[1] / 'tiny_encoder.py'}:encoder"
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def annotated(root: Path, layers: tuple[str, ...] = ("a", "b"), units: int = 20, k: int = 4) -> Path:
    """A data set in MILANNOTATIONS' layout whose units answer to squares of one colour, left or right, and are
    described so.
    """
    rng = np.random.default_rng(len(layers) + units)
    rows = []
    for layer in layers:
        folder = root / layer
        folder.mkdir(parents=True)
        images, masks = (
            rng.integers(0, 60, (units, k, 3, 32, 32)).astype(np.uint8),
            np.zeros((units, k, 1, 32, 32), np.uint8),
        )
        for unit in range(units):
            colour, side = list(COLOURS)[unit % 4], ("left", "right")[unit // 4 % 2]
            for rank in range(k):
                x, y = rng.integers(0, 8) + 16 * (side == "right"), rng.integers(0, 24)
                images[unit, rank, :, y : y + 8, x : x + 8] = np.array(COLOURS[colour])[:, None, None]
                masks[unit, rank, 0, y : y + 8, x : x + 8] = 1
            rows += [
                (layer, 2 * unit, text)
                for text in (f"{colour} squares", f"{colour} areas on the {side}", f"{colour} things")
            ]
        np.save(folder / "images.npy", images)
        np.save(folder / "masks.npy", masks)
        np.save(folder / "units.npy", 2 * np.arange(units))
        np.savetxt(folder / "ids.csv", np.tile(np.arange(k), (units, 1)), fmt="%d", delimiter=",")
    with (root / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("layer", "unit", "summary"), *rows])
    return root


def data(folder: Path, **settings: object) -> MilannotationsDataModule:
    return MilannotationsDataModule([str(folder)], **{"encoder": ENCODER, "batch_size": 16} | settings)


def test_groups_are_lists_of_folders() -> None:
    root = Path("root")
    assert find_group_folders("imagenet", root) == [
        root / "alexnet/imagenet",
        root / "resnet152/imagenet",
        root / "biggan/imagenet",
    ]
    assert find_group_folders("not-alexnet", root) == [
        root / path for path in MILANNOTATIONS_GROUPS["base"] if not path.startswith("alexnet")
    ]
    assert len(find_group_folders("not-resnet152/places365", root)) == 5
    with pytest.raises(UnknownName, match=r"nearest: .*not-alexnet"):
        find_group_folders("not-alexnett", root)


def test_folders_csv_files_and_groups_are_found(tmp_path: Path) -> None:
    for name in MILANNOTATIONS_GROUPS["imagenet"]:
        annotated(tmp_path / name, units=2)
    found = find_annotation_sources(["imagenet"], tmp_path)
    assert found == [tmp_path / name / layer for name in MILANNOTATIONS_GROUPS["imagenet"] for layer in "ab"]
    single = tmp_path / "alexnet/imagenet/b"
    assert find_annotation_sources([str(single), str(single)]) == [single]
    assert find_annotation_sources([str(tmp_path / "alexnet")]) == [
        tmp_path / "alexnet/imagenet" / layer for layer in "ab"
    ]
    assert read_annotations(single)[Unit("b", 2)] == ("green squares", "green areas on the left", "green things")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no annotated dissections under"):
        find_annotation_sources([str(tmp_path / "empty")])


def test_annotations_are_normalized(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    texts = [(0, "  red\t dots \n"), (0, ""), (0, "   "), (1, "word " * 300), (2, ""), (3, "日本語"), (3, "日本語")]
    rows = [("layer", "unit", "summary"), *(("l", unit, text) for unit, text in texts)]
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows(rows)
    with pytest.warns(MilanWarning, match="truncated 1 annotations of more than 60 words"):
        said = read_annotations(file)
    assert {unit.index: texts for unit, texts in said.items()} == {
        0: ("red dots",),
        1: (" ".join(["word"] * 60),),
        3: ("日本語", "日本語"),
    }


def test_no_unit_is_in_both_parts_and_every_layer_has_held_out_units(tmp_path: Path) -> None:
    split = data(annotated(tmp_path / "set")).split
    train, held_out = ({(one.source, one.unit) for one in part} for part in (split.train, split.held_out))
    assert not train & held_out
    assert len(train) == 36
    assert sorted(unit.layer for _, unit in held_out) == ["a", "a", "b", "b"]


def test_the_split_of_a_layer_does_not_depend_on_other_layers_or_on_features(tmp_path: Path) -> None:
    folder, other = annotated(tmp_path / "set"), annotated(tmp_path / "other")
    own = data(folder)
    both = MilannotationsDataModule([str(other), str(folder)], encoder=None)
    assert {one.unit for one in own.split.held_out} == {
        one.unit for one in both.split.held_out if one.source.parent == folder
    }
    assert data(folder, seed=1).split != own.split
    assert data(folder, encoder=None).words == own.words


def test_the_vocabulary_has_the_words_of_training_annotations_only(tmp_path: Path) -> None:
    folder = annotated(tmp_path / "set")
    held_out = data(folder).split.held_out[0].unit
    file = folder / "annotations.csv"
    with file.open("a", newline="") as opened:
        csv.writer(opened).writerows([(held_out.layer, held_out.index, "zebra zebra zebra")])
    again = data(folder)
    assert held_out in {one.unit for one in again.split.held_out}
    assert "zebra" not in again.words
    assert "red" in again.words


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1])
def test_a_split_needs_two_sides(held_out: float, tmp_path: Path) -> None:
    annotations = data(annotated(tmp_path / "set")).split.train
    with pytest.raises(BadInput, match="held_out"):
        split_by_unit(annotations, held_out, 0)
    with pytest.raises(BadInput, match="too few"):
        split_by_unit(annotations[:1], 0.1, 0)


def test_features_are_cached_by_content(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = annotated(tmp_path / "set")
    first = data(folder)
    first.prepare_data()
    unit = first.split.train[3]
    features = first.load_features([unit])
    exemplars = first.features.dissection(unit.source).exemplars(unit.unit)
    assert torch.equal(features[0], first.encoder.encode(exemplars.images, exemplars.masks))
    assert features.shape == (1, 4, 32)
    files = sorted((cache_folder() / "features").iterdir())
    assert len(files) == 2
    monkeypatch.setattr("milan.models.encoder.Encoder.encode", lambda *_: pytest.fail("computed again"))
    again = data(folder)
    again.prepare_data()
    assert torch.equal(again.load_features([unit]), features)
    monkeypatch.undo()
    monkeypatch.setenv("MILAN_CACHE", str(cache))
    data(folder, pooling="sum").prepare_data()
    masks = np.load(folder / "a" / "masks.npy")
    np.save(folder / "a" / "masks.npy", np.roll(masks, 4, axis=-1))
    data(folder).prepare_data()
    assert len(list((cache_folder() / "features").iterdir())) == 5


def test_batches_hold_annotations_with_their_units_features(tmp_path: Path, cache: Path) -> None:
    annotations = data(annotated(tmp_path / "set"))
    texts = {(one.unit, text) for one in annotations.split.train for text in one.texts}
    said = []
    for batch in annotations.train_dataloader():
        for features, tokens in zip(batch.features, batch.tokens, strict=True):
            text = annotations.vocabulary.decode(tokens.tolist())
            unit = next(
                one for one in annotations.split.train if torch.equal(annotations.load_features([one])[0], features)
            )
            said.append((unit.unit, text))
    assert sorted(said) == sorted(texts)
    held_out = [batch.references for batch in annotations.val_dataloader()]
    assert list(chain(*held_out)) == [list(one.texts) for one in annotations.split.held_out]


def test_the_order_of_an_epoch_can_be_resumed() -> None:
    now = TrainingProgress()
    order = EpochBatchSampler(50, 8, seed=3, progress=lambda: now)
    first = list(order)
    assert sorted(chain(*first)) == list(range(50))
    assert len(order) == len(first) == 7
    now = TrainingProgress(epoch=0, batches=3)
    assert list(order) == first[3:]
    now = TrainingProgress(epoch=1)
    assert list(order) != first
    assert list(EpochBatchSampler(50, 8, seed=4)) != first


def test_processes_share_each_batch() -> None:
    parts = [
        list(EpochBatchSampler(50, 4, seed=3, progress=lambda rank=rank: TrainingProgress(rank=rank, world=3)))
        for rank in range(3)
    ]
    assert [len(part) for part in parts] == [5, 5, 5]
    assert {tuple(map(len, batches)) for batches in zip(*parts, strict=True)} == {(4, 4, 4), (1, 1, 1)}
    assert {index for part in parts for batch in part for index in batch} == set(range(50))


def test_a_captioner_cannot_be_trained_on_texts_alone(tmp_path: Path) -> None:
    file = annotated(tmp_path / "set") / "annotations.csv"
    assert len(MilannotationsDataModule([str(file)], encoder=None).split.held_out) == 4
    with pytest.raises(BadInput, match="holds texts alone"):
        _ = data(file).split


def test_facts_of_diorama_report_simulated_annotators() -> None:
    annotations = MilannotationsDataModule(["diorama"], encoder=None)
    assert "simulated" in str(annotations.facts["data"])
    assert annotations.facts["units"] > 1000
    few = MilannotationsDataModule(["diorama:resnet-objects", "diorama:resnet-scenes"], encoder=None)
    assert few.facts["data"] == annotations.facts["data"]
    assert {one.source.parent.name for one in few.split.train} == {"resnet-objects", "resnet-scenes"}
    with pytest.raises(UnknownName, match="resnet-objects"):
        _ = MilannotationsDataModule(["diorama:resnet-object"], encoder=None).split
