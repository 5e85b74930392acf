"""The annotated networks, and the splits of them into training and test networks (MILAN, section 4 and appendix C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milan.errors import BadInput, UnknownName
from milan.models.annotated_units import AnnotatedUnit, find_annotation_sources, read_annotations, split_by_unit

SplitKind = Literal["within network", "across architectures", "across data sets", "across tasks", "leave one out"]
SPLIT_KINDS: dict[str, SplitKind] = {
    "within": "within network",
    "architectures": "across architectures",
    "data-sets": "across data sets",
    "tasks": "across tasks",
    "left-out": "leave one out",
}
# Fraction of the units held out: for the test within a network, and for early stopping (appendices B.1 and C).
HELD_OUT_SHARE = 0.1

# Architecture and task by the beginning of a network's name; the first match counts.
FAMILIES = {
    "alexnet": ("AlexNet", "classifiers"),
    "resnet": ("ResNet", "classifiers"),
    "biggan": ("generator", "generators"),
    "generator": ("generator", "generators"),
    "dino": ("ViT", "self-supervised"),
    "vit": ("ViT", "classifiers"),
}
# Diorama's two sets of scenes stand in for ImageNet and Places365.
DATA_SETS = {"imagenet": "objects", "objects": "objects", "places365": "scenes", "places": "scenes", "scenes": "scenes"}

# BERTScore (F) of Hernandez et al. 2022: Table 3 by training and test networks, Table 2 by the network left out.
TABLE_3 = {
    ("AlexNet objects", ""): 0.39,
    ("AlexNet scenes", ""): 0.47,
    ("ResNet objects", ""): 0.35,
    ("ResNet scenes", ""): 0.28,
    ("generator objects", ""): 0.49,
    ("generator scenes", ""): 0.52,
    ("AlexNet", "ResNet"): 0.28,
    ("ResNet", "AlexNet"): 0.35,
    ("CNN", "ViT"): 0.34,
    ("objects", "scenes"): 0.30,
    ("scenes", "objects"): 0.33,
    ("classifiers", "generators"): 0.34,
    ("generators", "classifiers"): 0.27,
}
TABLE_2 = {
    "AlexNet objects": {"compositional": 0.01, "netdissect": 0.24, "p(d|E)": 0.34, "milan": 0.38},
    "AlexNet scenes": {"compositional": 0.02, "netdissect": 0.21, "p(d|E)": 0.31, "milan": 0.37},
    "ResNet objects": {"compositional": 0.01, "netdissect": 0.25, "p(d|E)": 0.27, "milan": 0.35},
    "ResNet scenes": {"compositional": 0.03, "netdissect": 0.22, "p(d|E)": 0.30, "milan": 0.31},
}


@dataclass(frozen=True)
class AnnotatedNetwork:
    """A network with annotated units.

    Attributes:
        name: the name, such as ``resnet-objects`` or ``alexnet-imagenet``.
        layers: the folders of the annotated layers.
        architecture: AlexNet, ResNet, generator or ViT; empty if unknown.
        task: classifiers, generators or self-supervised; empty if unknown.
        data_set: ``objects`` (as ImageNet) or ``scenes`` (as Places365); empty if unknown.
    """

    name: str
    layers: tuple[Path, ...]
    architecture: str = ""
    task: str = ""
    data_set: str = ""

    @classmethod
    def from_folder(cls, folder: Path, layers: Sequence[Path]) -> "AnnotatedNetwork":
        """Return the network of a folder; architecture, task and data set are read from the names of folder and parent.

        >>> network = AnnotatedNetwork.from_folder(Path("milannotations/resnet152/places365"), [])
        >>> network.name, network.architecture, network.task, network.data_set
        ('resnet152-places365', 'ResNet', 'classifiers', 'scenes')
        """
        for name in (folder.name, f"{folder.parent.name}-{folder.name}"):
            family = next((begins for begins in FAMILIES if name.lower().startswith(begins)), "")
            if family:
                data_set = DATA_SETS.get(name.lower().rpartition("-")[2], "")
                return cls(name, tuple(layers), *FAMILIES[family], data_set)
        return cls(folder.name, tuple(layers))

    @property
    def kind(self) -> str:
        """Architecture and data set, as the paper's tables name networks."""
        return f"{self.architecture} {self.data_set}".strip()


