"""Files of the cache that were cut short, facts that were changed, and files that are not as they were."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milan.errors import BadInput, MilanNotice
from milan.storage.integrity import checksums, damage, is_sound, json_or_none, made_once, read_sealed, sealed


def read_archive(file: Path) -> list[int]:
    with np.load(file) as found:
        return found["a"].tolist()


KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "a.npy": (lambda file: np.save(file, np.arange(3)), lambda file: np.load(file).tolist()),
    "map.npy": (lambda file: np.save(file, np.arange(3)), lambda file: np.load(file, mmap_mode="r").tolist()),
    "a.npz": (lambda file: np.savez_compressed(file, a=np.arange(3)), read_archive),
    "a.json": (lambda file: file.write_text("[0, 1, 2]"), lambda file: json.loads(file.read_text())),
}


@pytest.mark.parametrize("left", [0, 5, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_made_once_and_anew_where_it_was_cut(tmp_path: Path, kind: str, left: int) -> None:
    made: list[Path] = []
    write, read = KINDS[kind]

    def make(file: Path) -> None:
        made.append(file)
        write(file)

    file = tmp_path / "folder" / kind
    once = partial(made_once, file, make, read)
    assert once() == once() == [0, 1, 2]
    assert len(made) == 1
    file.write_bytes(file.read_bytes()[:left])
    with pytest.warns(MilanNotice, match=f"{kind} is damaged .* made again"):
        assert once() == [0, 1, 2]


def test_facts_know_whether_they_were_changed(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    facts = {"grid": (7, 7), "rank_error": 0.1, "layer": "fc", "nothing": None}
    file.write_text(json.dumps(sealed(facts)))
    assert read_sealed(file)["grid"] == [7, 7]
    for text in (file.read_text().replace("0.1", "0.2"), json.dumps(facts), "[]", "{", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(BadInput, match=r"facts\.json"):
            read_sealed(file)
    assert json_or_none(file) is None


def test_files_are_compared_with_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"abc")
    facts = {"files": checksums(tmp_path, ["b"])}
    assert damage(tmp_path, facts["files"]) == ""
    assert is_sound(facts, tmp_path)
    for content, message in ((b"ab", "2 bytes instead of 3"), (b"abd", "checksum differs"), (None, "No such file")):
        (tmp_path / "b").unlink()
        if content is not None:
            (tmp_path / "b").write_bytes(content)
        assert message in damage(tmp_path, facts["files"])
        assert not is_sound(facts, tmp_path)
    assert not any(is_sound(odd, tmp_path) for odd in (None, {}, {"files": None}))
