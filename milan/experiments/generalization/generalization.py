"""Does MILAN generalize (Hernandez et al. 2022, section 4)? It is trained on the annotations of some networks and
describes units of others.
"""

from milan.experiments.core.description_scores import make_bert_config
from milan.experiments.core.report import Report
from milan.experiments.generalization.config import GeneralizationConfig
from milan.experiments.generalization.network_splits import load_networks, select_splits
from milan.experiments.generalization.tables import GeneralizationResult
from milan.experiments.generalization.trained_splits import train_all_splits
from milan.models import load_encoder
from milan.models.feature_store import FeatureStore
from milan.storage.files import lock_folder


def generalization(config: GeneralizationConfig) -> Report:
    """Train MILAN on every split and score its descriptions of the units that it was not trained on."""
    bert = make_bert_config(config.bert_score, config.device)
    splits = select_splits(load_networks(config.annotations or ["diorama"]), config.kinds, config.test_networks)
    with lock_folder(config.out):
        store = FeatureStore(load_encoder(config.encoder, weights=config.encoder_weights or None, device=config.device))
        results = train_all_splits(splits, config, store)
        with GeneralizationResult.score(results, config, store, bert) as result:
            report = result.make_report()
            report.write(config.out)
    return report