@dataclass(frozen=True)
class NetworkSplit:
    """Training networks and test networks; where they are the same, some units of each are held out for the test.

    Attributes:
        kind: the kind of the split.
        name: the name of the split, unique within its kind.
        train: the training networks.
        test: the test networks.
        paper: the BERTScore (F) of the paper, if it has this split.
    """

    kind: SplitKind
    name: str
    train: tuple[AnnotatedNetwork, ...]
    test: tuple[AnnotatedNetwork, ...]
    paper: float | None = None

    @property
    def is_within(self) -> bool:
        """Whether training and test units are of the same networks."""
        return self.train == self.test

    @property
    def patience(self) -> int:
        """The paper's patience in epochs: 4, and 10 within one network (appendix C)."""
        return 10 if self.is_within else 4


@dataclass(frozen=True)
class SplitUnits:
    """The units of a split, for training, early stopping and test; no unit is in two of them."""

    train: tuple[AnnotatedUnit, ...]
    stop: tuple[AnnotatedUnit, ...]
    test: tuple[AnnotatedUnit, ...]


def load_networks(annotations: Sequence[str], imagenet: str = "") -> list[AnnotatedNetwork]:
    """Return the annotated networks of ``diorama``, of ``milannotations:GROUP`` or under these folders, in alphabetical
    order.

    Args:
        imagenet: folder of the ImageNet validation set, for released annotations of its images.

    Raises:
        BadInput: there are no annotations, or two networks have the same name.
    """
    layers: dict[Path, list[Path]] = {}
    for layer in find_annotation_sources(annotations, imagenet=imagenet):
        if layer.is_file():
            raise BadInput(f"{layer} holds texts alone, which train no captioner; give folders with images and masks")
        layers.setdefault(layer.parent, []).append(layer)
    networks = sorted(
        (AnnotatedNetwork.from_folder(folder.absolute(), several) for folder, several in layers.items()),
        key=lambda network: network.name,
    )
    names = [network.name for network in networks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            f"two folders of annotations have the name {twice[0]}; rename one, since results are kept by name"
        )
    return networks


