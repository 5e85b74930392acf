"""Which annotated networks there are, and who learns from whose annotations: the splits of MILAN's section 4 and
appendix C.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milan.errors import BadInput, UnknownName
from milan.models.data_module import AnnotatedUnit, find_annotation_sources, read_annotations, split_by_unit

SplitKind = Literal["within network", "across architectures", "across data sets", "across tasks", "leave one out"]
SPLIT_KINDS: dict[str, SplitKind] = {
    "within": "within network",
    "architectures": "across architectures",
    "data-sets": "across data sets",
    "tasks": "across tasks",
    "left-out": "leave one out",
}
HELD_OUT_SHARE = (
    0.1  # of a network's units, within it, and of what is trained on, to know when to stop (appendices B.1 and C)
)

# How the name of a network begins: its architecture and its task. The first fits that does.
FAMILIES = {
    "alexnet": ("AlexNet", "classifiers"),
    "resnet": ("ResNet", "classifiers"),
    "biggan": ("generator", "generators"),
    "generator": ("generator", "generators"),
    "dino": ("ViT", "self-supervised"),
    "vit": ("ViT", "classifiers"),
}
# Diorama's two worlds are the stand-ins of the two data sets.
DATA_SETS = {"imagenet": "objects", "objects": "objects", "places365": "scenes", "places": "scenes", "scenes": "scenes"}

# BERTScore (F) of Hernandez et al. 2022: Table 3, by what was trained on and tested, and Table 2, by the network left
# out.
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
    """A network whose units were annotated.

    Attributes:
        name: what it is called, such as ``resnet-objects`` or ``alexnet-imagenet``.
        layers: folders of its annotated layers.
        architecture: AlexNet, ResNet, generator or ViT; empty if its name does not tell.
        task: classifiers, generators or self-supervised; empty if its name does not tell.
        data_set: ``objects`` (ImageNet's part) or ``scenes`` (Places365's); empty if its name does not tell.
    """

    name: str
    layers: tuple[Path, ...]
    architecture: str = ""
    task: str = ""
    data_set: str = ""

    @classmethod
    def from_folder(cls, folder: Path, layers: Sequence[Path]) -> "AnnotatedNetwork":
        """Tells architecture, task and data set by the names of the folder and of the one it lies in.

        >>> AnnotatedNetwork.from_folder(Path("milannotations/resnet152/places365"), [])
        AnnotatedNetwork(name='resnet152-places365', layers=(), architecture='ResNet', task='classifiers',
        data_set='scenes')
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
    """Networks to learn from and networks to describe; where these are the same, units of each are held out."""

    kind: SplitKind
    name: str
    train: tuple[AnnotatedNetwork, ...]
    test: tuple[AnnotatedNetwork, ...]
    paper: float | None = None  # BERTScore (F) in the paper

    @property
    def is_within(self) -> bool:
        return self.train == self.test

    @property
    def patience(self) -> int:
        """Epochs without a better score before training stops: 4, and 10 within one network (appendix C)."""
        return 10 if self.is_within else 4


@dataclass(frozen=True)
class SplitUnits:
    """The units of a split: trained on, asked when to stop, and described. No unit is in two of them."""

    train: tuple[AnnotatedUnit, ...]
    stop: tuple[AnnotatedUnit, ...]
    test: tuple[AnnotatedUnit, ...]


def load_networks(annotations: Sequence[str], imagenet: str = "") -> list[AnnotatedNetwork]:
    """Return the annotated networks of ``diorama``, of ``milannotations:GROUP`` or under these folders, in alphabetical
    order.

    Args:
        imagenet: folder of the ImageNet validation set, for released annotations of its images.

    Raises:
        BadInput: there are none, or two of one name.
    """
    layers: dict[Path, list[Path]] = {}
    for layer in find_annotation_sources(annotations, imagenet=imagenet):
        if layer.is_file():
            raise BadInput(
                f"{layer} holds texts alone, from which no captioner learns; give folders with images and masks"
            )
        layers.setdefault(layer.parent, []).append(layer)
    networks = sorted(
        (AnnotatedNetwork.from_folder(folder.absolute(), found) for folder, found in layers.items()),
        key=lambda network: network.name,
    )
    names = [network.name for network in networks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"two folders of annotations are called {twice[0]}; rename one, since results go by name")
    return networks


