"""Files whole or absent, locks that end with their holder, journals that survive a kill."""

import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milan.errors import BadInput, MilanNotice
from milan.storage.files import atomic_write, cache_folder, cache_root, content_key, lock_folder, safe_name
from milan.storage.journal import Journal
from milan.storage.software_versions import collect_versions


def started(code: str, *arguments: object) -> subprocess.Popen:
    """A Python process running ``code``, after it has printed its first line."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_atomic_appears_whole_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "a.npy"
    target.write_text("old")
    with atomic_write(target) as partial:
        assert partial.suffix == ".npy"
        assert partial.parent == tmp_path
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "No space left on device")])
def test_atomic_leaves_nothing_after_a_fault(tmp_path: Path, fault: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_write(target) as partial:
            partial.write_text("half")
            raise fault

    with pytest.raises(type(fault)):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


FULL = """
    import resource, sys
    from pathlib import Path
    import numpy, pyarrow, pyarrow.parquet, safetensors.torch, torch
    from milan.storage.files import atomic_write, new_array
    values, out = torch.rand(100, 100), Path(sys.argv[1])
    savers = {
        ".safetensors": lambda path: safetensors.torch.save_file({"a": values}, path),
        ".npy": lambda path: numpy.save(path, values),
        ".npz": lambda path: numpy.savez(path, values),
        ".pt": lambda path: torch.save({"a": values}, path),
        ".parquet": lambda path: pyarrow.parquet.write_table(pyarrow.table({"a": values.flatten().numpy()}), path),
        ".map.npy": lambda path: new_array(path, numpy.float32, (100, 100)),
        ".txt": lambda path: path.write_text("a" * 40000),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as on a full disk, what is written ends here
    print("ready", flush=True)
    for suffix, save in savers.items():
        try:
            with atomic_write(out / f"a{suffix}") as path:
                save(path)
        except OSError as error:
            print(suffix, error.errno, Path(error.filename).name)
    print(list(out.iterdir()))
"""


def test_a_full_disk_is_one_error_whatever_saves(tmp_path: Path) -> None:
    process = started(FULL, tmp_path)
    assert process.stdout is not None
    # Not communicate(), which loses what was buffered behind the line that says "ready".
    *message, left = process.stdout.read().splitlines()
    suffixes = (".safetensors", ".npy", ".npz", ".pt", ".parquet", ".map.npy", ".txt")
    assert message == [f"{suffix} {errno.ENOSPC} a{suffix}" for suffix in suffixes]
    assert left == "[]"


def test_names_of_files_are_safe_and_differ(tmp_path: Path) -> None:
    texts = ["conv1", "Conv1", "CONV1", "é", "e\u0301", "a/b", "a_b", "..", ".", "", "con", "x" * 300, "a#1", "\ud800"]
    names = [safe_name(text) for text in texts]
    assert names[0] == "conv1"
    assert len({name.casefold() for name in names}) == len(texts)
    assert all(re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII) and name[0] not in ".-" for name in names)


WRITER = """
    import sys, time
    from pathlib import Path
    from milan.storage.files import atomic_write, lock_folder
    with lock_folder(Path(sys.argv[1])), atomic_write(Path(sys.argv[1]) / "a.txt") as partial:
        partial.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


def test_killed_writer_leaves_no_half_file_and_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(WRITER, out)
    with pytest.raises(BadInput, match=rf"being written by process {process.pid} on "), lock_folder(out):
        pass
    process.kill()
    process.wait()
    assert not (out / "a.txt").exists()
    with lock_folder(out):
        assert {file.name for file in out.iterdir()} == {".lock", ".holder"}, "the half file has gone too"
    assert list(out.iterdir()) == []


def test_two_holders_in_one_process(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(BadInput, match=f"this process {os.getpid()}"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_holder_on_another_machine_is_respected(tmp_path: Path) -> None:
    holder = tmp_path / ".holder"
    holder.write_text(json.dumps({"pid": 7, "host": "elsewhere", "boot": "another"}))
    with pytest.raises(BadInput, match=r"process 7 on elsewhere.* delete .*\.holder"), lock_folder(tmp_path):
        pass
    holder.unlink()
    with lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("written", ["", "[]", "{"])
def test_holder_that_was_killed_before_it_had_signed(tmp_path: Path, written: str) -> None:
    (tmp_path / ".holder").write_text(written)
    with lock_folder(tmp_path):
        pass


def test_lock_ends_with_its_holder_though_a_process_that_it_forked_goes_on(tmp_path: Path) -> None:
    forking = """
        import os, sys, time
        from pathlib import Path
        from milan.storage.files import lock_folder
        with lock_folder(Path(sys.argv[1])):
            if not os.fork():  # the child speaks, so that it has left the lock alone by then
                print(f"ready\\n{os.getpid()}", flush=True)
            time.sleep(60)
    """
    process = started(forking, tmp_path)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        with lock_folder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_locks_need_no_fcntl(tmp_path: Path) -> None:
    without = 'import sys\nsys.modules["fcntl"] = None\n'
    process = started(without + textwrap.dedent(WRITER), tmp_path)
    second = [sys.executable, "-c", without + textwrap.dedent(WRITER), str(tmp_path)]
    refused = subprocess.run(second, capture_output=True, text=True, check=False)
    assert f"being written by process {process.pid} on " in refused.stderr
    process.kill()
    process.wait()
    process = started(without + textwrap.dedent(WRITER), tmp_path)
    process.kill()
    process.wait()


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"), lock_folder(tmp_path / "file"):
        pass
    with pytest.raises(BadInput, match="part of its path is a file"), lock_folder(tmp_path / "file" / "below"):
        pass


def test_folder_that_cannot_be_written() -> None:
    with pytest.raises(BadInput, match="cannot write to /proc/self/milan"), lock_folder(Path("/proc/self/milan")):
        pass


@given(
    st.dictionaries(
        st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=9), st.lists(st.booleans())), max_size=5
    )
)
def test_content_key_forgets_order_only(parts: dict) -> None:
    key = content_key(parts=parts)
    assert key == content_key(parts=dict(reversed(parts.items())))
    assert len(key) == 16
    assert key != content_key(parts=parts | {"one more": 1})


def test_content_key_is_the_same_in_every_process() -> None:
    code = "from milan.storage.files import content_key; print(content_key(b=[1, 2.5, None], a='\\udcff'))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | extra, capture_output=True, text=True, check=True
        ).stdout.strip()
        for extra in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "LC_ALL": "C", "TZ": "Asia/Tokyo"})
    }
    assert keys == {content_key(a="\udcff", b=[1, 2.5, None])}