def make_splits(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    """Return all splits of these networks, in the order of the paper's Table 3, and then those of Table 2."""
    return [
        *_split_within(networks),
        *_split_across_architectures(networks),
        *_split_across_data_sets(networks),
        *_split_across_tasks(networks),
        *_leave_one_out(networks),
    ]


def select_splits(
    networks: Sequence[AnnotatedNetwork], kinds: Sequence[str] | None, test_networks: Sequence[str] | None = None
) -> list[NetworkSplit]:
    """Return the splits of some kinds that test on no other than some networks.

    Args:
        networks: the annotated networks.
        kinds: short names of kinds, as in ``SPLIT_KINDS``; all by default.
        test_networks: names of networks; all by default.

    Raises:
        UnknownName: there is no such kind, or no such network.
        BadInput: these networks allow no such split.
    """
    unknown = [name for name in kinds or [] if name not in SPLIT_KINDS]
    if unknown:
        raise UnknownName("kind of split", unknown[0], SPLIT_KINDS, f"choose from {', '.join(SPLIT_KINDS)}")
    names = [network.name for network in networks]
    if unknown := [name for name in test_networks or [] if name not in names]:
        raise UnknownName("annotated network", unknown[0], names, f"choose from {', '.join(names)}")
    selected_kinds, selected_names = {SPLIT_KINDS[name] for name in kinds or SPLIT_KINDS}, set(test_networks or names)
    splits = [
        split
        for split in make_splits(networks)
        if split.kind in selected_kinds and {network.name for network in split.test} <= selected_names
    ]
    if not splits:
        tested = f" that test on {', '.join(sorted(selected_names))}" if test_networks else ""
        raise BadInput(
            f"{', '.join(names)} allow no split of the kinds {', '.join(sorted(selected_kinds))}{tested}; annotate more"
            " networks, or choose other kinds"
        )
    return splits


def _split_within(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    return [NetworkSplit("within network", one.name, (one,), (one,), TABLE_3.get((one.kind, ""))) for one in networks]


def _split_across_architectures(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    splits = []
    for train, test in (("AlexNet", "ResNet"), ("ResNet", "AlexNet")):
        splits += _make_split(
            "across architectures",
            train,
            test,
            _select_by(networks, "architecture", train),
            _select_by(networks, "architecture", test),
        )
    convolutional = [one for one in networks if one.architecture not in ("ViT", "")]
    return splits + _make_split(
        "across architectures", "CNN", "ViT", convolutional, _select_by(networks, "architecture", "ViT")
    )


def _split_across_data_sets(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    """Return the splits of convolutional networks, as in the groups ``imagenet`` and ``places365`` of the release."""
    convolutional = [one for one in networks if one.architecture != "ViT"]
    pairs = (("objects", "scenes"), ("scenes", "objects"))
    splits = [
        _make_split(
            "across data sets",
            train,
            test,
            _select_by(convolutional, "data_set", train),
            _select_by(convolutional, "data_set", test),
        )
        for train, test in pairs
    ]
    return [split for pair in splits for split in pair]


def _split_across_tasks(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    pairs = (("classifiers", "generators"), ("generators", "classifiers"))
    splits = [
        _make_split(
            "across tasks", train, test, _select_by(networks, "task", train), _select_by(networks, "task", test)
        )
        for train, test in pairs
    ]
    return [split for pair in splits for split in pair]


def _leave_one_out(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    if len(networks) < 2:
        return []
    rest = {one.name: tuple(other for other in networks if other != one) for one in networks}
    return [
        NetworkSplit("leave one out", one.name, rest[one.name], (one,), TABLE_2.get(one.kind, {}).get("milan"))
        for one in networks
    ]  # fmt: skip


def _select_by(networks: Sequence[AnnotatedNetwork], trait: str, value: str) -> list[AnnotatedNetwork]:
    return [one for one in networks if getattr(one, trait) == value]


def _make_split(
    kind: SplitKind,
    train: str,
    test: str,
    train_networks: Sequence[AnnotatedNetwork],
    test_networks: Sequence[AnnotatedNetwork],
) -> list[NetworkSplit]:
    """Return the split, or nothing if one of its sides has no network."""
    if not train_networks or not test_networks:
        return []
    paper = TABLE_3.get((train, test))
    return [NetworkSplit(kind, f"{train} to {test}", tuple(train_networks), tuple(test_networks), paper)]


def list_annotated_units(networks: Sequence[AnnotatedNetwork]) -> list[AnnotatedUnit]:
    """Return all annotated units of some networks."""
    return [
        AnnotatedUnit(layer, unit, texts)
        for network in networks
        for layer in network.layers
        for unit, texts in read_annotations(layer).items()
    ]


def divide_units(split: NetworkSplit, seed: int) -> SplitUnits:
    """Return the units of a split for training, early stopping and test; the seed selects the held-out units.

    Raises:
        BadInput: there are too few units.
    """
    train = list_annotated_units(split.train)
    if split.is_within:
        within = split_by_unit(train, HELD_OUT_SHARE, seed)
        train, test = list(within.train), within.held_out
    else:
        test = tuple(list_annotated_units(split.test))
    parts = split_by_unit(train, HELD_OUT_SHARE, seed)
    return SplitUnits(parts.train, parts.held_out, test)