def make_splits(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    """Every split that these networks allow, in the order of the paper's Table 3, those of Table 2 at the end."""
    return [
        *_split_within(networks),
        *_split_across_architectures(networks),
        *_split_across_data_sets(networks),
        *_split_across_tasks(networks),
        *_leave_one_out(networks),
    ]


def select_splits(
    networks: Sequence[AnnotatedNetwork], kinds: Sequence[str] | None, described: Sequence[str] | None = None
) -> list[NetworkSplit]:
    """The splits of some kinds, by their short names, that describe none but some networks; all by default.

    Raises:
        UnknownName: there is no such kind, or no such network.
        BadInput: these networks allow none of them.
    """
    unknown = [name for name in kinds or [] if name not in SPLIT_KINDS]
    if unknown:
        raise UnknownName("kind of split", unknown[0], SPLIT_KINDS, f"those there are: {', '.join(SPLIT_KINDS)}")
    names = [network.name for network in networks]
    if strange := [name for name in described or [] if name not in names]:
        raise UnknownName("annotated network", strange[0], names, f"those there are: {', '.join(names)}")
    wanted, asked = {SPLIT_KINDS[name] for name in kinds or SPLIT_KINDS}, set(described or names)
    found = [
        split
        for split in make_splits(networks)
        if split.kind in wanted and {network.name for network in split.test} <= asked
    ]
    if not found:
        request = ", ".join(sorted(wanted)) + (f" that describe {', '.join(sorted(asked))}" if described else "")
        raise BadInput(
            f"no split of the kinds {request} can be made of {', '.join(names)}; annotate more networks, or ask for"
            " others"
        )
    return found


def _split_within(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    return [NetworkSplit("within network", one.name, (one,), (one,), TABLE_3.get((one.kind, ""))) for one in networks]


def _split_across_architectures(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    found = []
    for train, test in (("AlexNet", "ResNet"), ("ResNet", "AlexNet")):
        found += _make_split(
            "across architectures",
            train,
            test,
            _select_by(networks, "architecture", train),
            _select_by(networks, "architecture", test),
        )
    convolutional = [one for one in networks if one.architecture not in ("ViT", "")]
    return found + _make_split(
        "across architectures", "CNN", "ViT", convolutional, _select_by(networks, "architecture", "ViT")
    )


def _split_across_data_sets(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    """Convolutional networks only, as the release's groups ``imagenet`` and ``places365`` have it."""
    known = [one for one in networks if one.architecture != "ViT"]
    pairs = (("objects", "scenes"), ("scenes", "objects"))
    found = [
        _make_split(
            "across data sets", train, test, _select_by(known, "data_set", train), _select_by(known, "data_set", test)
        )
        for train, test in pairs
    ]
    return [split for pair in found for split in pair]


def _split_across_tasks(networks: Sequence[AnnotatedNetwork]) -> list[NetworkSplit]:
    pairs = (("classifiers", "generators"), ("generators", "classifiers"))
    found = [
        _make_split(
            "across tasks", train, test, _select_by(networks, "task", train), _select_by(networks, "task", test)
        )
        for train, test in pairs
    ]
    return [split for pair in found for split in pair]


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
    kind: SplitKind, train: str, test: str, learnt: Sequence[AnnotatedNetwork], asked: Sequence[AnnotatedNetwork]
) -> list[NetworkSplit]:
    """One split, or none where one of the sides has no network."""
    return (
        [NetworkSplit(kind, f"{train} to {test}", tuple(learnt), tuple(asked), TABLE_3.get((train, test)))]
        if learnt and asked
        else []
    )


def list_annotated_units(networks: Sequence[AnnotatedNetwork]) -> list[AnnotatedUnit]:
    """All annotated units of the networks."""
    return [
        AnnotatedUnit(layer, unit, texts)
        for network in networks
        for layer in network.layers
        for unit, texts in read_annotations(layer).items()
    ]


def divide_units(split: NetworkSplit, seed: int) -> SplitUnits:
    """Who is trained on and who is asked, by unit; the seed draws those that are held out.

    Raises:
        BadInput: there are too few units.
    """
    known = list_annotated_units(split.train)
    if split.is_within:
        held = split_by_unit(known, HELD_OUT_SHARE, seed)
        known, test = list(held.train), held.held_out
    else:
        test = tuple(list_annotated_units(split.test))
    parts = split_by_unit(known, HELD_OUT_SHARE, seed)
    return SplitUnits(parts.train, parts.held_out, test)
