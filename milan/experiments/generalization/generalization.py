"""Does MILAN generalize (Hernandez et al. 2022, section 4)? It learns from some networks' annotations and describes
units of others.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report


def generalization(
    annotations: list[str] | None = None,
    encoder: str = "diorama:encoder",
    encoder_weights: str = "",
    seeds: int = 5,
    first_seed: int = 0,
    kinds: list[str] | None = None,
    described: list[str] | None = None,
    beam: int = 50,
    steps: int = 15,
    prior_weight: float = 0.2,
    hidden: int = 256,
    prior_hidden: int = 256,
    learning_rate: float = 1e-3,
    prior_learning_rate: float = 1e-3,
    batch_size: int = 64,
    epochs: int = 100,
    patience: int = 0,
    updates: int = 0,
    prior_updates: int = 0,
    components: int = 0,
    half: bool = True,
    bert: str = "",
    bert_layers: int = 0,
    bert_idf: bool = True,
    bert_rescale: bool = False,
    out: Path = Path("runs/generalization"),
    device: str = "cpu",
    imagenet: str = "",
) -> "Report":
    """Trains MILAN on some networks' annotations and scores what it says of units it was not shown.

    Args:
        annotations: diorama (the default), milannotations:base and other groups of the release, which are downloaded,
            or folders of annotated networks in MILANNOTATIONS' layout
        encoder: what MILAN looks through; torchvision:resnet101 in the paper
        encoder_weights: its weights, if they are not its own
        seeds: trainings of each split; the seed draws who is held out, too
        first_seed: the seeds count from it; other than those by which settings were chosen
        kinds: only these kinds of splits: within, architectures, data-sets, tasks, left-out
        described: only splits that describe none but these networks
        beam: texts sought for each unit, the same for p(d|E) as for MILAN
        steps: words of a text at most, the end counted
        prior_weight: λ of log p(d|E) - λ log p(d)
        hidden: length of the captioner's states; 512 in the paper
        prior_hidden: length of the prior's states; 512 in the paper
        learning_rate: of the captioner, by AdamW
        prior_learning_rate: of the prior
        batch_size: annotations in a batch
        epochs: at most
        patience: epochs without a better score before the captioner's training ends; never fewer than in the paper: 4,
            within a network 10
        updates: batches of the captioner's training, with a rate that falls to zero and no stopping before; 0 stops as
            in the paper
        prior_updates: likewise of the prior's
        components: how many principal components of the features MILAN sees; 0 for all features, as in the paper
        half: train with 16-bit matrix products
        bert: folder of a transformers encoder for BERTScore; without one there is none
        bert_layers: which of its layers counts, if bert-score does not know
        bert_idf: weigh words by their rarity in the references
        bert_rescale: by bert-score's baseline for the model
        out: the folder to write to; a run that was stopped goes on there
        device: where encoder and MILAN run
        imagenet: folder of the ImageNet validation set (1,000 class folders), for released annotations of its images
    """
    from milan.experiments.core.description_scores import BertScoreConfig
    from milan.experiments.generalization.model_training import FeatureStore, TrainingRecipe
    from milan.experiments.generalization.network_splits import load_networks, select_splits
    from milan.experiments.generalization.tables import GeneralizationResult
    from milan.experiments.generalization.trained_splits import GeneralizationConfig, train_all_splits
    from milan.models import load_encoder
    from milan.storage.files import lock_folder

    recipe = TrainingRecipe(
        hidden,
        prior_hidden,
        learning_rate=learning_rate,
        prior_learning_rate=prior_learning_rate,
        batch_size=batch_size,
        epochs=epochs,
        patience=patience,
        updates=updates,
        prior_updates=prior_updates,
        components=components,
        half=half,
    )
    plan = GeneralizationConfig(recipe, seeds, beam, steps, prior_weight, device, first_seed)
    splits = select_splits(load_networks(annotations or ["diorama"], imagenet), kinds, described)
    with lock_folder(out):
        evidence = FeatureStore(load_encoder(encoder, weights=encoder_weights or None, device=device))
        found = train_all_splits(splits, plan, evidence, out)
        with GeneralizationResult.score(
            found, plan, evidence, BertScoreConfig(bert, bert_layers, bert_idf, bert_rescale, device), out
        ) as outcome:
            report = outcome.make_report()
            report.write(out)
    return report
