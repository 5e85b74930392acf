"""What people said of units: annotated dissections as batches for training, split by unit."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from milan.console.progress import track_progress
from milan.dissection.milannotations import read_unit_annotations
from milan.dissection.store import Dissection, load_dissection
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.models.captioner import CaptionBatch, UnitBatch
from milan.models.encoder import Downsampling, Encoder, MaskPooling, load_encoder
from milan.models.milannotations_download import MILANNOTATIONS_PREFIX, fetch_annotations
from milan.models.prior import TextBatch
from milan.models.vocabulary import Vocabulary, tokenize
from milan.storage.files import cache_folder, content_key
from milan.storage.integrity import made_once
from milan.storage.packaged_data import locate_packaged_data
from milan.units import Unit

DIORAMA, DIORAMA_DESCRIPTION = "diorama", "Diorama (drawn scenes; simulated annotators)"
MAX_WORDS = 60  # words of an annotation; the rest of a longer one is cut off
MILANNOTATIONS_GROUPS: dict[str, tuple[str, ...]] = {  # MILANNOTATIONS' groups, as paths under its root
    "base": (
        "alexnet/imagenet",
        "alexnet/places365",
        "resnet152/imagenet",
        "resnet152/places365",
        "biggan/imagenet",
        "biggan/places365",
    ),
    "cls": ("alexnet/imagenet", "alexnet/places365", "resnet152/imagenet", "resnet152/places365"),
    "gen": ("biggan/imagenet", "biggan/places365"),
    "imagenet": ("alexnet/imagenet", "resnet152/imagenet", "biggan/imagenet"),
    "places365": ("alexnet/places365", "resnet152/places365", "biggan/places365"),
    "alexnet": ("alexnet/imagenet", "alexnet/places365"),
    "resnet152": ("resnet152/imagenet", "resnet152/places365"),
    "biggan": ("biggan/imagenet", "biggan/places365"),
    "dino": ("dino_vits8/imagenet",),
}


class AnnotatedUnit(NamedTuple):
    """One unit, where it lies, and what was said of it."""

    source: Path  # the layer's folder, or a csv file
    unit: Unit
    texts: tuple[str, ...]


@dataclass(frozen=True)
class AnnotationSplit:
    """Which units are trained on and which are held out; vocabulary, prior and captioner share it."""

    train: tuple[AnnotatedUnit, ...]
    held_out: tuple[AnnotatedUnit, ...]


def find_group_folders(name: str, root: Path) -> list[Path]:
    """The folders under ``root`` of a group of MILANNOTATIONS; ``not-GROUP`` (or ``not-alexnet/imagenet``) is ``base``
    without it.

    >>> [path.as_posix() for path in find_group_folders("not-imagenet", Path("data"))]
    ['data/alexnet/places365', 'data/resnet152/places365', 'data/biggan/places365']
    """
    left_out = name.removeprefix("not-")
    known = {
        **MILANNOTATIONS_GROUPS,
        **{path: (path,) for path in (*MILANNOTATIONS_GROUPS["base"], *MILANNOTATIONS_GROUPS["dino"])},
    }
    if left_out not in known:
        raise UnknownName(
            "group of annotations", name, [*known, *(f"not-{other}" for other in known)], "or give folders or csv files"
        )
    if name == left_out:
        return [root / path for path in known[name]]
    return [root / path for path in MILANNOTATIONS_GROUPS["base"] if path not in known[left_out]]


def find_annotation_sources(names: Sequence[str], root: str | Path = "", imagenet: str = "") -> list[Path]:
    """Return the layers' folders and csv files that names stand for.

    Args:
        names: ``diorama`` or ``diorama:NETWORK``; ``milannotations:GROUP``, which is downloaded the first time;
            existing paths; or groups under ``root``.
        root: folder of the groups.
        imagenet: folder of the ImageNet validation set, for downloaded annotations of its images.

    Raises:
        BadInput: a path holds no annotations, or a download fails.
        MissingEvidence: downloaded annotations need images of ImageNet, and no folder is given.
        UnknownName: no group, or no network of Diorama's that was annotated, of that name.
    """
    found: list[Path] = []
    for name in names:
        if name.partition(":")[0] == DIORAMA:
            found += _find_layers(_find_diorama_folder(name.partition(":")[2]))
        elif name.startswith(MILANNOTATIONS_PREFIX):
            group = find_group_folders(name.removeprefix(MILANNOTATIONS_PREFIX), Path())
            for folder in fetch_annotations([path.as_posix() for path in group], imagenet):
                found += _find_layers(folder)
        elif Path(name).exists():
            found += _find_layers(Path(name))
        else:
            for folder in find_group_folders(name, Path(root)):
                found += _find_layers(folder)
    return list(dict.fromkeys(found))


def _find_diorama_folder(network: str) -> Path:
    """The folder of one of Diorama's annotated networks, or of all."""
    home = locate_packaged_data("data/diorama/annotations")
    known = sorted(path.name for path in home.iterdir() if path.is_dir())
    if network and network not in known:
        raise UnknownName("annotated network of Diorama", network, known, "one of: " + ", ".join(known))
    return home / network


