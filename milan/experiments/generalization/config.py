"""Options of the generalization experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import BertScoreOptions, RunConfig


@dataclass(frozen=True, kw_only=True)
class GeneralizationConfig(RunConfig):
    """Train MILAN on annotations of some networks, and score its descriptions of other units.

    Attributes:
        annotations: Folders of annotated networks in the layout of MILANNOTATIONS, or diorama, which is the default.
        encoder: The network whose features MILAN reads; torchvision:resnet101 in the paper.
        encoder_weights: The encoder's weights, if they are not those of its library.
        seeds: The number of trainings of each split; the seed also selects the units that are held out.
        kinds: The kinds of splits: within, architectures, data-sets, tasks, left-out. By default all.
        described: Only splits that describe none but these networks.
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

    annotations: list[str] | None = None
    encoder: str = "diorama:encoder"
    encoder_weights: str = ""
    seeds: int = 5
    kinds: list[str] | None = None
    described: list[str] | None = None
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
