"""The code blocks of the quick start and the tutorials run, in the order of each page."""

import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import milan
from milan.cli import describe, export, find, train
from milan.experiments import __main__ as experiments
from milan.storage.user_code import module_of

ROOT = Path(__file__).parents[2]
PAGES = (
    "quickstart",
    "tutorials/describe_your_network",
    "tutorials/train_milan",
    "tutorials/audit_and_ablate",
    "find_and_compare",
    "tutorials/describe_an_sae",
)
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.M | re.S)
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "python describe.py ": describe.main,
    "python train.py ": train.main,
    "python -m milan.experiments ": experiments.main,
    "python -m milan.cli.find ": find.main,
    "python -m milan.cli.export ": export.main,
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def run_command(line: str) -> None:
    """Run a command of a page within this process, so that torch is imported once."""
    start = next(start for start in PROGRAMS if line.startswith(start))
    words = shlex.split(line.removeprefix(start))
    assert PROGRAMS[start](words + (QUIET if start == "python train.py " else [])) == 0, line


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert blocks
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for language, code in blocks:
            if language == "python":
                exec(compile(code, f"{page}.md", "exec"), names)  # the code of our own page
            else:
                for line in code.replace("\\\n", " ").strip().splitlines():
                    run_command(line)


def test_the_examples_for_contributors_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(block for _, block in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    # The example's files lie in the package, where this test writes none.
    code = code.replace("from milan.experiments.lengths.config import LengthsConfig\n", "")
    (tmp_path / "examples.py").write_text(code, encoding="utf-8")
    examples, _ = module_of("examples.py:Brightness", "example")
    milan.check_describer(lambda: examples.Brightness())
    monkeypatch.setattr(examples.LengthsConfig, "experiment", "lengths")  # in the package, the name of its folder
    options = {
        "layers": ["layer4"],
        "units": "0-2",
        "limit": 30,
        "out": tmp_path / "lengths",
        "describer": "constant:text=a red car",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = examples.lengths(examples.LengthsConfig(**options))
    assert report.tables[0].rows[0].values["words"].value == 3
