"""The command line: what it reads, how it ends, what it tells."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from milan.console import progress as progress_module
from milan.console.command_line import (
    bounded_yaml,
    build_parser,
    get_recorded_warnings,
    record_warnings,
    run_program,
)
from milan.console.progress import track_progress
from milan.console.text_cleaning import clean_text, escape_markup
from milan.errors import BadInput, MilanWarning
from milan.storage.packaged_data import locate_packaged_data


def program(
    target: str = "diorama:resnet-objects",
    layers: list[str] | None = None,
    units: list[int] = [],  # noqa: B006  (never changed)
    k: int = 15,
    how: Literal["center", "squash"] = "center",
    out: Path = Path("runs"),
    dry_run: bool = False,
) -> None:
    """Does it.

    Args:
        target: the network that is looked at
        layers: the layers to take
    """


def options(*words: str) -> dict:
    return build_parser("program", "Does it.", program).parse_args(list(words)).as_dict()


def test_words_become_options() -> None:
    found = options("--layers", "a", "b.c", "--units", "1", "2", "--dry_run", "--out", "x", "--how=squash")
    assert (found["layers"], found["units"], found["dry_run"], found["out"], found["how"]) == (
        ["a", "b.c"],
        [1, 2],
        True,
        Path("x"),
        "squash",
    )
    assert options("--dry_run", "false", "--layers=a")["dry_run"] is False
    assert options("--layers=a")["layers"] == ["a"]
    assert options("--layers", "[a, b]")["layers"] == ["a", "b"]
    assert options()["layers"] is None


def test_config_and_what_print_config_prints_make_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        options("--layers", "a", "--k", "3", "--print_config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["k"] == 3
    (tmp_path / "c.yaml").write_text(printed)
    found = options("--config", str(tmp_path / "c.yaml"), "--k", "4")
    assert (found["layers"], found["k"]) == (["a"], 4)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--layrs", "a"], "unknown option '--layrs'; nearest: --layers"),
        (["--target", "x", "--ou=3"], "unknown option '--ou'; nearest: --out, --how"),
        (["--lay", "a"], "unknown option '--lay'; nearest: --layers"),  # no abbreviations
        (["--k", "many"], "--k: expected int, got 'many'"),
        (["--how", "stretch"], "--how: expected Literal['center', 'squash'], got 'stretch'"),
        (["word"], "'word' does not belong to an option"),
        (["--out"], "--out: expected one argument"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_faults_are_one_line_with_what_to_do(words: list[str], reported: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*words)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert reported in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_unknown_option_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "c.yaml").write_text("layrs: [a]\n")
    with pytest.raises(SystemExit):
        options("--config", str(tmp_path / "c.yaml"))
    assert "unknown option '--layrs'; nearest: --layers" in capsys.readouterr().err


BOMB = "a: &a [1, 1, 1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (BOMB.encode(), "more than 100,000 values"),
        (b"layers: &a [*a]", "more than 100,000 values"),
        (b'target: "caf\xe9"', "not UTF-8 text (invalid continuation byte at byte 12)"),
        (b"target: [", "not valid YAML"),
    ],
    ids=["aliases", "within itself", "latin-1", "cut"],
)
def test_a_file_of_options_that_is_none_is_named(content: bytes, reported: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        options("--config", str(tmp_path / "c.yaml"))
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert reported in printed
    assert "c.yaml" in printed
    assert printed.count("\n") == 1


def test_aliases_that_stay_small_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("layers: &a [x, y]\nunits: [1]\n")
    assert options("--config", str(tmp_path / "c.yaml"))["layers"] == ["x", "y"]
    assert bounded_yaml("a: &a [1]\nb: [*a, *a]") == {"a": [1], "b": [[1], [1]]}


def test_help_tells_the_docstring(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        options("--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert ("the network that is looked at" in shown, "<class" in shown) == (True, False)


def test_command_and_package_import_no_torch() -> None:
    code = (
        "import sys, milan, milan.console.command_line, milan.storage.files, milan.console.progress,"
        " milan.storage.packaged_data; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_name_of_the_package_is_there() -> None:
    import milan

    former = {"recorded": "run_to_layers", "ablated": "ablate"}
    for name in milan.__all__:
        assert getattr(milan, name).__name__ == former.get(name, name)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = milan.Nothing


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "reported"),
    [
        (BadInput("no images under a\x1b[2J/b\nor so"), 2, "error: no images under a[2J/b or so\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue where it stopped\n"),
        (
            OSError(28, "No space left on device", "out/x.npy"),
            2,
            "error: cannot write out/x.npy: No space left on device; make room",
        ),
    ],
)
def test_run_ends(error: BaseException, status: int, reported: str, capsys: pytest.CaptureFixture) -> None:
    assert run_program(raising(error)) == status
    printed = capsys.readouterr().err
    assert printed.startswith(reported)
    assert printed.count("\n") == 1


def test_run_hides_no_fault_of_ours() -> None:
    with pytest.raises(ZeroDivisionError):
        run_program(raising(ZeroDivisionError()))


def test_run_well() -> None:
    assert run_program(lambda: None) == 0


WAITING = """
    import sys, time
    from pathlib import Path
    from milan.console.command_line import run_program
    from milan.storage.files import atomic_write, lock_folder
    def main():
        with lock_folder(Path(sys.argv[1])), atomic_write(Path(sys.argv[1], "a.txt")) as partial:
            partial.write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    sys.exit(run_program(main))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_cleanly(tmp_path: Path, number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WAITING), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, reported = process.communicate(timeout=30)
    assert process.returncode == status
    assert "run the same command again" in reported
    assert reported.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_reader_that_leaves_is_no_fault() -> None:
    printed = "[terminal(80).print('x' * 1000) for _ in range(1000)]"
    code = (
        "import sys; from milan.console.command_line import run_program, terminal; sys.exit(run_program(lambda:"
        f" {printed}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""


FULL = pytest.param("{} >/dev/full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full"))


