"""How far Diorama's simulated annotators agree, how true their texts are, and what their words are like."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from milan.diorama_build.build_folders import ANNOTATION_FACTS_FILE, BuildFolders
from milan.scores.corpus_statistics import CorpusStatistics, compute_corpus_statistics, format_corpus_table
from milan.storage.files import atomic_write
from milan.units import Unit

AGREEMENT_FILE, CORPUS_FILE = "agreement.json", "corpus.md"


def measure_agreement(folders: BuildFolders) -> None:
    """Measure how far the annotators agree, how true their texts are, and what their words are like.

    Writes ``annotations/agreement.json``, with the figures of Tables 4 and 5 of MILAN, and ``annotations/corpus.md``
    for all annotated networks.
    """
    from milan.dissection.milannotations import read_unit_annotations

    home = folders.data / "annotations"
    folders_of_networks = [file.parent for file in sorted(home.glob(f"*/{ANNOTATION_FACTS_FILE}"))]
    annotations = {folder.name: read_unit_annotations(folder) for folder in folders_of_networks}
    corpora = {
        network: _order_layers(network, compute_corpus_statistics(texts)) for network, texts in annotations.items()
    }
    all_annotations = {
        Unit(network, number): texts
        for network, by_unit in annotations.items()
        for number, texts in enumerate(by_unit.values())
    }
    corpora["all"] = {"total": compute_corpus_statistics(all_annotations)["total"]}
    by_network = {
        network: {**_measure_network_agreement(network, texts, folders), "corpus": _to_plain(corpora[network])}
        for network, texts in annotations.items()
    }
    facts = {"annotators": "simulated", "networks": by_network, "all": _to_plain(corpora["all"])["total"]}
    with atomic_write(home / AGREEMENT_FILE) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    with atomic_write(home / CORPUS_FILE) as path:
        title = "What simulated annotators say, in numbers (columns as in MILAN's Table 5)"
        path.write_text(f"{title}\n\n{format_corpus_table(corpora)}")
    print(json.dumps(facts["all"]))


def _order_layers(network: str, statistics: dict[str, CorpusStatistics]) -> dict[str, CorpusStatistics]:
    """Return the statistics of layers from input to output, where the network is Diorama's, then their total."""
    from milan.diorama.networks import LAYERS

    in_order = [layer for layer in LAYERS.get(network, []) if layer in statistics]
    return {layer: statistics[layer] for layer in dict.fromkeys([*in_order, *statistics])}


def _to_plain(statistics: dict[str, CorpusStatistics]) -> dict[str, dict[str, float]]:
    return {layer: asdict(each) for layer, each in statistics.items()}


def _measure_network_agreement(
    network: str, annotations: Mapping[Unit, Sequence[str]], folders: BuildFolders
) -> dict[str, object]:
    """Return a network's numbers of units and texts, their agreement, and their truth against shuffled texts."""
    from milan.scores.truth_score import Truth

    truths: dict[str, list[float]] = {"of each annotator": [], "of shuffled descriptions": []}
    for layer, dissection in folders.dissections(network).items():
        truth = Truth.measure(dissection, folders.target(network), folders.work)
        units = [unit for unit in annotations if unit.layer == layer]
        others = [units[i] for i in np.random.default_rng(folders.seed).permutation(len(units))]
        for unit, other in zip(units, others, strict=True):
            truths["of each annotator"] += [truth.score(unit, text) for text in annotations[unit]]
            truths["of shuffled descriptions"] += [truth.score(unit, text) for text in annotations[other]]
    return {
        "units": len(annotations),
        "descriptions": sum(map(len, annotations.values())),
        **compute_agreement(annotations),
        "truth score": {kind: round(float(np.nanmean(scores)), 4) for kind, scores in truths.items()},
    }


def compute_agreement(annotations: Mapping[Unit, Sequence[str]]) -> dict[str, float]:
    """Return how alike the texts of each unit are, and how long.

    Units with fewer than two texts are left out.

    Returns:
        Corpus BLEU and mean ROUGE-L, 0..100, of each annotator's text against those of the unit's other annotators; the
        number of distinct texts; and the mean number of words of a text.
    """
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    groups = [texts for texts in annotations.values() if len(texts) > 1]
    candidates = [text for texts in groups for text in texts]
    others = [[other for j, other in enumerate(texts) if j != i] for texts in groups for i in range(len(texts))]
    # sacrebleu takes rows of equal length: a shorter row repeats its last text, which changes no count.
    references = [[row[min(i, len(row) - 1)] for row in others] for i in range(max(map(len, others)))]
    scorer = RougeScorer(["rougeL"])
    rouge = [
        max(scorer.score(reference, candidate)["rougeL"].fmeasure for reference in row)
        for candidate, row in zip(candidates, others, strict=True)
    ]
    return {
        "bleu": round(sacrebleu.corpus_bleu(candidates, references).score, 2),
        "rouge-l": round(100 * sum(rouge) / len(rouge), 2),
        "distinct descriptions": len(set(candidates)),
        "mean words": round(sum(len(text.split()) for text in candidates) / len(candidates), 2),
    }
