"""Annotations as training and validation batches: a general data module, and the one of ``train.py``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from milan.errors import BadInput
from milan.models.annotated_units import (
    DIORAMA,
    AnnotatedUnit,
    AnnotationSplit,
    find_annotation_sources,
    read_annotations,
    split_by_unit,
)
from milan.models.captioner import CaptionBatch, UnitBatch
from milan.models.encoder import Downsampling, Encoder, MaskPooling, load_encoder
from milan.models.feature_store import FeatureStore
from milan.models.prior import TextBatch
from milan.models.vocabulary import Vocabulary
from milan.storage.files import content_key

DIORAMA_DESCRIPTION = "Diorama (drawn scenes; simulated annotators)"


class TrainingProgress(NamedTuple):
    """The position of a training run, and the rank of this process.

    Attributes:
        epoch: the current epoch.
        batches: the number of finished batches of this epoch.
        rank: the rank of this process.
        world: the number of processes.
    """

    epoch: int = 0
    batches: int = 0
    rank: int = 0
    world: int = 1

    @classmethod
    def read(cls, trainer: Trainer | None) -> "TrainingProgress":
        """Return the position of a trainer; the start of the first epoch without one."""
        if trainer is None:
            return cls()
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return cls(trainer.current_epoch, batches, trainer.global_rank, trainer.world_size)


class AnnotationDataModule(LightningDataModule, ABC):
    """Batches of annotations, with the features of the annotated units unless the model reads texts alone.

    A training batch holds annotations (``CaptionBatch`` or ``TextBatch``). A validation batch holds held-out units with
    all their annotations (``UnitBatch``) where there are features, so that descriptions can be scored; otherwise it
    holds held-out annotations (``TextBatch``).

    Subclasses define the split, the vocabulary and the features.

    Attributes:
        texts_only: whether batches hold no features.
        batch_size: annotations per training batch.
        validation_batch_size: units, or annotations, per validation batch.
        seed: seed of the order of the training batches.
    """

    texts_only: bool
    batch_size: int
    validation_batch_size: int
    seed: int

    @property
    @abstractmethod
    def split(self) -> AnnotationSplit:
        """The training units and the held-out units."""

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the training annotations."""

    @abstractmethod
    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k features"]:
        """Return the features of each unit's exemplars."""

    def load_training_features(self, rows: Sequence[int]) -> Float[Tensor, "rows k features"]:
        """Return the features of training units, by their positions in ``split.train``."""
        return self.load_features([self.split.train[row] for row in rows])

    @cached_property
    def annotations(self) -> list[tuple[int, Int[Tensor, " length"]]]:
        """The training annotations as token ids, each with the position of its unit in ``split.train``."""
        units = enumerate(self.split.train)
        return [(row, torch.tensor(self.vocabulary.encode(text))) for row, one in units for text in one.texts]

    def train_dataloader(self) -> DataLoader:
        """Return batches of annotations in an order that depends on the seed and the epoch."""

        def collate(places: Sequence[int]) -> CaptionBatch | TextBatch:
            batch = [self.annotations[place] for place in places]
            tokens = self._pad([tokens for _, tokens in batch])
            if self.texts_only:
                return TextBatch(tokens)
            return CaptionBatch(self.load_training_features([row for row, _ in batch]), tokens)

        count = len(self.annotations)
        sampler = EpochBatchSampler(count, self.batch_size, self.seed, self._get_progress)
        return self._make_loader(range(count), collate, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """Return batches of held-out units with all their annotations, or of held-out texts without features."""
        if self.texts_only:
            texts = [self.vocabulary.encode(text) for one in self.split.held_out for text in one.texts]
            return self._make_loader(
                texts,
                lambda batch: TextBatch(self._pad([torch.tensor(tokens) for tokens in batch])),
                batch_size=self.validation_batch_size,
            )
        return self._make_loader(
            self.split.held_out,
            lambda units: UnitBatch(self.load_features(units), [list(one.texts) for one in units]),
            batch_size=self.validation_batch_size,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return a batch on another device; quicker than Lightning's own search for tensors in nested containers."""
        return type(batch)(*(part.to(device) if isinstance(part, Tensor) else part for part in batch))

    def _make_loader(self, items: Sequence[Any], collate: Callable[[Any], Any], **options: Any) -> DataLoader:
        # A loader without a generator of its own draws a number from the global one in every epoch.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(SequenceDataset(items), collate_fn=collate, generator=generator, **options)

    def _pad(self, texts: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, "texts length"]:
        return pad_sequence(list(texts), batch_first=True, padding_value=self.vocabulary.pad)

    def _get_progress(self) -> TrainingProgress:
        return TrainingProgress.read(self.trainer)


class MilannotationsDataModule(AnnotationDataModule):
    """The annotations of ``train.py``, with the features of a frozen encoder; the prior needs no encoder.

    Features are computed once and cached by the content of the dissection and of the encoder.

    Args:
        folders: ``diorama`` or ``diorama:NETWORK``, folders of annotated dissections (layers or whole networks, in the
            layout of MILANNOTATIONS or of this package), csv files of annotations, ``milannotations:GROUP``
            (downloaded the first time), or groups of MILANNOTATIONS under ``root``: base, cls, gen, imagenet,
            places365, alexnet, resnet152, biggan, dino, or not-NAME
        root: folder of MILANNOTATIONS, for groups
        imagenet: folder of the ImageNet validation set (1,000 class folders), for released annotations of its images
        encoder: spec of the frozen encoder; null to train the prior, which reads texts alone
        encoder_weights: weights of the encoder, if they are not its own
        pooling: how a feature map is averaged under the mask (mean or sum)
        downsampling: how the mask is scaled to the size of a feature map (bilinear or area)
        held_out: fraction of each layer's units that are not trained on
        minimum: smallest number of occurrences in the training annotations for a word to be in the vocabulary
        batch_size: annotations per batch
        seed: random seed of the split and of the order of the batches
        device: device of the encoder
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
        self.batch_size = self.validation_batch_size = batch_size
        self.texts_only, self.seed = encoder is None, seed
        self.encoder_options: dict[str, Any] = {
            "pooling": pooling,
            "downsampling": downsampling,
            "weights": encoder_weights or None,
        }
        self.encoder_spec, self.device = encoder, device

    @cached_property
    def split(self) -> AnnotationSplit:
        """The units of all folders, split into training units and held-out units."""
        annotated = [
            AnnotatedUnit(source, unit, texts)
            for source in find_annotation_sources(self.folders, self.root, self.imagenet)
            for unit, texts in read_annotations(source).items()
            if self.texts_only or unit in self.features.dissection(source).units
        ]
        return split_by_unit(annotated, self.held_out, self.seed)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the training annotations."""
        return Vocabulary.build((text for one in self.split.train for text in one.texts), minimum=self.minimum)

    @property
    def words(self) -> list[str]:
        """The words of the vocabulary, which ``train.py`` hands to the model."""
        return self.vocabulary.words

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder.

        Raises:
            BadInput: the data module was made without one.
        """
        if self.encoder_spec is None:
            raise BadInput(
                "without an encoder there are no features; give data.encoder, such as diorama:encoder or"
                " torchvision:resnet101"
            )
        return load_encoder(self.encoder_spec, device=self.device, **self.encoder_options)

    @cached_property
    def features(self) -> FeatureStore:
        """The features of the annotated units."""
        return FeatureStore(self.encoder)

    @property
    def encoder_settings(self) -> dict[str, str]:
        """The arguments of ``load_encoder`` that restore the encoder; empty without an encoder."""
        return {} if self.texts_only else self.encoder.settings

    @property
    def feature_length(self) -> int:
        """The length of one exemplar's feature vector; 0 without an encoder."""
        return 0 if self.texts_only else self.encoder.feature_length

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the training data, kept with a model that is trained on it."""
        folders = list(
            dict.fromkeys(DIORAMA_DESCRIPTION if name.partition(":")[0] == DIORAMA else name for name in self.folders)
        )
        split = self.split
        facts = {"data": folders, "units": len(split.train), "held-out units": len(split.held_out), "seed": self.seed}
        return facts | {"annotations": sum(len(one.texts) for one in split.train), "words": len(self.words)}

    def prepare_data(self) -> None:
        """Compute the features that are not cached."""
        if not self.texts_only:
            self.features.compute_features(one.source for one in (*self.split.train, *self.split.held_out))

    def load_features(self, units: Sequence[AnnotatedUnit]) -> Float[Tensor, "units k features"]:
        """Return the features of each unit's exemplars."""
        return self.features.load_features(units)


class SequenceDataset(Dataset):
    """A sequence as a dataset."""

    def __init__(self, items: Sequence[Any]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class EpochBatchSampler(Sampler[list[int]]):
    """Batches of indices in an order that depends on the seed and the epoch alone, so that a run can be resumed.

    Iteration starts at the batch that ``progress`` names. With several processes each process takes its part of each
    batch; the last batch is filled up from the beginning of the epoch, so that all parts have the same size.

    Args:
        length: number of items.
        batch_size: items per batch and process.
        seed: random seed of the orders.
        progress: called at the start of each iteration; returns the current epoch, batch and rank.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, progress: Callable[[], TrainingProgress] = TrainingProgress
    ):
        self.length, self.batch_size, self.seed, self.progress = length, batch_size, seed, progress

    def __len__(self) -> int:
        return -(-self.length // (self.batch_size * self.progress().world))

    def __iter__(self) -> Iterator[list[int]]:
        now = self.progress()
        order = self.order(now.epoch)
        step = self.batch_size * now.world
        for begin in range(now.batches * step, len(order), step):
            batch = order[begin : begin + step]
            filled = torch.cat([batch, order[: -len(batch) % now.world]])
            yield filled[now.rank :: now.world].tolist()

    def order(self, epoch: int) -> Int[Tensor, " items"]:
        """Return the order of all items in an epoch."""
        seed = int(content_key(seed=self.seed, epoch=epoch)[:15], 16)
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(seed))
