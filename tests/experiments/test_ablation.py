"""Ablation by linguistic criteria on a network whose important units are known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from milan.errors import BadInput, UnknownName
from milan.experiments.ablation.ablation import ablation
from milan.experiments.ablation.ablation_orders import select_criteria
from milan.experiments.ablation.config import AblationConfig
from milan.experiments.core.report import Report
from milan.units import Description, Unit
from tests.describers import colour_embedder
from tests.experiments import coloured
from tests.experiments.test_bench import options

TARGET = f"{coloured.__file__}:coloured"
EMBEDDER = f"{colour_embedder.__file__}:ColourEmbedder"
WORDS = "red things;green things;blue things;a house and a tree;a house and a car;a boat and a house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    coloured.pictures(folder / "pictures")
    return folder


def run(folder: Path, **more: object) -> Report:
    given = {
        "target": TARGET,
        "probe": str(folder / "pictures"),
        "evaluation_probe": str(folder / "pictures"),
        "layers": ["units"],
        "k": 2,
    }
    given |= {
        "max_share": 0.5,
        "step": 0.5,
        "orders_per_criterion": 2,
        "random_orders": 3,
        "out": folder / "out",
        "vectors": EMBEDDER,
        "describer": options(folder, "said", WORDS),
    }
    return ablation(AblationConfig(**given | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return run(folder)


def rows(report: Report, table: str) -> dict:
    return {row.name: row.values for row in next(each for each in report.tables if each.name == table).rows}


def test_ablating_units_with_adjectives_lowers_accuracy(report: Report) -> None:
    end = rows(report, "after the last step")
    assert end["adjectives"]["accuracy"].value == pytest.approx(1 / 3)  # all that is left to say is blue
    assert end["nouns"]["accuracy"].value == end["length"]["accuracy"].value == 1.0
    assert end["nouns"]["value"] == 2.0
    assert end["adjectives"]["value"] == 1.0
    lot = end["random"]["mean"].value
    assert end["adjectives"]["to random"].value == pytest.approx(1 / 3 - lot)
    assert end["nouns"]["to random"].value == pytest.approx(1 - lot)


def test_units_are_ordered_by_score_and_number_of_concepts() -> None:
    one, two = Unit("a", 0), Unit("a", 1)
    said = [
        Description(one, "2.00 ski", 0.7, (("ski", 2.0),)),
        Description(two, "1.00 ski + 0.50 snow", 0.2, (("ski", 1.0), ("snow", 0.5))),
    ]
    config = AblationConfig(criteria=["score", "concepts"])
    assert select_criteria(said, no_vectors, config) == {"score": {one: 0.7, two: 0.2}, "concepts": {one: 1, two: 2}}
    with pytest.raises(UnknownName, match="'scores'; nearest: score"):
        select_criteria(said, no_vectors, AblationConfig(criteria=["scores"]))
    with pytest.raises(BadInput, match="no description has weighted concepts"):
        select_criteria([Description(one, "ski", 0.7)], no_vectors, config)
    with pytest.raises(BadInput, match="1 descriptions have no score"):
        select_criteria([said[0], Description(two, "ski", math.nan)], no_vectors, config)


def no_vectors(words: object) -> np.ndarray:
    raise AssertionError("neither criterion needs word vectors")


def test_chosen_criteria_are_in_all_tables(folder: Path) -> None:
    report = run(folder, criteria=["score", "length"], out=folder / "chosen")
    assert list(rows(report, "after the last step")) == ["score", "length", "random"]
    assert [column.name for column in report.tables[2].columns] == ["score", "length"]
    assert len(report.figures) == 3  # structure, what describers say, and the layers


def test_share_of_units_ordered_by_tie_breaking(report: Report) -> None:
    end = rows(report, "after the last step")
    assert end["adjectives"]["tied"] == 0  # three have one, and three are taken
    assert end["verbs"]["tied"] == 1  # none has any


def test_curves_begin_with_the_whole_network(report: Report) -> None:
    accuracy = rows(report, "accuracy")
    assert all(row["0%"].value == 1.0 for row in accuracy.values())
    assert accuracy["adjectives"]["50%"].value == pytest.approx(1 / 3)
    assert set(accuracy) > {"random", "like adjectives"}


def test_layers_words_and_figures(report: Report, folder: Path) -> None:
    assert rows(report, "criteria by layer")["units"]["adjectives"].value == 0.5
    assert rows(report, "ablated share of a layer")["units"]["nouns"] == 0.5
    words = rows(report, "words of the descriptions")["total"]
    assert (words["units"], words["length"], words["adjectives"]) == (6, 3.5, pytest.approx(3 / 21, abs=1e-3))
    assert len(list((folder / "out" / "page").glob("figure-*.svg"))) == 3
    page = (folder / "out" / "page" / "index.html").read_text()
    assert page.count('<article class="case"') == 6
    assert json.loads((folder / "out" / "report.json").read_text())["facts"]["evaluation images"] == 18


def test_a_second_run_does_not_run_the_network(report: Report, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_again(*_: object) -> None:
        raise AssertionError("the network was run again")

    monkeypatch.setattr("milan.scores.accuracy_under_ablation._iter_logits", run_again)
    assert rows(run(folder), "accuracy") == rows(report, "accuracy")


def test_a_step_larger_than_the_end_is_an_error(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"step is 0.3 and max_share is 0.2"):
        run(folder, step=0.3, max_share=0.2)


def test_annotations_are_counted_beside_the_paper(shared_data: Path) -> None:
    """Two layers of Table 5 of MILAN, ResNet152-ImageNet, by our own pipeline."""
    from milan.dissection.milannotations import read_unit_annotations
    from milan.experiments.core.corpus_tables import PAPER_TABLE_5
    from milan.scores.corpus_statistics import compute_corpus_statistics

    said = read_unit_annotations(shared_data / "milannotations" / "resnet152_imagenet.csv")
    found = compute_corpus_statistics(
        {unit: texts for unit, texts in said.items() if unit.layer in ("conv1", "layer1")}, "ours"
    )
    for layer in ("conv1", "layer1"):
        units, words, length, nouns, adjectives, prepositions = PAPER_TABLE_5[layer]
        own = found[layer]
        assert own.units == units
        assert own.words == pytest.approx(words, rel=0.2)  # different texts, tokens or both: see docs/language.md
        assert own.length == pytest.approx(length, abs=0.5)
        assert own.nouns == pytest.approx(nouns, abs=6)
        assert own.adjectives == pytest.approx(adjectives, abs=6)
        assert own.prepositions == pytest.approx(prepositions, abs=3)


def test_published_values_are_shown_for_the_same_annotations_only(tmp_path: Path) -> None:
    from milan.experiments.core.corpus_tables import PAPER_TABLE_5, make_annotation_tables

    lines = [f"{layer},{unit},red things" for layer, (units, *_) in PAPER_TABLE_5.items() for unit in range(units)]
    (tmp_path / "whole.csv").write_text("\n".join(["layer,unit,summary", *lines]))
    (tmp_path / "part.csv").write_text("\n".join(["layer,unit,summary", *lines[1:]]))
    (table,), notes = make_annotation_tables(tmp_path / "whole.csv", "ours")
    shown = {row.name: row for row in table.rows}
    assert shown["layer3, in the paper"].values["words"] == 1222
    assert shown["layer3"].values == {
        "units": 1024,
        "words": 2,
        "length": 2.0,
        "nouns": 0.5,
        "adjectives": 0.5,
        "prepositions": 0.0,
    }
    assert "Table 5" in notes[0]
    assert [row.role for row in make_annotation_tables(tmp_path / "part.csv", "ours")[0][0].rows] == [""] * 6


def test_joint_ablations_equal_single_ablations(tmp_path: Path) -> None:
    import torch

    from milan.probes import load_probe
    from milan.scores.accuracy_under_ablation import evaluate_ablations, get_features_file
    from milan.targets.hooks import ablated
    from milan.targets.loading import load_target

    target, probe = load_target("diorama:resnet-objects"), load_probe("diorama:objects", limit=20)
    sets = [
        [],
        [Unit("layer4", 3), Unit("layer3", 1)],
        [Unit("layer4", each) for each in range(150)],
        [Unit("conv1", each) for each in range(20)],
    ]
    seen, right = evaluate_ablations(target, probe, sets, tmp_path / "kept.sqlite", features="layer4", batch_size=8)
    features = np.load(get_features_file(tmp_path / "kept.sqlite"))
    assert seen.tolist() == list(range(20))
    images = target.prepare(torch.stack([probe.image(index) for index in range(20)]))
    for number, units in enumerate(sets):
        with ablated(target, units), target.evaluation_mode(), torch.no_grad():
            means = target.model.forward_stages(images)[-1].mean((2, 3))
            alone = target.model.fc(means)
        assert torch.allclose(torch.from_numpy(features[number]), means, atol=1e-5)
        assert (alone.argmax(1) == torch.tensor(probe.labels)).tolist() == right[number].tolist()
    assert right[0].sum() > right[3].sum()
    with pytest.raises(BadInput, match="units are taken away from layer4, after layer3"):
        evaluate_ablations(target, probe, sets, tmp_path / "other.sqlite", features="layer3")