def test_content_key_of_what_is_not_plain() -> None:
    with pytest.raises(BadInput, match="is not a plain value"):
        content_key(a=object())


@given(
    st.text(), st.dictionaries(st.text(), st.one_of(st.none(), st.text(), st.floats(allow_nan=False), st.integers()))
)
def test_journal_gives_back_what_was_put(tmp_path: Path, id: str, value: dict) -> None:
    with Journal(tmp_path / "journal.sqlite", "key") as journal:
        journal.put(id, value)
    with Journal(tmp_path / "journal.sqlite", "key") as journal:
        assert journal.get(id) == value
        assert id in journal.ids()


def test_journal_takes_surrogates_of_file_names(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite", "key") as journal:
        journal.put("a\udcff.png", {"text": "\udcff"})
        assert journal.get("a\udcff.png") == {"text": "\udcff"}


def test_journal_of_another_key_starts_afresh(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite", "one") as journal:
        journal.put("b", {})
        journal.put("a", {})
        journal.put("b", {"again": 1})
        assert journal.ids() == ["b", "a"]
    with Journal(tmp_path / "journal.sqlite", "two") as journal:
        assert journal.ids() == []
        assert journal.get("a") is None


PUTTER = """
    import itertools, sys
    from pathlib import Path
    from milan.storage.journal import Journal
    journal = Journal(Path(sys.argv[1]), "key")
    print("ready", flush=True)
    for number in itertools.count():
        journal.put(str(number), {"number": number})
        print(number, flush=True)
"""


def test_journal_survives_kill(tmp_path: Path) -> None:
    process = started(PUTTER, tmp_path / "journal.sqlite")
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    message = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.wait()
    assert message
    with Journal(tmp_path / "journal.sqlite", "key") as journal:
        kept = [int(id) for id in journal.ids()]
    assert kept[: len(message)] == message  # all that put returned from, and at most the one it was in
    assert len(kept) - len(message) in (0, 1)


def test_journal_on_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite", "key") as journal:
        journal.put("a", {"text": "kept"})
        pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to a full disk
        with pytest.raises(BadInput, match="database or disk is full; finished items are kept"):
            journal.put("b", {"text": "x" * 100_000})
    with Journal(tmp_path / "journal.sqlite", "key") as journal:
        assert journal.ids() == ["a"]


@pytest.mark.parametrize("spoil", [lambda file: b"no data base" * 99, lambda file: file[:4096]], ids=["none", "cut"])
def test_journal_that_cannot_be_read_is_told(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "journal.sqlite"
    with Journal(file, "key") as journal:
        journal.put("a", {"text": "b" * 9_000})
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(BadInput, match="delete it to start again"), Journal(file, "key") as journal:
        journal.get("a")


def test_what_was_changed_in_a_journal_counts_as_not_finished(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with Journal(file, "key") as journal:
        journal.put("a", {"text": "a red dog"})
        journal.put("b", {"text": "a blue dog"})
    for change in (b"a bad dog", b"a r\xffd dog"):
        file.write_bytes(file.read_bytes().replace(b"a red dog", change))
        with Journal(file, "key") as journal:
            with pytest.warns(MilanNotice, match="journal.sqlite is damaged"):
                assert journal.ids() == ["b"]
            with pytest.warns(MilanNotice, match="made again"):
                assert journal.get("a") is None
            journal.put("a", {"text": "a red dog"})
            assert journal.get("a") == {"text": "a red dog"}


def test_journal_of_the_first_version_starts_afresh(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    with sqlite3.connect(file) as base:  # as milan 0.1 wrote it
        base.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        base.execute("CREATE TABLE items (row INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, value TEXT NOT NULL)")
        base.execute("INSERT INTO facts VALUES ('key', 'key')")
        base.execute("INSERT INTO items VALUES (1, '\"a\"', '{}')")
    with pytest.warns(MilanNotice, match=r"journal.sqlite has 1 answers of milan 0\.1"):
        journal = Journal(file, "key")
    with journal:
        assert journal.get("a") is None
        journal.put("a", {"new": 1})
    with Journal(file, "key") as journal:
        assert journal.get("a") == {"new": 1}


def test_versions_name_what_decides_numbers() -> None:
    found = collect_versions()
    assert {"python", "milan", "torch", "torchvision", "numpy", "pillow"} <= found.keys()
    assert all(isinstance(value, str) and value for value in found.values())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path))
    assert (cache_root(), cache_folder()) == (tmp_path, tmp_path / "format-2")
    (tmp_path / "replies").mkdir()  # as milan 0.1 left it
    with pytest.warns(MilanNotice, match=r"has results of milan 0\.1 \(replies\)"):
        cache_folder()
    (tmp_path / "format-2").mkdir()
    with warnings.catch_warnings(action="error"):
        assert cache_folder() == tmp_path / "format-2"
    monkeypatch.delenv("MILAN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "milan"
