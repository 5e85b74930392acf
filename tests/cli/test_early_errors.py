"""Help and faults of options come before torch is imported: what matters is which modules are imported, not seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milan.describers import find_describer_class, list_describers
from milan.errors import UnknownName
from milan.experiments.core.early_checks import _find_describer_files, _read_setting_names, check_describer
from milan.targets.target_specs import list_registered_names

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pytorch_lightning", "torchvision", "scipy", "pandas", "transformers", "datasets", "matplotlib")
RUN = f"""
import contextlib, io, json, sys
__file__ = {__file__!r}
from milan.cli import describe, train
from milan.experiments import __main__ as experiments
def status(main, words):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    return [code, printed.getvalue(), [name for name in {HEAVY} if name in sys.modules]]
cases = [(train.main, ["fit", "--help"]), (describe.main, ["--help"])]
cases += [(experiments.main, [name, "--help"]) for name in experiments.experiment_names()]
wrong = [["--lyers", "a"], ["--k", "x"], ["--describer", "milam"], ["--describer", "milan:beem=3"], ["--weights", "no"],
         ["--settings.beem", "3"], ["--probe", "nowhere"], ["--target", "no.py:net"], ["--describer", "no.yaml"],
         ["--target", "n" * 300 + ".py:net"], ["--weights", "n" * 300], ["--probe", "n" * 300],
         ["--target", "torchvision:resnet18"], ["--target", "torchvision:resnet9"], ["--target", "timm:vit_tiny"],
         ["--target", "resnet18"], ["--target", "tim:vit"], ["--probe", __file__], ["--probe", "nowhere/*.tar"],
         ["--probe", "diorama:object"], ["--probe", "latents:generator"], ["--units", "9-3"], ["--k", "0"],
         ["--quantile", "2"], ["--batch_size", "0"], ["--memory", "4XB"], ["--workers=-1"], ["--limit", "0"],
         ["--image_size", "0"], ["--out", __file__]]
cases += [(describe.main, words) for words in wrong]
cases += [(train.main, ["fit", "--model.hiden=3"]), (train.main, ["fitt"]), (experiments.main, ["benhc"])]
wrong = [["--describer", "milam"], ["--target", "timm:vit_tiny"], ["--probe", "nowhere"], ["--units", "9-3"]]
cases += [(experiments.main, ["ablation", *words]) for words in wrong]
print(json.dumps([[*status(main, words), words] for main, words in cases]))
"""


def test_help_and_wrong_options_import_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert {json.dumps(words): heavy for _, _, heavy, words in answers if heavy} == {}
    assert {words[-1]: code for code, _, _, words in answers if code != (0 if "--help" in words else 2)} == {}
    assert {words[-1]: printed for code, printed, _, words in answers if code and len(printed.splitlines()) != 1} == {}


@pytest.mark.parametrize("name", list_describers())
def test_settings_are_read_from_a_describers_file_without_importing_it(name: str) -> None:
    assert _read_setting_names(_find_describer_files()[name]) == find_describer_class(name).setting_names()
    check_describer(f"{name}:{find_describer_class(name).setting_names()[0]}=1", [])


def test_a_describer_with_more_settings_than_fit_into_a_path_is_checked() -> None:
    check_describer(f"constant:text={'long ' * 1000}", [])
    with pytest.raises(UnknownName, match="unknown setting of constant 'txt'"):
        check_describer(f"constant:txt={'long ' * 1000}", [])


@pytest.mark.parametrize("spec", ["mine/file.py:Mine:key=1", "mine/file.py:Mine", "auto", "table.csv"])
def test_what_is_known_only_when_loaded_is_left_to_the_loader(spec: str) -> None:
    check_describer(spec, ["anything"])


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_networks_are_listed_without_importing_their_library(library: str) -> None:
    models = pytest.importorskip(f"{library}.models")
    assert sorted(list_registered_names(library)) == sorted(models.list_models())


def test_nearest_settings_are_named() -> None:
    with pytest.raises(UnknownName, match="unknown setting of milan 'beem'; nearest: beam"):
        check_describer("milan:strategy=rerank,beem=3", [])
