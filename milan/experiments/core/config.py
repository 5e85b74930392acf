"""Groups of options that experiments share, as dataclasses whose docstrings are the help of the command line.

Nothing here imports torch, so that ``--help`` answers at once. Each experiment has one such class, ``NameConfig`` in
``milan/experiments/NAME/config.py``; the first line of its docstring is the experiment's summary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from milan.targets.preprocessing import TargetOptions


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Options of every experiment.

    Attributes:
        out: The folder to write to. By default it is runs/EXPERIMENT-TARGET, or runs/EXPERIMENT for an experiment that
            does not study one target.
        seed: The random seed of samples, tie-breaking and bootstrap intervals.
        dry_run: Print the networks, describers and images, and what would be downloaded, then exit.
    """

    out: Path | None = None
    seed: int = 0
    dry_run: bool = False

    @property
    def experiment(self) -> str:
        """The experiment's name, which is that of the folder of its ``config.py``."""
        return type(self).__module__.split(".")[-2]


@dataclass(frozen=True, kw_only=True)
class RunConfig(ReportConfig):
    """Options of every experiment that runs a model.

    Attributes:
        device: The device on which networks and models run, such as cpu or cuda.
    """

    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class DissectionOptions:
    """Which units are dissected, and how.

    Attributes:
        layers: The dotted paths of the layers. By default those that are annotated for Diorama's networks.
        units: The units of each layer, as 0-99 or 3,17 or layer4:0-9. By default all units.
        k: The number of exemplars (top-activating images) per unit.
        quantile: The activation quantile that is used as the mask threshold.
        rank_by: The activation by which images are ranked as exemplars: the maximum or mean over the image's places, or
            the class token.
    """

    layers: list[str] | None = None
    units: str = ""
    k: int = 15
    quantile: float = 0.99
    rank_by: Literal["max", "mean", "cls"] = "max"


@dataclass(frozen=True, kw_only=True)
class TargetConfig(RunConfig):
    """Options of experiments that study one target.

    Attributes:
        target: The network to study.
        weights: The target's weights, as a file or "random". By default those of its library.
        target_options: How the target's input is made and its output is read.
        probe: The images to run the target on. By default those of the task that the target was trained for.
        limit: Use only the first LIMIT images of each probe.
    """

    target: str = "diorama:resnet-objects"
    weights: str | None = None
    target_options: TargetOptions = TargetOptions()  # noqa: RUF009 (frozen)
    probe: str | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class DissectedTargetConfig(DissectionOptions, TargetConfig):
    """Options of experiments that dissect one target."""


@dataclass(frozen=True, kw_only=True)
class BertScoreOptions:
    """How BERTScore is computed; without a model it is left out.

    Attributes:
        bert: The folder of a transformers encoder for BERTScore. By default BERTScore is not computed.
        bert_layers: The encoder's layer whose states are compared, for encoders that bert-score does not know.
        bert_idf: Whether words are weighted by their inverse document frequency in the references.
        bert_rescale: Whether scores are rescaled by bert-score's baseline for the encoder.
    """

    flat: ClassVar[bool] = True

    bert: str = ""
    bert_layers: int = 0
    bert_idf: bool = True
    bert_rescale: bool = False
