"""What the documentation says of the metrics is what their exam finds."""

import inspect
import re
from pathlib import Path

import pytest

from milan.experiments.__main__ import experiment_names
from milan.scores import ablation_score as causal
from milan.scores import explanation_assessment as assessment
from milan.scores import generated_image_scores as painted
from milan.scores import known_answers as known
from milan.scores import text_similarity as text
from milan.scores.prediction_metrics import METRICS
from milan.scores.sanity_checks import run_painted_checks, run_replacement_check, run_sanity_checks

PAGE = Path(__file__).parents[2] / "docs" / "scores.md"


def test_the_documented_marks_are_those_of_the_exam() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (\d+) \| (\d+) \|", PAGE.read_text(), re.M)
    assert [name for name, *_ in rows] == list(METRICS)
    found = run_sanity_checks(runs=2)
    for name, *message in rows:
        marks = (100 * found[name].missing, 100 * found[name].extra)
        spread = 20 if name == "accuracy" else 0.5  # see test_agreement
        assert all(abs(mark - float(each)) <= spread for mark, each in zip(marks, message, strict=True)), (name, marks)


def test_the_documented_marks_of_scores_that_need_a_network_are_those_of_their_exams() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| missing (\d+), extra (\d+): (\w+) \|$", PAGE.read_text(), re.M)
    marked = run_painted_checks(images=20_000, runs=2) | {
        "compute_ablation_scores": run_replacement_check(images=100_000, runs=2)
    }
    found = {
        name: (100 * marks.missing, 100 * marks.extra, "passes" if marks.passed else "fails")
        for name, marks in marked.items()
    }
    assert {name: (float(missing), float(extra), said) for name, missing, extra, said in rows} == found


HELPERS = {
    "calibrate_temperature",
    "measure_painted_activations",
    "measure_layer_activations",
    "choose_text_to_paint",
    "is_same_name",
    "bleu_counts",
    "bleu_from_counts",
    "normalize_text",
    "summarize_assessments",
}


@pytest.mark.parametrize("family", [assessment, causal, known, painted, text])
def test_every_score_says_what_it_measures_what_it_cannot_see_and_what_its_exam_said(family) -> None:
    public = {
        name
        for name, each in inspect.getmembers(family, inspect.isfunction)
        if each.__module__ == family.__name__ and name[0] != "_"
    }
    rows = {name: cells.split("|") for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE.read_text(), re.M)}
    assert public > HELPERS & public
    for name in public - HELPERS:
        assert len(rows[name]) == 3, name
        assert all(cell.strip() for cell in rows[name]), name


@pytest.mark.parametrize("name", ["simulation", "impact", "painted", "known", "words", "bench"])
def test_the_experiments_of_scores_are_there(name: str) -> None:
    assert f"| `{name}` |" in PAGE.read_text()
    assert name in experiment_names()