def _find_layers(path: Path) -> list[Path]:
    """Layer folders at or under ``path``, in alphabetical order; a csv file stands for itself."""
    if path.is_file():
        return [path]
    folders = sorted({file.parent for name in ("ids.csv", "dissection.json") for file in path.glob(f"**/{name}")})
    if not folders:
        raise BadInput(
            f"no annotated dissections under {path}: a layer's folder holds ids.csv, masks.npy and images.npy"
        )
    return folders


def read_annotations(source: Path) -> dict[Unit, tuple[str, ...]]:
    """Texts by unit of a layer's folder or a csv file: white space made single, empty ones left out, very long ones cut
    with a warning.

    Raises:
        BadInput: there are none.
    """
    said: dict[Unit, tuple[str, ...]] = {}
    cut = 0
    for unit, texts in read_unit_annotations(source).items():
        words = [text.split() for text in texts if tokenize(text)]
        cut += sum(len(one) > MAX_WORDS for one in words)
        if words:
            said[unit] = tuple(" ".join(one[:MAX_WORDS]) for one in words)
    if cut:
        warnings.warn(
            f"{source}: {cut} annotations of more than {MAX_WORDS} words were cut", MilanWarning, stacklevel=2
        )
    return said


def split_by_unit(annotated: Sequence[AnnotatedUnit], held_out: float, seed: int) -> AnnotationSplit:
    """Holds out that share of each layer's units, by a hash of their names: the same ones whatever else is
    trained on.
    """
    if not 0 < held_out < 1:
        raise BadInput(f"held_out is {held_out}; give a share between 0 and 1, as 0.1")
    layers: dict[tuple[Path, str], list[AnnotatedUnit]] = {}
    for one in annotated:
        layers.setdefault((one.source, one.unit.layer), []).append(one)
    out: set[tuple[Path, Unit]] = set()
    for units in layers.values():
        order = sorted(
            units, key=lambda one: hashlib.sha256(f"{seed} {one.source.parent.name} {one.unit}".encode()).digest()
        )
        out |= {(one.source, one.unit) for one in order[: round(held_out * len(units)) or int(len(units) > 1)]}
    pair: tuple[list[AnnotatedUnit], list[AnnotatedUnit]] = [], []
    for one in annotated:
        pair[(one.source, one.unit) in out].append(one)
    if not pair[0] or not pair[1]:
        raise BadInput(f"{len(annotated)} annotated units are too few to train on some and hold out others")
    return AnnotationSplit(tuple(pair[0]), tuple(pair[1]))


