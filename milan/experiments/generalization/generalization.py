"""Does MILAN generalize (Hernandez et al. 2022, section 4)? It is trained on the annotations of some networks and
describes units of others.
"""

from typing import TYPE_CHECKING

from milan.experiments.generalization.config import GeneralizationConfig

if TYPE_CHECKING:  # torch is imported by the implementation alone, so that --help is quick
    from milan.experiments.core.report import Report


def generalization(config: GeneralizationConfig = GeneralizationConfig()) -> "Report":  # noqa: B008 (frozen)
    """Train MILAN on some networks' annotations and score its descriptions of units that it was not trained on."""
    from milan.experiments.core.description_scores import BertScoreConfig
    from milan.experiments.generalization.network_splits import load_networks, select_splits
    from milan.experiments.generalization.tables import GeneralizationResult
    from milan.experiments.generalization.trained_splits import train_all_splits
    from milan.models import load_encoder
    from milan.models.feature_store import FeatureStore
    from milan.storage.files import lock_folder

    bert = BertScoreConfig(config.bert, config.bert_layers, config.bert_idf, config.bert_rescale, config.device)
    splits = select_splits(load_networks(config.annotations or ["diorama"]), config.kinds, config.test_networks)
    with lock_folder(config.out):
        store = FeatureStore(load_encoder(config.encoder, weights=config.encoder_weights or None, device=config.device))
        results = train_all_splits(splits, config, store)
        with GeneralizationResult.score(results, config, store, bert) as result:
            report = result.make_report()
            report.write(config.out)
    return report
