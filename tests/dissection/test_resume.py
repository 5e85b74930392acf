"""Killed at any moment and run again, a dissection ends with the same bytes; so it does in several processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from milan.dissection.dissect import WORK_FOLDER, dissect
from milan.probes import Probe
from milan.storage.files import lock_folder
from tests.conftest import ROOT
from tests.dissection.world import LAYERS, files, leftovers, toy_probe, toy_target

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The result of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    dissect(toy_target(), toy_probe(300), LAYERS, out)
    return files(out)


def run_killed(out: Path, moments: list[str]) -> int:
    """Runs and is killed at each of the moments, then runs to the end; says how often it was killed."""
    command = [sys.executable, "-m", "tests.dissection.killing", str(out), *moments]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_killed_again_and_again_on_its_way(tmp_path: Path, whole: dict[str, bytes]) -> None:
    moments = ["b1", "b2", "b1", "2", "-1", "b3", "1", "3", "b1", "4", "-5", "6", "7", "8", "-9"]
    assert run_killed(tmp_path, moments) > 10
    assert files(tmp_path) == whole
    assert not leftovers(tmp_path)


def test_killed_while_files_are_put_in_place(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """Just before and just after a replacement; the last of them are those that commit the results."""
    moments = [str(count if count % 2 else -count) for count in range(1, 44, 3)]  # 44 in all
    assert run_killed(tmp_path, moments) > 10
    assert files(tmp_path) == whole


def test_killed_from_outside_at_any_time(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """Not at moments of our choosing: a plain program, and the clock."""
    program = (
        "import time; from milan.dissection import dissection_run as running; from milan.dissection.dissect import"
        " dissect;from tests.dissection.world import *; running.MIN_CHECKPOINT_SECONDS = 0;"
        " running.CHECKPOINT_COST_RATIO = 0; take = running.DissectionRun._add_block\ndef slowly(*a):\n take(*a);"
        " print('.', flush=True); time.sleep(0.05)\nrunning.DissectionRun._add_block = slowly\ndissect(toy_target(),"
        f" toy_probe(300), LAYERS, {str(tmp_path)!r})"
    )
    killed = 0
    for blocks, pause in ((2, 0.01), (4, 0.04), (99, 0.0)):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        for _, _line in zip(range(blocks), process.stdout, strict=False):
            pass
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    dissect(toy_target(), toy_probe(300), LAYERS, tmp_path)
    assert killed >= 2
    assert files(tmp_path) == whole


def left_behind(out: Path, blocks: int = 3) -> None:
    """Runs with a checkpoint after each block, and is killed after some blocks, before the checkpoint of the last."""
    program = (
        "import pathlib, sys; from tests.dissection import killing; killing.running.MIN_CHECKPOINT_SECONDS ="
        " killing.running.CHECKPOINT_COST_RATIO = 0;"
    )
    program += f"assert killing.child(pathlib.Path(sys.argv[1]), 'b{blocks}')"
    subprocess.run([sys.executable, "-c", program, str(out)], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=600)


def test_a_damaged_checkpoint_is_started_afresh(tmp_path: Path, whole: dict[str, bytes]) -> None:
    left_behind(tmp_path)
    state = tmp_path / WORK_FOLDER / "0" / "state.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.warns(match="cannot be used"):
        dissect(toy_target(), toy_probe(300), LAYERS, tmp_path)
    assert files(tmp_path) == whole


@pytest.mark.parametrize(("blocks", "first"), [(3, 64), (8, 224)])
def test_a_resumed_run_decodes_no_counted_image_again(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, blocks: int, first: int
) -> None:
    left_behind(tmp_path, blocks)
    decode, decoded = Probe._decode_one, []
    monkeypatch.setattr(Probe, "_decode_one", lambda probe, index: decoded.append(index) or decode(probe, index))
    dissect(toy_target(), toy_probe(300), LAYERS, tmp_path)
    assert decoded == list(range(first, 300))
    assert files(tmp_path) == whole


def test_another_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    program = "from tests.dissection.world import *; from milan.dissection.dissect import dissect; import sys\n"
    program += "try: dissect(toy_target(), toy_probe(20), LAYERS, sys.argv[1])\nexcept Exception as error: print(error)"
    with lock_folder(tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert f"is being written by process {os.getpid()}" in done.stdout, done.stdout + done.stderr


def run_in_processes(out: Path, count: int, program: str) -> subprocess.CompletedProcess[str]:
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [str(torchrun), "--standalone", "--nproc_per_node", str(count), program, str(out)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


@pytest.fixture
def program(tmp_path: Path) -> str:
    file = tmp_path / "program.py"
    file.write_text(
        "import sys\n"
        "from milan.dissection.dissect import dissect\n"
        "from tests.dissection.world import LAYERS, toy_probe, toy_target\n"
        "found = dissect(toy_target(), toy_probe(300), LAYERS, sys.argv[1])\n"
        # at once: both share a pipe
        "sys.stdout.write(f\"{found['conv2'].exemplars(found['conv2'].units[0]).ids.tolist()}\\n\")\n"
    )
    return str(file)


def test_processes_under_torchrun_make_the_same_bytes(tmp_path: Path, whole: dict[str, bytes], program: str) -> None:
    out = tmp_path / "out"
    done = run_in_processes(out, 2, program)
    assert done.returncode == 0, done.stderr
    assert files(out) == whole
    answers = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == 2
    assert len(set(answers)) == 1


def test_processes_killed_and_run_again_make_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes], program: str
) -> None:
    dying = (
        Path(program)
        .read_text()
        .replace(
            "found = dissect(",
            "import os; from milan.dissection import dissection_run as running; from tests.dissection.killing import"
            " after_blocks\nrunning.MIN_CHECKPOINT_SECONDS = running.CHECKPOINT_COST_RATIO = 0; after_blocks(2 if"
            " os.environ['RANK'] == '1' else 4)\nfound = dissect(",
        )
    )
    (tmp_path / "dying.py").write_text(dying)
    out = tmp_path / "out"
    assert run_in_processes(out, 2, str(tmp_path / "dying.py")).returncode != 0
    assert leftovers(out)
    done = run_in_processes(out, 2, program)
    assert done.returncode == 0, done.stderr
    assert files(out) == whole
    shutil.rmtree(out)
