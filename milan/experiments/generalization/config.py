"""Options of the experiment ``generalization``; this file imports no torch, so that ``--help`` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from milan.experiments.core.config import BertScoreOptions, RunConfig

EMBEDDING, DROPOUT = 128, 0.5  # of captioner and prior, as in the paper
MINIMUM = 2  # occurrences of a word in the training annotations, to be in the vocabulary
# Batches are smaller where there are few annotations; otherwise training would stop after a few dozen steps.
MIN_STEPS_PER_EPOCH = 8


@dataclass(frozen=True, kw_only=True)
class GeneralizationConfig(RunConfig):
    """Train MILAN on annotations of some networks, and score its descriptions of other units.

    Attributes:
        annotations: Folders of annotated networks in the layout of MILANNOTATIONS, or diorama, which is the default.
        encoder: The network whose features MILAN reads; torchvision:resnet101 in the paper.
        encoder_weights: The encoder's weights, if they are not those of its library.
        seeds: The number of trainings of each split; the seed also selects the units that are held out.
        kinds: The kinds of splits: within, architectures, data-sets, tasks, left-out. By default all.
        test_networks: Only splits that test on these networks.
        beam: The beam size of decoding, for p(d|E) as for MILAN.
        steps: The largest number of tokens of a description, with the end token.
        prior_weight: The weight λ in log p(d|E) - λ log p(d).
        hidden: The size of the captioner's hidden state; 512 in the paper.
        prior_hidden: The size of the prior's hidden state; 512 in the paper.
        learning_rate: The captioner's learning rate of AdamW.
        prior_learning_rate: The prior's learning rate of AdamW.
        batch_size: The number of annotations in a batch.
        epochs: The largest number of epochs.
        patience: The number of epochs without a better score after which the captioner's training ends; never fewer
            than in the paper: 4, and 10 within one network.
        updates: The number of the captioner's updates, with a learning rate that falls to zero; 0 to stop early as in
            the paper.
        prior_updates: The same of the prior's updates.
        components: The number of principal components of the features that MILAN reads; 0 for all features, as in the
            paper.
        half: Whether to train with 16-bit matrix products.
    """

    positional: ClassVar[str] = "annotations"

    out: Path = Path("runs/generalization")
    annotations: list[str] | None = None
    encoder: str = "diorama:encoder"
    encoder_weights: str = ""
    seeds: int = 5
    kinds: list[str] | None = None
    test_networks: list[str] | None = None
    beam: int = 50
    steps: int = 15
    prior_weight: float = 0.2
    hidden: int = 256
    prior_hidden: int = 256
    learning_rate: float = 1e-3
    prior_learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: int = 100
    patience: int = 0
    updates: int = 0
    prior_updates: int = 0
    components: int = 0
    half: bool = True
    bert_score: BertScoreOptions = BertScoreOptions()  # noqa: RUF009 (frozen)

    @property
    def seed_range(self) -> range:
        """The seeds of all trainings of a split."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def training_settings(self) -> dict[str, Any]:
        """The settings that determine trained models."""
        names = ["hidden", "prior_hidden", "learning_rate", "prior_learning_rate", "batch_size", "epochs", "patience"]
        names += ["updates", "prior_updates", "components", "half"]
        settings = {name: getattr(self, name) for name in names}
        return settings | {"embedding": EMBEDDING, "dropout": DROPOUT, "minimum": MINIMUM}

    @property
    def decoding_settings(self) -> dict[str, Any]:
        """The settings that determine the descriptions of trained models."""
        return {"beam": self.beam, "steps": self.steps, "prior_weight": self.prior_weight}
