"""How many of the units that detect a concept a search for its name finds first, on Diorama's described networks.

    python -m benchmarks.search_recall RUN... --out FILE

Each RUN is a folder that ``describe.py`` wrote. Of ``planted`` the truth is what its units were constructed to detect;
of another network the single concept that describes a unit best, where its masks overlap it by an IoU of ``--min_iou``.
Concepts are searched by their readable names with Diorama's image-text model. The floor is the expected recall of
random units, the ceiling that of a search that knows the truth.
"""

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from milan.diorama.planted_network import load_planted_truth
from milan.diorama.scene_concepts import get_concepts_by_name, get_readable_name
from milan.pretrained.embedder import embed_texts, load_embedder
from milan.results.catalogue import read_catalogue
from milan.results.search import SearchedRun, find_by_text
from milan.scores.truth_score import Truth
from milan.units import Unit

COUNTS = (5, 20)


def find_truth(run: SearchedRun, min_iou: float) -> dict[str, set[Unit]]:
    """Return the units that detect each concept, by its name."""
    detects: dict[str, set[Unit]] = {}
    planted = load_planted_truth() if any(one.target == "diorama:planted" for one in run.dissections.values()) else None
    for dissection in run.dissections.values():
        truth = Truth.measure(dissection) if planted is None else None
        for unit in (unit for unit in dissection.units if unit in set(run.units)):
            if planted is not None:
                names: Iterable[str] = planted[unit].concepts
            else:
                assert truth is not None
                best = truth.find_best(unit, 1)
                names = (best.text,) if best.overlap >= min_iou else ()
            for name in names:
                concept = get_concepts_by_name().get(name)
                detects.setdefault(get_readable_name(concept) if concept else name, set()).add(unit)
    return detects


def measure_recall(found: Mapping[str, Sequence[Unit]], detects: Mapping[str, set[Unit]], count: int) -> float:
    """Return the mean over concepts of the share of their units among the first ``count`` found."""
    return float(np.mean([len(set(found[name][:count]) & units) / len(units) for name, units in detects.items()]))


def measure_run(run: SearchedRun, min_iou: float) -> list[dict[str, object]]:
    """Return a row for each number of found units: the recall of each kind of search, the floor and the ceiling."""
    embedder = load_embedder("diorama")
    detects = find_truth(run, min_iou)
    described, pictured = SearchedRun(run.name, run.texts), SearchedRun(run.name, {}, run.dissections)
    searches = {
        "words": lambda name: find_by_text(name, [described], count=max(COUNTS)),
        "descriptions": lambda name: find_by_text(name, [described], sentences=_TextSide(embedder), count=max(COUNTS)),
        "exemplars": lambda name: find_by_text(name, [pictured], embedder=embedder, count=max(COUNTS)),
        "both": lambda name: find_by_text(name, [run], embedder=embedder, count=max(COUNTS)),
    }
    found = {
        kind: {name: [each.unit for each in search(name)] for name in detects} for kind, search in searches.items()
    }
    units = len(run.units)
    return [
        {
            "network": run.name,
            "units": units,
            "concepts": len(detects),
            "recall at": count,
            "floor": min(1.0, count / units),
            **{kind: measure_recall(answers, detects, count) for kind, answers in found.items()},
            "ceiling": float(np.mean([min(1.0, count / len(those)) for those in detects.values()])),
        }
        for count in COUNTS
    ]


class _TextSide:
    """The text side of an image-text model as an encoder of sentences."""

    def __init__(self, embedder):
        self._embedder = embedder

    def encode_texts(self, texts):
        return embed_texts(self._embedder, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall of searches for concepts whose units are known.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders that describe.py wrote")
    parser.add_argument("--min_iou", type=float, default=0.1, help="IoU from which on a unit detects a concept")
    parser.add_argument("--out", type=Path, default=Path("runs/search_recall.csv"), help="the table to write")
    options = parser.parse_args()
    rows = []
    for folder in options.runs:
        catalogue = read_catalogue(folder)
        run = SearchedRun(folder.resolve().name, catalogue.texts, catalogue.dissections)
        rows += measure_run(run, options.min_iou)
        for row in rows[-len(COUNTS) :]:
            values = (f"{name} {value:.2f}" if isinstance(value, float) else f"{value}" for name, value in row.items())
            print("; ".join(values), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
