"""Every file of options names options that its experiment has, with values of their types."""

from pathlib import Path

import pytest

from milan.console.command_line import build_parser
from milan.experiments.__main__ import load_experiment, main

ROOT = Path(__file__).parents[2] / "configs"
FILES = sorted((*ROOT.glob("experiments/*.yaml"), *ROOT.glob("paper/*.yaml")))


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
def test_options_are_those_of_the_experiment(file: Path) -> None:
    function = load_experiment(file.stem.partition("-")[0])
    options = build_parser(file.stem, "", function)
    given = ["--runs", "somewhere"] if file.stem == "compare" else []  # which runs are to be compared no file can tell
    assert options.parse_args(["--config", str(file), *given]).as_dict()


def test_words_before_the_first_option_are_those_of_the_first(capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", "no such folder", "--shown", "3"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["edit", "--lettering.place", "top-left", "--lettering.share", "2", "--images", "nowhere"]) == 2
    assert "lettering.share is 2.0" in capsys.readouterr().err
