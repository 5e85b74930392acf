"""The dispatcher, and the files of options: each names options of its experiment, with values of their types."""

import subprocess
import sys
from pathlib import Path

import pytest

from milan.experiments.__main__ import experiment_names, list_experiments, main, parse_config

ROOT = Path(__file__).parents[2] / "configs"
FILES = sorted((*ROOT.glob("experiments/*.yaml"), *ROOT.glob("paper/*.yaml")))


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
def test_options_are_those_of_the_experiment(file: Path) -> None:
    # Which runs are compared no file can say.
    required = ["--runs", "somewhere"] if file.stem == "compare" else []
    config = parse_config(file.stem.partition("-")[0], [*required, "--config", str(file)])
    assert config.experiment == file.stem


@pytest.mark.parametrize("file", sorted(ROOT.glob("paper/*.yaml")), ids=lambda file: file.stem)
def test_a_dry_run_of_a_papers_experiment_names_what_would_be_downloaded(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, variable in (("hub", "HF_HOME"), ("torch", "TORCH_HOME"), ("milan", "MILAN_CACHE")):
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.chdir(ROOT.parent)
    assert main([file.stem, "--config", str(file), "--dry_run", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    expected = {
        "ablation": ["weights torchvision:resnet18 (about 45 MB", "milan-base.pth", "spacy download en_core_web_lg"],
        "audit": ["resnet152-", "milan-base.pth", "imagenet/val (no such folder or file)"],
        "cut_and_paste": ["resnet152-", "milan-base.pth", "open_clip:ViT-B-16/openai (about 0.6 GB"],
        "edit": ["milan-base.pth", "images/train (no such folder or file)"],
        "pruning": ["open_clip:ViT-B-16-quickgelu/openai (about 0.6 GB"],
        "robustness": ["resnet50-", "open_clip:"],
        "study": ["to download  nothing"],
    }
    for text in expected[file.stem]:
        assert text in shown
    assert not list(tmp_path.rglob("*"))


def test_words_before_the_first_option_are_those_of_the_first(capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", "no such folder", "--page_units", "3"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["edit", "--lettering.place", "top-left", "--lettering.share", "2", "--images", "nowhere"]) == 2
    assert "lettering.share is 2.0" in capsys.readouterr().err


def test_help_imports_no_torch_and_lists_all_experiments() -> None:
    run = (
        "import sys; from milan.experiments.__main__ import *; print(list_experiments());"
        "[parse_config(name, ['--print_config']) for name in sys.argv[1:]]; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", run], check=True, capture_output=True)
    assert all(f"  {name} " in list_experiments() for name in experiment_names())
