"""Building Diorama's parts: in the order of their needs, side by side, each on one thread, the same files from the same
seed.
"""

import json
import sys
import threading

import pytest
import torch

from milan.diorama_build import build_steps as diorama_build
from milan.diorama_build import classifier_training as training
from milan.diorama_build.build_folders import BuildFolders
from milan.diorama_build.build_steps import BUILD_STEPS, BuildStep, build, main
from milan.diorama_build.parallel_build import (
    BuildFailed,
    BuildTime,
    measure_time,
    record_time,
    record_total_time,
    run_in_parallel,
    run_subprocess,
)


def test_each_is_made_after_what_it_needs_and_as_many_at_once_as_asked() -> None:
    needs = {
        "roof": ["wall"],
        "wall": ["ground"],
        "ground": [],
        "road": ["ground"],
        "lamp": ["road", "sun"],
    }  # the sun is there
    two, made = threading.Barrier(2, timeout=20), []

    def make(name: str) -> bool:
        assert {*needs[name]} - {"sun"} <= {*made}
        if name in ("wall", "road"):
            two.wait()  # is passed only if both are made at the same time
        made.append(name)
        return True

    assert run_in_parallel(needs, 2, make) == {}
    assert made[0] == "ground"
    assert sorted(made) == sorted(needs)


def test_one_at_a_time_in_the_order_given() -> None:
    made: list[str] = []
    assert run_in_parallel({"b": ["d"], "c": [], "d": []}, 1, lambda name: made.append(name) is None) == {}
    assert made == ["c", "d", "b"]


def test_what_does_not_need_a_failed_part_is_made_all_the_same() -> None:
    made: list[str] = []

    def make(name: str) -> bool:
        made.append(name)
        return name != "wall"

    assert run_in_parallel({"wall": [], "roof": ["wall"], "chimney": ["roof"], "tree": []}, 2, make) == {
        "wall": "failed",
        "roof": "needs wall",
        "chimney": "needs roof",
    }
    assert sorted(made) == ["tree", "wall"]


def test_every_part_needs_parts_that_come_before_it() -> None:
    before: set[str] = set()
    for name, part in BUILD_STEPS.items():
        assert {*part.requires} <= before, name
        before.add(name)


def parts(made: list[str]) -> dict[str, BuildStep]:
    """Two parts that write the seed they are given; the second needs the first."""

    def part(name: str, *needs: str) -> BuildStep:
        def make(shop: BuildFolders) -> None:
            shop.data.mkdir(exist_ok=True)
            (shop.data / name).write_text(f"{shop.seed} {torch.get_num_threads()}")
            made.append(name)

        return BuildStep(make, (name,), "a test", needs)

    return {"one": part("one"), "two": part("two", "one")}


def test_building_makes_what_is_missing_and_no_more(tmp_path, monkeypatch) -> None:
    made: list[str] = []
    places = {"out": str(tmp_path / "data"), "work": str(tmp_path / "work")}
    monkeypatch.setattr(diorama_build, "BUILD_STEPS", parts(made))
    monkeypatch.setattr(
        diorama_build, "run_subprocess", lambda name, command, log: build([name], seed=0, **places) is None
    )
    build(**places, jobs=1)
    message = json.loads((tmp_path / "data" / "built.json").read_text())["in one go"]
    assert set(message) == {"jobs", "seconds"}, "all parts were made"
    build(**places, jobs=2)
    assert made == ["one", "two"]
    (tmp_path / "data" / "one").unlink()
    build(**places, seed=3)
    assert made == ["one", "two", "one"]
    assert main(["build", "--only", "two", "--out", places["out"], "--work", places["work"], "--seed", "5"]) == 0
    assert (tmp_path / "data" / "two").read_text() == "5 1"
    assert (tmp_path / "data" / "one").read_text() == "3 1"
    message = json.loads((tmp_path / "data" / "built.json").read_text())
    assert set(message["parts"]) == {"one", "two"}
    assert message["in one go"]["jobs"] == 1, "none of the later ones made everything"


def test_parts_that_were_not_built_are_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(diorama_build, "BUILD_STEPS", parts([]))
    monkeypatch.setattr(diorama_build, "run_subprocess", lambda name, command, log: False)
    with pytest.raises(BuildFailed, match=r"2 of 2 parts .* one \(failed\), two \(needs one\)"):
        build(out=str(tmp_path), work=str(tmp_path))
    assert main(["build", "--jobs", "0", "--work", str(tmp_path)]) == 2


def test_what_a_process_says_comes_after_its_name_and_the_end_of_a_failed_one_is_shown(tmp_path, capfd) -> None:
    program = (
        "import os, sys; print('begun'); print('roof: done'); print(os.environ['OMP_NUM_THREADS'], file=sys.stderr);"
        " sys.exit({})"
    )
    assert run_subprocess("roof", [sys.executable, "-c", program.format(0)], tmp_path / "log" / "roof.txt")
    assert capfd.readouterr().out == "roof: begun\nroof: done\n"
    assert not run_subprocess("roof", [sys.executable, "-c", program.format(3)], tmp_path / "log" / "roof.txt")
    message = capfd.readouterr()
    assert "roof: failed (exit status 3)" in message.err
    assert "\n  1\n" in message.err


def test_times_are_kept_beside_each_other_with_their_sum(tmp_path) -> None:
    for name, took in (("roof", BuildTime(9.0, 4.4)), ("wall", BuildTime(3.0, 2.6)), ("roof", BuildTime(8.0, 5.0))):
        record_time(tmp_path / "built.json", name, took, lock=tmp_path / "turn")
    record_total_time(tmp_path / "built.json", 6.4, 2, lock=tmp_path / "turn")
    record_time(tmp_path / "built.json", "wall", BuildTime(3.0, 2.6), lock=tmp_path / "turn")
    message = json.loads((tmp_path / "built.json").read_text())
    assert message == {
        "cpu seconds in all": 8,
        "in one go": {"jobs": 2, "seconds": 6},
        "parts": {"roof": {"cpu seconds": 5, "seconds": 8}, "wall": {"cpu seconds": 3, "seconds": 3}},
    }
    assert measure_time(lambda: sum(range(3_000_000))).cpu > 0.01


def test_the_same_seed_gives_the_same_files_however_many_threads_there_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(training.SCENES, "alexnet-scenes", 128)
    monkeypatch.setitem(training.EPOCHS, "alexnet-scenes", 1)

    def built(folder: str, threads: int, seed: int = 0) -> dict[str, bytes]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            build(["alexnet-scenes"], out=str(tmp_path / folder), work=str(tmp_path / "work"), seed=seed)
        finally:
            torch.set_num_threads(before)
        return {file.name: file.read_bytes() for file in (tmp_path / folder / "networks").iterdir()}

    one, other = built("one", 1), built("other", 3)
    assert set(one) == {"alexnet-scenes.safetensors", "alexnet-scenes.json"}
    assert one == other
    assert built("third", 1, seed=1)["alexnet-scenes.safetensors"] != one["alexnet-scenes.safetensors"]
