"""The bookkeeping of tables on figures that others published: means with standard errors, shares, counts, lengths."""

import csv
import math
import statistics

import pytest

from milan import read_descriptions
from milan.experiments.core.baselines import COUNT_COLUMNS, count_descriptions
from milan.experiments.core.report import Column
from milan.scores.confidence_intervals import estimate_mean, estimate_share

FRACTIONS = {  # SAND's Table 2, layers 1 to 4, and the last row as printed
    "Net-Dissect": ([0.177, 0.110, 0.091, 0.119], "0.124"),
    "MILAN": ([0.143, 0.080, 0.077, 0.082], "0.096"),
    "CLIP-dissect": ([0.154, 0.143, 0.102, 0.228], "0.157"),
    "SAND": ([0.239, 0.158, 0.149, 0.381], "0.232"),
}
VIT = {  # Tell me what you see, Table 2: seven units of a ViT-B/16
    "Corr.": ([0.1866, 0.1910, 0.5047, 0.2311, 0.2678, 0.2208, 0.3089], "%", "27.30"),
    "Acc.": ([0.08, 0.30, 0.28, 0.34, 0.24, 0.44, 0.38], "%", "29.43"),
    "MSE": ([13.34, 12.98, 5.96, 11.18, 7.20, 6.62, 5.04], "", "8.90"),
    "MAE": ([3.22, 2.66, 1.84, 2.34, 2.12, 1.70, 1.52], "", "2.20"),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_means_of_sands_layers(name: str) -> None:
    values, printed = FRACTIONS[name]
    assert abs(estimate_mean(values).value - float(printed)) <= 0.00051  # 0.09550 is printed as 0.096


@pytest.mark.parametrize("name", VIT)
def test_means_of_llm_explanations(name: str) -> None:
    values, unit, printed = VIT[name]
    column = Column(name, "", unit, 2)  # type: ignore[arg-type]
    found = estimate_mean(values)
    assert column.format(found).split(" ")[0] == printed
    assert found.error == pytest.approx(statistics.stdev(values) / math.sqrt(7))
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("hits", "of", "printed"),
    [
        (853, 2048, "41.65"),
        (609, 2048, "29.74"),
        (2572, 2700, "95.26"),
        (657, 2700, "24.33"),
        (117, 267, "43.82"),
        (141, 267, "52.81"),
    ],
)
def test_shares_of_describe_and_dissect_and_clip_dissect(hits: int, of: int, printed: str) -> None:
    """EuroSAT's units about fishing and about pink and purple, two accuracies, and Network Dissection's right class
    names.
    """
    found = estimate_share([place < hits for place in range(of)])
    assert Column("share", "", "%", 2).format(found).split(" ")[0] == printed
    assert found.error == pytest.approx(math.sqrt(found.value * (1 - found.value) / of))


def test_lengths_and_distinct_texts_of_published_tables(shared_data) -> None:
    """Describe-and-Dissect's final layer, and MILAN's by layer."""
    folder = shared_data / "published" / "resnet50_imagenet"
    found = count_descriptions(read_descriptions(folder / "dnd_fc.csv"), 0)
    assert list(found) == [column.name for column in COUNT_COLUMNS]
    assert (found["described"], found["distinct"], found["words"].value) == (1000, 869, pytest.approx(3.315))  # type: ignore[union-attr]
    milan = read_descriptions(folder / "milan.csv")
    layers = {
        layer: count_descriptions([each for each in milan if each.unit.layer == layer], 0)
        for layer in ("conv1", "layer1", "layer4", "fc")
    }
    assert {layer: (each["described"], each["distinct"]) for layer, each in layers.items()} == {
        "conv1": (64, 36), "layer1": (256, 76), "layer4": (2048, 351), "fc": (1000, 251),
    }  # fmt: skip


def test_the_published_ratings_have_their_count_but_other_means(shared_data) -> None:
    """Describe-and-Dissect's Table 9 is of 276 ratings, as are those in its file, whose means it does not have."""
    file = shared_data / "published" / "human_ratings" / "RN50_table_4_scoring_function.csv"
    rows = list(csv.DictReader(file.open()))
    kept = [
        (row, who)
        for row in rows
        for who in ("E1", "E2")
        if "TRUE" not in (row[f"Uninterpretable {who}"], row[f"None {who}"])
    ]
    found = {
        name: estimate_mean([float(row[f"{name} {who} Rating"]) for row, who in kept])
        for name in ("Mean Caption", "Topk-Sq", "Topk-Compare")
    }
    assert {name: (each.units, round(each.value, 2)) for name, each in found.items()} == {
        "Mean Caption": (276, 2.99), "Topk-Sq": (276, 3.01), "Topk-Compare": (276, 3.31),
    }  # fmt: skip
    assert all(0.05 < each.error < 0.12 for each in found.values())
