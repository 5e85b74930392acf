"""Splits of annotated networks: those of the paper, for any number of networks, with no unit in two parts."""

from pathlib import Path

import pytest

from milan.errors import BadInput, UnknownName
from milan.experiments.generalization.network_splits import (
    FAMILIES,
    TABLE_2,
    TABLE_3,
    AnnotatedNetwork,
    NetworkSplit,
    divide_units,
    load_networks,
    make_splits,
    select_splits,
)
from tests.models.test_data_module import annotated

SEVEN = [
    "alexnet/imagenet",
    "alexnet/places365",
    "biggan/imagenet",
    "biggan/places365",
    "dino_vits8/imagenet",
    "resnet152/imagenet",
    "resnet152/places365",
]


def networks(*names: str) -> list[AnnotatedNetwork]:
    return [AnnotatedNetwork.from_folder(Path("milannotations") / name, [Path(name) / "layer"]) for name in names]


def by_kind(splits: list[NetworkSplit]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split in splits:
        found.setdefault(split.kind, []).append(split.name)
    return found


def test_the_seven_networks_make_the_papers_splits() -> None:
    seven = networks(*SEVEN)
    splits = make_splits(seven)
    assert by_kind(splits) == {
        "within network": [network.name for network in seven],
        "across architectures": ["AlexNet to ResNet", "ResNet to AlexNet", "CNN to ViT"],
        "across data sets": ["objects to scenes", "scenes to objects"],
        "across tasks": ["classifiers to generators", "generators to classifiers"],
        "leave one out": [network.name for network in seven],
    }
    paper = {(split.kind, split.name): split.paper for split in splits if split.paper is not None}
    assert paper["within network", "biggan-places365"] == 0.52
    assert paper["across architectures", "CNN to ViT"] == 0.34
    assert paper["across tasks", "generators to classifiers"] == 0.27
    assert paper["leave one out", "resnet152-places365"] == 0.31
    assert len(paper) == 13 + 4, "all numbers of Tables 3 and 2 have their split"


def test_the_networks_of_a_split_are_the_papers() -> None:
    sides = {
        split.name: (names(split.train), names(split.test))
        for split in make_splits(networks(*SEVEN))
        if split.kind != "within network"
    }
    convolutional = [name.replace("/", "-") for name in SEVEN if "dino" not in name]
    assert sides["CNN to ViT"] == (convolutional, ["dino_vits8-imagenet"])
    assert sides["objects to scenes"] == (
        [n for n in convolutional if "imagenet" in n],
        [n for n in convolutional if "places" in n],
    )
    assert sides["generators to classifiers"] == (
        ["biggan-imagenet", "biggan-places365"],
        ["alexnet-imagenet", "alexnet-places365", "resnet152-imagenet", "resnet152-places365"],
    )
    assert sides["dino_vits8-imagenet"] == (convolutional, ["dino_vits8-imagenet"])


def names(side: tuple[AnnotatedNetwork, ...]) -> list[str]:
    return [network.name for network in side]


def test_fewer_networks_make_fewer_splits() -> None:
    assert by_kind(make_splits(networks("alexnet/imagenet", "resnet152/imagenet"))).keys() == {
        "within network",
        "across architectures",
        "leave one out",
    }
    assert by_kind(make_splits(networks("alexnet/imagenet"))).keys() == {"within network"}
    own = make_splits(networks("my_network", "alexnet/imagenet"))
    assert by_kind(own) == {
        "within network": ["my_network", "alexnet-imagenet"],
        "leave one out": ["my_network", "alexnet-imagenet"],
    }


def test_splits_that_test_on_some_networks_train_on_all() -> None:
    known = networks("alexnet-objects", "generator-objects", "resnet-objects", "resnet-scenes")
    found = select_splits(known, ["left-out", "architectures", "tasks"], ["alexnet-objects", "resnet-objects"])
    assert [split.name for split in found] == ["ResNet to AlexNet", "alexnet-objects", "resnet-objects"]
    assert len(found[1].train) == 3
    with pytest.raises(UnknownName, match="resnet-object"):
        select_splits(known, None, ["resnet-object"])


def test_dioramas_networks_are_the_papers_in_miniature() -> None:
    found = {network.name: network for network in load_networks(["diorama"])}
    assert found["resnet-scenes"].kind == "ResNet scenes"
    assert {network.kind for network in found.values()} >= set(TABLE_2)
    assert all(network.task and len(network.layers) >= 1 for network in found.values())
    assert {one for one, _ in TABLE_3} > set(TABLE_2)
    assert {family for family, _ in FAMILIES.values()} == {"AlexNet", "ResNet", "generator", "ViT"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("annotated")
    for name in ("alexnet/imagenet", "resnet152/imagenet"):
        annotated(root / name, k=2)
    return root


@pytest.mark.parametrize("seed", [0, 1])
def test_no_unit_is_in_two_parts(folders: Path, seed: int) -> None:
    for split in make_splits(load_networks([str(folders)])):
        share = divide_units(split, seed)
        sides = [{(one.source, one.unit) for one in side} for side in (share.train, share.stop, share.test)]
        assert all(sides)
        assert len(set.union(*sides)) == sum(map(len, sides)), split
        tested = {source.parent for source, _ in sides[2]}
        assert tested == {layer.parent for network in split.test for layer in network.layers}
        if not split.is_within:
            assert not tested & {source.parent for source, _ in sides[0] | sides[1]}
            assert len(sides[2]) == 40, "all units of the network that was left out are asked"
        else:
            assert len(sides[2]) == 4, "a tenth of each layer"


def test_the_seed_selects_the_held_out_units(folders: Path) -> None:
    within = make_splits(load_networks([str(folders)]))[0]
    drawn = [{one.unit for one in divide_units(within, seed).test} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_impossible_splits_are_errors(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown kind of split 'left'; nearest: left-out"):
        select_splits(load_networks([str(folders)]), ["left"])
    with pytest.raises(BadInput, match="alexnet-imagenet, resnet152-imagenet allow no split of the kinds across tasks"):
        select_splits(load_networks([str(folders)]), ["tasks"])
    (tmp_path / "texts.csv").write_text("layer,unit,summary\na,0,dots\n")
    with pytest.raises(BadInput, match="holds texts alone"):
        load_networks([str(tmp_path / "texts.csv")])
    annotated(tmp_path / "alexnet-imagenet", units=2)
    with pytest.raises(BadInput, match="two folders of annotations have the name alexnet-imagenet"):
        load_networks([str(folders), str(tmp_path / "alexnet-imagenet")])
