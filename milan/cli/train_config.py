"""Options of ``train.py``, which import neither torch nor Lightning, so that ``--help`` is quick."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from milan.errors import BadInput

# Options of one kind of model alone.
OWN_OPTIONS = {"captioner": ("attention", "gate", "double_stochastic"), "prior": ("layers",)}


@dataclass(frozen=True)
class ModelConfig:
    """The model to train.

    Attributes:
        kind: captioner, p(d|E), or prior, p(d)
        embedding: length of a word embedding
        hidden: length of the LSTM's state
        dropout: dropout probability of the hidden state (captioner), or between the layers (prior)
        learning_rate: learning rate of AdamW
        attention: length of the captioner's attention layer; 512 by default
        gate: the captioner has one gate per feature (vector, by default) or one gate in all (scalar)
        double_stochastic: weight of the captioner's loss term that makes each exemplar's attention sum to about 1 over
            a caption; 1 by default
        layers: number of LSTM layers of the prior; 2 by default
    """

    kind: Literal["captioner", "prior"] = "captioner"
    embedding: int = 128
    hidden: int = 512
    dropout: float = 0.5
    learning_rate: float = 1e-3
    attention: int | None = None
    gate: Literal["vector", "scalar"] | None = None
    double_stochastic: float | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        other = "prior" if self.kind == "captioner" else "captioner"
        for name in OWN_OPTIONS[other]:
            if getattr(self, name) is not None:
                raise BadInput(f"model.{name} is an option of the {other} and model.kind is {self.kind}; leave it out")

    @property
    def arguments(self) -> dict[str, Any]:
        """The given options as arguments of the model's constructor."""
        return {name: value for name, value in asdict(self).items() if name != "kind" and value is not None}


@dataclass(frozen=True)
class DataConfig:
    """The annotations, as ``MilannotationsDataModule`` takes them.

    Attributes:
        folders: diorama or diorama:NETWORK, folders of annotated dissections (layers or whole networks, in the layout
            of MILANNOTATIONS or of this package), csv files of annotations, milannotations:GROUP (downloaded the first
            time), or groups of MILANNOTATIONS under root: base, cls, gen, imagenet, places365, alexnet, resnet152,
            biggan, dino, or not-NAME
        root: folder of MILANNOTATIONS, for groups
        encoder: spec of the frozen encoder; null to train the prior, which reads texts alone
        encoder_weights: weights of the encoder, if they are not its own
        pooling: how a feature map is averaged under the mask
        downsampling: how the mask is scaled to the size of a feature map
        held_out: fraction of each layer's units that are not trained on
        minimum: smallest number of occurrences in the training annotations for a word to be in the vocabulary
        batch_size: annotations per batch
        seed: random seed of the split and of the order of the batches
        device: device of the encoder
        imagenet: folder of the ImageNet validation set (1,000 class folders), for released annotations of its images
    """

    folders: list[str] | tuple[str, ...] = ("diorama",)
    root: str = ""
    encoder: str | None = "diorama:encoder"
    encoder_weights: str = ""
    pooling: Literal["mean", "sum"] = "mean"
    downsampling: Literal["bilinear", "area"] = "bilinear"
    held_out: float = 0.1
    minimum: int = 2
    batch_size: int = 64
    seed: int = 0
    device: str = "cpu"
    imagenet: str = ""


@dataclass(frozen=True)
class TrainerConfig:
    """Arguments of ``pytorch_lightning.Trainer``.

    Attributes:
        accelerator: cpu, gpu, mps or auto
        strategy: how several devices work together, as ddp
        devices: number of devices, or a list of their indices
        num_nodes: number of machines
        precision: 32-true, 16-mixed, bf16-mixed, ...
        max_epochs: largest number of epochs
        min_epochs: smallest number of epochs
        max_steps: largest number of optimizer steps; -1 for no limit
        max_time: longest time, as DD:HH:MM:SS
        fast_dev_run: number of batches for a trial run that keeps nothing
        limit_train_batches: number (1 or more) or fraction of the training batches of an epoch
        limit_val_batches: number (1 or more) or fraction of the validation batches
        overfit_batches: number (1 or more) or fraction of the training batches that are also validated on
        check_val_every_n_epoch: epochs from one validation to the next
        log_every_n_steps: steps from one row of metrics.csv to the next
        accumulate_grad_batches: batches per optimizer step
        gradient_clip_val: largest norm or value of the gradients
        gradient_clip_algorithm: norm or value
        deterministic: whether only deterministic algorithms are used
        benchmark: whether cuDNN tries several algorithms
        detect_anomaly: whether the first gradient that is not finite ends the training
        profiler: simple, advanced, pytorch or xla
        enable_progress_bar: whether progress is printed
        enable_model_summary: whether the model's layers are printed
    """

    accelerator: str = "auto"
    strategy: str = "auto"
    devices: list[int] | int | str = "auto"
    num_nodes: int = 1
    precision: str | None = None
    max_epochs: int = 100
    min_epochs: int | None = None
    max_steps: int = -1
    max_time: str | None = None
    fast_dev_run: int | bool = False
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    check_val_every_n_epoch: int = 1
    log_every_n_steps: int = 10
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | None = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    profiler: str | None = None
    enable_progress_bar: bool = True
    enable_model_summary: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The options by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class TrainConfig:
    """Options of ``train.py`` besides those of model, data and trainer.

    Attributes:
        out: output folder of checkpoints, logs and the trained model
        patience: epochs without a better validation metric before training stops
        checkpoint_seconds: seconds between two checkpoints to resume from
        seed_everything: random seed of the weights and of dropout
        ckpt_path: checkpoint to resume from, or to validate, in place of what the output folder holds
    """

    # On the command line its fields are options without a prefix.
    flat: ClassVar[bool] = True

    out: Path = Path("runs/train")
    patience: int = 4
    checkpoint_seconds: float = 30.0
    seed_everything: int = 0
    ckpt_path: Path | None = None

    def __post_init__(self) -> None:
        if self.ckpt_path is not None and not self.ckpt_path.is_file():
            raise BadInput(f"no checkpoint {self.ckpt_path}; give a .ckpt file of {self.out / 'checkpoints'}")
