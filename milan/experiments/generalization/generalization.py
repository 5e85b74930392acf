"""Does MILAN generalize? It is trained on some networks' annotations and describes units of others (Hernandez et al.
2022, section 4).
"""

from pathlib import Path

from milan.experiments.core.description_scores import BertScoreConfig
from milan.experiments.core.report import Report
from milan.experiments.generalization.config import GeneralizationConfig as Options
from milan.experiments.generalization.model_training import FeatureStore, TrainingRecipe
from milan.experiments.generalization.network_splits import load_networks, select_splits
from milan.experiments.generalization.tables import GeneralizationResult
from milan.experiments.generalization.trained_splits import GeneralizationConfig, train_all_splits
from milan.models import load_encoder
from milan.storage.files import lock_folder


def generalization(config: Options) -> Report:
    """Train MILAN on every split and score its descriptions of the units that it was not trained on."""
    out = config.out or Path("runs") / "generalization"
    recipe = TrainingRecipe(
        config.hidden,
        config.prior_hidden,
        learning_rate=config.learning_rate,
        prior_learning_rate=config.prior_learning_rate,
        batch_size=config.batch_size,
        epochs=config.epochs,
        patience=config.patience,
        updates=config.updates,
        prior_updates=config.prior_updates,
        components=config.components,
        half=config.half,
    )
    decoding = config.beam, config.steps, config.prior_weight
    plan = GeneralizationConfig(recipe, config.seeds, *decoding, config.device, config.seed)
    splits = select_splits(load_networks(config.annotations or ["diorama"]), config.kinds, config.described)
    bert = BertScoreConfig.from_options(config.bert_score, config.device)
    with lock_folder(out):
        encoder = load_encoder(config.encoder, weights=config.encoder_weights or None, device=config.device)
        features = FeatureStore(encoder)
        trained = train_all_splits(splits, plan, features, out)
        with GeneralizationResult.score(trained, plan, features, bert, out) as result:
            report = result.make_report()
            report.write(out)
    return report