class MilannotationsDataModule(LightningDataModule):
    """Annotations and the frozen encoder's features of the units they are of; for the prior (``encoder=None``) the
    texts alone.

    Training batches go by annotation, held-out ones by unit where there are features (for scores of descriptions), else
    by annotation. Features are computed once and kept under the cache folder by the content of dissection and encoder.

    Args:
        folders: ``diorama`` (or ``diorama:NETWORK``), ``milannotations:GROUP`` (a group of the released annotations,
            downloaded the first time), paths of annotated dissections (layers or data sets,
            MILANNOTATIONS' layout or ours) or csv files, or names of MILANNOTATIONS' groups under ``root``: base, cls,
            gen, imagenet, places365, alexnet, resnet152, biggan, dino, or not-NAME.
        root: folder of the groups.
        imagenet: folder of the ImageNet validation set (1,000 class folders), for released annotations of its images.
        encoder: spec of the frozen encoder, or None.
        encoder_weights: its weights, where they are not its own.
        pooling: see ``Encoder``.
        downsampling: see ``Encoder``.
        held_out: share of each layer's units that is not trained on.
        minimum: how often a word must occur in the training texts to be in the vocabulary.
        batch_size: annotations in a batch.
        seed: of the split and of the order of the batches.
        device: where the encoder runs.
    """

    def __init__(
        self,
        folders: list[str],
        root: str = "",
        encoder: str | None = "diorama:encoder",
        encoder_weights: str = "",
        pooling: MaskPooling = "mean",
        downsampling: Downsampling = "bilinear",
        held_out: float = 0.1,
        minimum: int = 2,
        batch_size: int = 64,
        seed: int = 0,
        device: str = "cpu",
        imagenet: str = "",
    ):
        super().__init__()
        self.imagenet = imagenet
        self.folders, self.root, self.held_out, self.minimum = folders, root, held_out, minimum
        self.batch_size, self.seed = batch_size, seed
        self.encoder_options: dict[str, Any] = {
            "pooling": pooling,
            "downsampling": downsampling,
            "weights": encoder_weights or None,
        }
        self.spec, self.device = encoder, device

    @cached_property
    def split(self) -> AnnotationSplit:
        """The units of all folders, divided."""
        annotated = [
            AnnotatedUnit(source, unit, texts)
            for source in find_annotation_sources(self.folders, self.root, self.imagenet)
            for unit, texts in read_annotations(source).items()
            if self.spec is None or unit in self._units_with_features(source)
        ]
        return split_by_unit(annotated, self.held_out, self.seed)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words of the training units' texts."""
        return Vocabulary.build((text for one in self.split.train for text in one.texts), minimum=self.minimum)

    @property
    def words(self) -> list[str]:
        return self.vocabulary.words

    @cached_property
    def encoder(self) -> Encoder:
        if self.spec is None:
            raise BadInput(
                "without an encoder there are no features; give data.encoder, as diorama:encoder or"
                " torchvision:resnet101"
            )
        return load_encoder(self.spec, device=self.device, **self.encoder_options)

    @property
    def encoder_settings(self) -> dict[str, str]:
        """Nothing where there is no encoder."""
        return self.encoder.settings if self.spec is not None else {}

    @property
    def feature_length(self) -> int:
        """0 where there is no encoder."""
        return self.encoder.feature_length if self.spec is not None else 0

    @property
    def facts(self) -> dict[str, Any]:
        """What a model trained on this tells of it."""
        folders = list(
            dict.fromkeys(DIORAMA_DESCRIPTION if name.partition(":")[0] == DIORAMA else name for name in self.folders)
        )
        split = self.split
        facts = {"data": folders, "units": len(split.train), "held-out units": len(split.held_out), "seed": self.seed}
        return facts | {"annotations": sum(len(one.texts) for one in split.train), "words": len(self.words)}

    def _dissection(self, source: Path) -> Dissection:
        if source.is_file():
            raise BadInput(
                f"{source} holds texts alone, which train a prior but no captioner; give folders with images and masks"
            )
        return self._dissections.setdefault(source, load_dissection(source))

    @cached_property
    def _dissections(self) -> dict[Path, Dissection]:
        return {}

    def _units_with_features(self, source: Path) -> set[Unit]:
        return set(self._dissection(source).units)

    def prepare_data(self) -> None:
        """Computes the features that are not in the cache yet."""
        if self.spec is not None:
            for source in self._sources():
                cache_features(self._dissection(source), self.encoder)

    def _sources(self) -> list[Path]:
        return list(dict.fromkeys(one.source for one in (*self.split.train, *self.split.held_out)))

    @cached_property
    def _features(self) -> dict[Path, np.ndarray]:
        return {
            source: np.load(cache_features(self._dissection(source), self.encoder), mmap_mode="r")
            for source in self._sources()
        }

    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k features"]:
        """Features of the exemplars of each unit."""
        rows = [self._features[one.source][self._dissection(one.source).row_of(one.unit)] for one in units]
        if len({len(row) for row in rows}) > 1:
            counts = sorted({len(row) for row in rows})
            raise BadInput(
                f"units with {counts[0]} and with {counts[-1]} exemplars cannot be in one batch; dissect all with one k"
            )
        return torch.from_numpy(np.stack(rows))

    def train_dataloader(self) -> DataLoader:
        said = [(one, self.vocabulary.encode(text)) for one in self.split.train for text in one.texts]
        order = EpochBatchSampler(len(said), self.batch_size, self.seed, self._get_progress)
        return DataLoader(
            SequenceDataset(said),
            batch_sampler=order,
            collate_fn=self._collate,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def val_dataloader(self) -> DataLoader:
        own: dict[str, Any] = {"batch_size": self.batch_size, "generator": torch.Generator().manual_seed(self.seed)}
        if self.spec is None:
            said = [(one, self.vocabulary.encode(text)) for one in self.split.held_out for text in one.texts]
            return DataLoader(SequenceDataset(said), collate_fn=self._collate, **own)
        return DataLoader(SequenceDataset(self.split.held_out), collate_fn=self._collate_units, **own)

    def _collate(self, said: Sequence[tuple[AnnotatedUnit, list[int]]]) -> CaptionBatch | TextBatch:
        tokens = pad_sequence(
            [torch.tensor(ids) for _, ids in said], batch_first=True, padding_value=self.vocabulary.pad
        )
        if self.spec is None:
            return TextBatch(tokens)
        return CaptionBatch(self.load_features([one for one, _ in said]), tokens)

    def _collate_units(self, units: Sequence[AnnotatedUnit]) -> UnitBatch:
        return UnitBatch(self.load_features(units), [list(one.texts) for one in units])

    def _get_progress(self) -> "TrainingProgress":
        """Where the training is: after a resumption in the middle of an epoch."""
        trainer = self.trainer
        if trainer is None:
            return TrainingProgress()
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return TrainingProgress(trainer.current_epoch, done, trainer.global_rank, trainer.world_size)


class TrainingProgress(NamedTuple):
    """Epoch and batches done in it, and which of how many processes this is."""

    epoch: int = 0
    batches: int = 0
    rank: int = 0
    world: int = 1


class SequenceDataset(Dataset):
    """A sequence as a dataset."""

    def __init__(self, items: Sequence[Any]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class EpochBatchSampler(Sampler[list[int]]):
    """Batches in an epoch's own order, which (seed, epoch) decide, from where the training is: a resumed epoch goes on
    in it.

    Several processes share each batch; the last one is filled up from the epoch's beginning so that all have as much to
    do.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, progress: Callable[[], TrainingProgress] = TrainingProgress
    ):
        self.items, self.batch_size, self.seed, self.progress = length, batch_size, seed, progress

    def __len__(self) -> int:
        return -(-self.items // (self.batch_size * self.progress().world))

    def __iter__(self) -> Iterator[list[int]]:
        now = self.progress()
        order = self.order(now.epoch)
        step = self.batch_size * now.world
        for begin in range(now.batches * step, len(order), step):
            batch = order[begin : begin + step]
            filled = torch.cat([batch, order[: -len(batch) % now.world]])
            yield filled[now.rank :: now.world].tolist()

    def order(self, epoch: int) -> Int[Tensor, " items"]:
        seed = int(content_key(seed=self.seed, epoch=epoch)[:15], 16)
        return torch.randperm(self.items, generator=torch.Generator().manual_seed(seed))


def cache_features(dissection: Dissection, encoder: Encoder) -> Path:
    """The file of the encoder's features of a dissection's units, in their order, (units, k, features); made if the
    cache has it not.
    """
    key = content_key(dissection=dissection.key, encoder=encoder.key, units=[str(unit) for unit in dissection.units])
    file = cache_folder() / "features" / f"{key}.npy"

    def make(path: Path) -> None:
        units = track_progress(dissection.units, description=f"features of {dissection.layer}")
        np.save(path, np.stack([_encode_exemplars(dissection, unit, encoder) for unit in units]))

    made_once(file, make, partial(np.load, mmap_mode="r"))
    return file


def _encode_exemplars(dissection: Dissection, unit: Unit, encoder: Encoder) -> np.ndarray:
    exemplars = dissection.exemplars(unit)
    return encoder.encode(exemplars.images, exemplars.masks).numpy()
