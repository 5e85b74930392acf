"""Options of the experiment ``generalization``; this file imports no torch, so that ``--help`` is quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

EMBEDDING, DROPOUT = 128, 0.5  # of captioner and prior, as in the paper
MINIMUM = 2  # occurrences of a word in the training annotations, to be in the vocabulary
# Batches are smaller where there are few annotations; otherwise training would stop after a few dozen steps.
MIN_STEPS_PER_EPOCH = 8


@dataclass(frozen=True)
class GeneralizationConfig:
    """How MILAN is trained on every split and how it describes the test units.

    In the paper (Hernandez et al. 2022, appendix B) states have length 512, a batch holds 64 annotations, and the
    learning rate is 1e-3. docs/generalization.md reports how the settings of configs/experiments were chosen.

    Args:
        out: output folder; interrupted runs can be resumed
        seed: first of the random seeds; choose others than those by which settings were chosen
        device: device of encoder, captioner and prior
        annotations: diorama (the default), or folders of annotated networks in MILANNOTATIONS' layout
        encoder: spec of the frozen encoder; torchvision:resnet101 in the paper
        encoder_weights: weights of the encoder, if they are not its own
        seeds: number of trainings per split; the seed also selects the held-out units
        kinds: only splits of these kinds (within, architectures, data-sets, tasks, left-out)
        test_networks: only splits that test on these networks
        beam: beam size of the search, for p(d|E) and for MILAN
        steps: largest number of words per description, the end included
        prior_weight: weight λ in log p(d|E) - λ log p(d)
        hidden: length of the captioner's state; 512 in the paper
        prior_hidden: length of the prior's state; 512 in the paper
        learning_rate: learning rate of the captioner, by AdamW
        prior_learning_rate: learning rate of the prior, by AdamW
        batch_size: annotations per batch
        epochs: largest number of epochs
        patience: epochs without a better BLEU before the captioner's training stops; at least those of the paper (4, or
            10 within one network)
        updates: optimizer steps of the captioner's training, with a learning rate that falls to zero and no early
            stopping; 0 to stop as in the paper
        prior_updates: optimizer steps of the prior's training; 0 to stop as in the paper
        components: number of principal components of the features that the captioner reads; 0 for all features, as in
            the paper
        half: train with 16-bit matrix products (bfloat16)
        bert: folder of a transformers encoder for BERTScore; empty for no BERTScore
        bert_layers: layer of that encoder to use, if bert-score does not know the encoder
        bert_idf: weigh words by inverse document frequency in the references
        bert_rescale: rescale by the encoder's baseline in bert-score
    """

    # The dispatcher offers each field as an option of its own.
    flat: ClassVar[bool] = True

    out: Path = Path("runs/generalization")
    seed: int = 0
    device: str = "cpu"
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
    bert: str = ""
    bert_layers: int = 0
    bert_idf: bool = True
    bert_rescale: bool = False

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