@pytest.mark.parametrize("shell", ["{} >&-", "{} >&- 2>&-", "PYTHONIOENCODING=ascii {} | cat", FULL])
def test_an_output_that_takes_little_or_nothing_is_no_fault(shell: str) -> None:
    """Closed, in ASCII, full: a plain message, the console of rich and a warning are printed, escaped or discarded."""
    code = (
        "import sys, warnings; from milan.console.command_line import run_program, terminal; from milan.errors import"
        " MilanWarning\ndef main(): print('ü'); terminal(80).print('ü'); warnings.warn('ü',"
        " MilanWarning)\nsys.exit(run_program(main))"
    )
    command = shell.format(f'{sys.executable} -c "{code}"')
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    full = "full" in shell
    assert done.returncode == (2 if full else 0)
    assert "Traceback" not in done.stderr
    assert ("cannot write the output: No space left on device" in done.stderr) == full
    assert done.stdout == ("\\xfc\n\\xfc\n" if "ascii" in shell else "")


def test_a_warning_of_a_library_ends_no_run() -> None:
    code = (
        "import warnings; from milan.console.command_line import run_program; exit(run_program(lambda:"
        " warnings.warn('old', DeprecationWarning)))"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_warnings_are_told_once_and_kept(capsys: pytest.CaptureFixture) -> None:
    with record_warnings():
        for _ in range(3):
            warnings.warn("2 images skipped: a\x1b.png", MilanWarning, stacklevel=1)
        assert get_recorded_warnings() == ["2 images skipped: a.png"]
    assert capsys.readouterr().err == "warning: 2 images skipped: a.png\n"
    with record_warnings():
        assert get_recorded_warnings() == []


@given(st.text())
def test_clean_is_harmless_and_settled(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 or "\ud800" <= sign <= "\udfff" for sign in once)
    once.encode()


@given(st.text(alphabet="[]/\\ab#red "))
def test_escaped_is_printed_as_it_is(text: str) -> None:
    from rich.text import Text

    assert Text.from_markup(escape_markup(text)).plain == clean_text(text)


def test_progress_gives_all_and_logs_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert list(track_progress(range(5), description="counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress_module, "LOG_INTERVAL", 0.02)
    for _ in track_progress(iter(range(4)), total=4, description="waiting"):
        time.sleep(0.03)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert lines[-1].startswith("waiting: 3 of 4 in ")


def test_embedded_finds_the_checkout_and_says_what_is_missing() -> None:
    assert locate_packaged_data("data").is_dir()
    assert locate_packaged_data("configs").is_dir()
    with pytest.raises(BadInput, match="data/nothing is not part of"):
        locate_packaged_data("data/nothing")


def test_locale_changes_nothing() -> None:
    code = "from milan.console.text_cleaning import clean_text; print(ascii(clean_text('Ünit\\x07 — 1')))"
    reported = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"LC_ALL": name}, capture_output=True, check=True
        ).stdout
        for name in ("C", "C.UTF-8")
    }
    assert len(reported) == 1
