"""Archives from elsewhere: what is refused, and that nothing of it is left anywhere."""

import io
import os
import random
import shutil
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milan.errors import BadInput
from milan.storage.archives import unpack


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size, found.mtime = kind, link, size, 1_000_000_000
    return found


def left_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_zip_and_tar_keep_names_content_and_times(tmp_path: Path) -> None:
    unpack(zipped(tmp_path / "a.zip", {"b/c.txt": b"1", "d e.txt": b"2"}), tmp_path / "zip")
    assert {
        file.relative_to(tmp_path / "zip").as_posix(): file.read_bytes() for file in (tmp_path / "zip").rglob("*.txt")
    } == {
        "b/c.txt": b"1",
        "d e.txt": b"2",
    }
    unpack(tarred(tmp_path / "a.tgz", member("b", tarfile.DIRTYPE), member("b/c.txt", size=3)), tmp_path / "tar")
    assert (tmp_path / "tar" / "b" / "c.txt").read_bytes() == bytes(3)
    assert (tmp_path / "tar" / "b" / "c.txt").stat().st_mtime == 1_000_000_000


OUTSIDE = ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_lands_outside(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for archive in (
        zipped(tmp_path / "a.zip", {"good.txt": b"", name: b"evil"}),
        tarred(tmp_path / "a.tgz", member(name)),
    ):
        with pytest.raises(BadInput, match=r"is refused: .*evil.txt' would be outside"):
            unpack(archive, inner / "out")
    assert left_in(inner) == set()
    assert left_in(tmp_path) == {"a.zip", "a.tgz", "inner"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tarred(tmp_path / "a.tgz", member("link", kind, "/etc"), member("link/passwd"))
    with pytest.raises(BadInput, match="'link' is a link or a device"):
        unpack(archive, tmp_path / "out")
    assert left_in(tmp_path) == {"a.tgz"}


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(BadInput, match="'link' is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name too long"):
        unpack(tarred(tmp_path / "a.tgz", member("x" * 300)), tmp_path / "out")
    assert left_in(tmp_path) == {"a.tgz"}


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_in_it_twice(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="occurs twice"):
        unpack(tarred(tmp_path / "a.tgz", *map(member, names)), tmp_path / "out")
    assert left_in(tmp_path) == {"a.tgz"}


def test_too_much_by_what_it_says_and_by_what_it_holds(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"zeros": bytes(100_000)})
    with pytest.raises(BadInput, match="100,000 bytes unpacked, more than 5,000"):
        unpack(archive, tmp_path / "out", max_bytes=5_000)
    data = bytearray(archive.read_bytes())
    for at in (22, data.rindex(b"PK\x01\x02") + 24):  # the sizes in both headers lie
        data[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(BadInput):
        unpack(archive, tmp_path / "out", max_bytes=5_000)
    assert left_in(tmp_path) == {"a.zip"}


@pytest.mark.parametrize("archived", ["zip", "inf", "nan", "-1e300", "1e300", "99999999999999999999", "soon"])
def test_times_that_are_none(tmp_path: Path, archived: str) -> None:
    if archived == "zip":
        zipped(tmp_path / "a", {"a": b"1"})
        data = bytearray((tmp_path / "a").read_bytes())
        for at in (10, data.rindex(b"PK\x01\x02") + 12):
            data[at : at + 4] = bytes(4)
        (tmp_path / "a").write_bytes(data)
    else:
        with tarfile.open(tmp_path / "a", "w", format=tarfile.PAX_FORMAT) as archive:
            timeless = tarfile.TarInfo("a")
            timeless.pax_headers = {"mtime": archived}
            archive.addfile(timeless)
    unpack(tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out" / "a").stat().st_mtime == 0


def test_never_more_than_the_disk_has_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 4096))
    large = zipped(tmp_path / "a.zip", {"zeros": bytes(10 * 4096)})
    many = tarred(tmp_path / "b.tgz", *(member(str(number)) for number in range(11)))
    for archive in (large, many):
        with pytest.raises(BadInput, match="takes 45,056 bytes unpacked, and 40,960 are free"):
            unpack(archive, tmp_path / "deep" / "out")
    assert left_in(tmp_path) == {"a.zip", "b.tgz"}


def test_what_comes_after_too_much_is_not_read(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "a.tgz", member("zeros", size=50 << 20)).read_bytes()
    (tmp_path / "a.tgz").write_bytes(whole[:1000])
    with pytest.raises(BadInput, match="52,428,800 bytes unpacked, more than 1,000"):
        unpack(tmp_path / "a.tgz", tmp_path / "out", max_bytes=1000)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut short", b"\x1f\x8b\x08 cut short"])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BadInput, match=r"cannot unpack .*a\.zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("mode", ["zip", "w:", "w:gz", "w:bz2", "w:xz"])
def test_damaged_archives_raise_one_kind_of_error(tmp_path: Path, mode: str) -> None:
    archive, rng = tmp_path / "a", random.Random(0)
    if mode == "zip":
        zipped(archive, {"b/c.txt": b"1" * 500, "d.txt": b"2"})
    else:
        with tarfile.open(archive, mode, format=tarfile.PAX_FORMAT) as written:
            written.addfile(member("b/c.txt", size=500), io.BytesIO(bytes(500)))
    whole = archive.read_bytes()
    for number in range(200):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        archive.write_bytes(data if number % 4 else data[: rng.randrange(len(data))])
        with suppress(BadInput):
            unpack(archive, tmp_path / str(number))
    assert not [name for name in left_in(tmp_path) if name.startswith(".")]


@given(st.lists(st.text(max_size=12).filter(lambda name: "\0" not in name), max_size=5), st.booleans())
def test_wild_names_stay_inside_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], as_zip: bool
) -> None:
    base = tmp_path_factory.mktemp("wild")
    try:
        archive = zipped(base / "a", dict.fromkeys(names, b"x")) if as_zip else tarred(base / "a", *map(member, names))
    except (UnicodeError, ValueError, IndexError):  # a name that the archive cannot hold
        return
    try:
        unpack(archive, base / "out")
    except BadInput:
        assert left_in(base) == {"a"}
    else:
        assert left_in(base) == {"a", "out"}
        assert not any(os.path.islink(file) for file in (base / "out").rglob("*"))  # noqa: PTH114  (also of names that Path would tidy)
