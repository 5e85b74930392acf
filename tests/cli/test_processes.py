"""describe.py in two real processes under torchrun: the results of one, and an end for both if one is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milan.cli.describe import main
from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.distributed import Shard, get_shard
from milan.targets import module_access
from tests.programs import start_ranks

ROOT = Path(__file__).parents[2]
DETECTORS = f"{ROOT / 'milan/describers/_shared/contract.py'}:make_detectors"
# Unit answers:1 is in the share of rank 1 in a run of two.
DESCRIBER = """
import os, signal, warnings
from milan.errors import MilanWarning
from milan.describers import DescriptionFailure
from tests.describers.worlds import Colour

class Shared(Colour):
    name = "shared"

    def one(self, dissection, unit):
        if str(unit) != "answers:1":
            return super().one(dissection, unit)
        if "KILLED" in os.environ and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        warnings.warn("answers:1 is odd", MilanWarning)
        return DescriptionFailure(unit, "answer 503")
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_toy_dissection(folder)
    (folder / "shared.py").write_text(DESCRIBER)
    options = ["--target", DETECTORS, "--probe", str(folder / "probe"), "--layers", "detectors", "answers"]
    return [*options, "--describer", f"{folder / 'shared.py'}:Shared", "--k", "5", "--quantile", "0.9", "--out"]


@pytest.fixture(scope="module")
def one(words, tmp_path_factory):
    """The results of one process."""
    out = tmp_path_factory.mktemp("one")
    assert main([*words, str(out)]) == 0
    return out


def results(folder):
    """The bytes of the results, and the facts that do not depend on time and threads."""
    names = ("descriptions.*", "dissection/*/*", "dissection/*.*", "page/**/*.webp")
    files = {file.relative_to(folder): file.read_bytes() for name in names for file in folder.glob(name)}
    facts = json.loads((folder / "run.json").read_text())
    return files, {name: value for name, value in facts.items() if name not in ("seconds", "made")}


def test_two_processes_write_the_bytes_of_one_and_report_failures_and_warnings_once(words, one, tmp_path):
    """Under torchrun, with another hash seed, locale and clock than the one process had."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "describe.py"), *words, str(tmp_path)]
    changed = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    shown = subprocess.run(command, env=changed, capture_output=True, text=True, timeout=300)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("10 of 14 units described") == 1
    assert shown.stderr.count("warning: answers:1 is odd") == 1
    files, facts = results(tmp_path)
    assert (files, facts) == results(one)
    assert any("answers:1: answer 503" in warning for warning in facts["warnings"])
    assert not list(tmp_path.glob("journal-*"))


def test_a_killed_process_ends_the_others_in_one_line_and_a_rerun_continues(words, one, tmp_path):
    ranks = start_ranks(main, [*words, str(tmp_path)], folder=tmp_path / "killed", KILLED="1")
    assert [each.wait() for each in ranks] == [2, -signal.SIGKILL]
    [own] = [line for line in ranks[0].err.splitlines() if line.startswith("error")]
    assert own.startswith("error: process 0")
    assert "run the same command again" in own
    assert "describe_run.py" not in ranks[0].err
    again = start_ranks(main, [*words, str(tmp_path)], folder=tmp_path / "again")
    assert [each.wait() for each in again] == [0, 0], again[0].err
    assert results(tmp_path)[0] == results(one)[0]


def test_a_run_of_one_process_connects_to_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert get_shard() == Shard()
    assert get_shard().gather("own") == ["own"]


@pytest.mark.parametrize(("gpus", "chosen"), [(4, 3), (2, 1), (1, 0)])
def test_each_process_uses_its_own_gpu(monkeypatch, gpus, chosen):
    asked = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(module_access.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(module_access.torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(module_access.torch, "empty", lambda *_, device: module_access.torch.tensor(0))
    module_access.parse_device("cuda")
    assert asked == [chosen]
