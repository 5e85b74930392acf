"""Descriptions against people's words: a network's own annotations, class names, published tables."""

from pathlib import Path

import pytest

from milan.errors import BadInput
from milan.experiments.words.config import WordsConfig
from milan.experiments.words.tables import PEOPLE_ROW
from milan.experiments.words.words import words
from tests.experiments.test_simulation import values

SAID = (
    "layer,unit,summary\na,0,red cars\na,0,cars that are red\na,1,green trees\na,1,trees\na,2,the sky\na,2,blue sky\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    (folder / "said.csv").write_text(SAID)
    (folder / "right.csv").write_text("layer,unit,description\na,0,Red cars.\na,1,trees\na,2,sky\nb,0,else\n")
    (folder / "wrong.csv").write_text("layer,unit,description\na,0,a boat\na,1,a boat\na,2,red cars\n")
    (folder / "names.txt").write_text("red car, auto\ntree\nsky\n")
    return folder


def run(folder: Path, references: str, **more: object) -> object:
    return words(
        WordsConfig(
            tables=[str(folder / "right.csv"), str(folder / "wrong.csv")],
            references=str(folder / references),
            out=folder / f"out-{references}",
            **more,
        )
    )


def test_scores_with_ceiling_and_floors(folder: Path) -> None:
    report = run(folder, "said.csv")
    right, wrong = (values(report, name) for name in ("right", "wrong"))
    for score in ("cosine", "BLEU-1", "ROUGE-L", "same"):
        assert right[score].value > wrong[score].value, score
    assert right["same"].value == pytest.approx(2 / 3)
    assert wrong["same"].value == 0.0
    assert (right["described"], right["distinct"], right["words"].value) == (3, 3, pytest.approx(4 / 3))
    assert [(row.name, row.role) for row in report.tables[0].rows] == [
        ("right", ""), ("wrong", ""), ("shuffled", "floor"), ("random", "floor"), ("constant", "floor"),
         (PEOPLE_ROW, "ceiling"),
    ]  # fmt: skip
    assert values(report, PEOPLE_ROW)["ROUGE-L"].value == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert report.facts["settings"]["cosine"]["encoder"]


def test_class_names_as_references(folder: Path) -> None:
    report = run(folder, "names.txt", layer="a", embedder="")
    assert values(report, "right")["same"].value == pytest.approx(
        1 / 3
    )  # "sky"; neither "red cars" nor "trees" is the very name
    assert "cosine" not in values(report, "right")
    assert PEOPLE_ROW not in [row.name for row in report.tables[0].rows]


def test_a_table_as_references(folder: Path) -> None:
    report = run(folder, "right.csv", embedder="")
    assert values(report, "right")["same"].value == 1.0
    assert values(report, "wrong")["same"].value == 0.0


def test_missing_layer_and_units_are_errors(folder: Path) -> None:
    with pytest.raises(BadInput, match="say which with --layer"):
        run(folder, "names.txt")
    (folder / "empty.csv").write_text("layer,unit,description\n")
    with pytest.raises(BadInput, match=r"empty\.csv"):
        run(folder, "empty.csv")
    with pytest.raises(BadInput, match="describes none of the 3 units"):
        words(
            WordsConfig(
                tables=[str(folder / "right.csv")], references=str(folder / "names.txt"), layer="c", out=folder / "none"
            )
        )
