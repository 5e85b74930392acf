"""Killed at any moment and run again, a dissection ends with the same bytes; so it does in several processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from milan.dissection.dissect import WORK_FOLDER, dissect
from milan.probes import Probe
from milan.storage.files import lock_folder
from tests.dissection import killing
from tests.dissection.world import LAYERS, files, leftovers, toy_probe, toy_target
from tests.programs import Program, start_ranks


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The result of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    dissect(toy_target(), toy_probe(300), LAYERS, out)
    return files(out)


def run_killed(folder: Path, moments: list[str]) -> int:
    """Runs and is killed at each of the moments, then runs to the end; says how often it was killed."""
    program = Program(killing.dissect_killed, folder / "out", moments, folder=folder)
    assert program.wait() == 0, program.err
    return int(program.out.split()[-1])


def test_killed_again_and_again_on_its_way(tmp_path: Path, whole: dict[str, bytes]) -> None:
    moments = ["b1", "b2", "b1", "2", "-1", "b3", "1", "3", "b1", "4", "-5", "6", "7", "8", "-9"]
    assert run_killed(tmp_path, moments) > 10
    assert files(tmp_path / "out") == whole
    assert not leftovers(tmp_path / "out")


def test_killed_while_files_are_put_in_place(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """Just before and just after a replacement; the last of them are those that commit the results."""
    moments = [str(count if count % 2 else -count) for count in range(1, 44, 3)]  # 44 in all
    assert run_killed(tmp_path, moments) > 10
    assert files(tmp_path / "out") == whole


def test_killed_from_outside_at_any_time(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """Not at moments of our choosing: a plain program, and the clock."""
    killed, out = 0, tmp_path / "out"
    for blocks, pause in ((2, 0.01), (4, 0.04), (99, 0.0)):
        program = Program(killing.dissect_slowly, out, folder=tmp_path)
        while program.process.is_alive() and len(program.out) < 2 * blocks:
            time.sleep(0.005)
        time.sleep(pause)
        if program.process.is_alive():
            program.send(signal.SIGKILL)
        killed += program.wait() == -signal.SIGKILL
    dissect(toy_target(), toy_probe(300), LAYERS, out)
    assert killed >= 2
    assert files(out) == whole


def leave_behind(folder: Path, blocks: int = 3) -> Path:
    """The folder of a run that was killed after some blocks."""
    program = Program(killing.leave_behind, folder / "out", blocks, folder=folder)
    assert program.wait() == 0, program.err
    return folder / "out"


def test_a_damaged_checkpoint_is_started_afresh(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = leave_behind(tmp_path)
    state = out / WORK_FOLDER / "0" / "state.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.warns(match="cannot be used"):
        dissect(toy_target(), toy_probe(300), LAYERS, out)
    assert files(out) == whole


@pytest.mark.parametrize(("blocks", "first"), [(3, 64), (8, 224)])
def test_a_resumed_run_decodes_no_counted_image_again(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, blocks: int, first: int
) -> None:
    out = leave_behind(tmp_path, blocks)
    decode, decoded = Probe._decode_one, []
    monkeypatch.setattr(Probe, "_decode_one", lambda probe, index: decoded.append(index) or decode(probe, index))
    dissect(toy_target(), toy_probe(300), LAYERS, out)
    assert decoded == list(range(first, 300))
    assert files(out) == whole


def test_another_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"):
        program = Program(killing.dissect_whole, tmp_path / "out", 20, folder=tmp_path)
        assert program.wait() == 0, program.err
    assert f"is being written by process {os.getpid()}" in program.out, program.out + program.err


def test_two_processes_make_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    ranks = start_ranks(killing.dissect_as_rank, tmp_path / "out", False, folder=tmp_path)
    assert [each.wait() for each in ranks] == [0, 0], ranks[0].err
    assert files(tmp_path / "out") == whole
    assert ranks[0].out.startswith("[")
    assert ranks[0].out == ranks[1].out


def test_processes_killed_and_run_again_make_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    ranks = start_ranks(killing.dissect_as_rank, out, True, folder=tmp_path / "killed")
    assert [each.wait() for each in ranks][1] == -signal.SIGKILL, ranks[1].err
    assert leftovers(out)
    ranks = start_ranks(killing.dissect_as_rank, out, False, folder=tmp_path / "again")
    assert [each.wait() for each in ranks] == [0, 0], ranks[0].err
    assert files(out) == whole
