"""Downloads from a local server that is slow, cut off, redirecting, lying about lengths, or serving web pages."""

import hashlib
import json
from dataclasses import replace

import pytest

from milan.errors import BadInput
from milan.storage.downloads import DownloadOptions, RemoteFile, fetch, is_downloaded
from tests.file_server import serve

BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()
QUICK = DownloadOptions(timeout=2.0, pause=0.0)
pytestmark = pytest.mark.filterwarnings("ignore::milan.errors.MilanNotice")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MILAN_OFFLINE", raising=False)
    with serve({"/model.pth": BODY, "/elsewhere": BODY, "/empty": b""}) as running:
        yield running


@pytest.fixture
def remote(server):
    return RemoteFile(f"{server.url}/model.pth", "milan/model.pth")


def test_a_file_is_fetched_once_and_its_size_and_checksum_are_kept(server, remote):
    assert not is_downloaded(remote)
    assert fetch(remote, options=QUICK).read_bytes() == BODY
    assert fetch(remote, options=QUICK) == remote.path
    assert server.asked == [("/model.pth", "")]
    assert json.loads(remote.record.read_text()) == {"url": remote.url, "size": 10240, "sha256": SHA256}
    assert sorted(path.suffix for path in remote.path.parent.iterdir() if not path.name.startswith(".")) == [
        ".json",
        ".pth",
    ]


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut:4000"], ["", "bytes=4000-"]),
        (["cut:4000", "cut:1000", "status:503"], ["", "bytes=4000-", "bytes=5000-", "bytes=5000-"]),
        (["long:7"], ["", "bytes=10240-", ""]),
        (["cut:4000", "no-ranges"], ["", "bytes=4000-"]),
        (["cut:4000", "changed"], ["", "bytes=4000-", ""]),
        (["redirect:/elsewhere"], ["", ""]),
        (["slow"], [""]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_difficult_server_is_asked_until_the_whole_file_is_there(server, remote, faults, ranges):
    server.faults += faults
    assert fetch(remote, options=QUICK).read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == ranges


def test_a_killed_download_continues_in_the_next_run(server, remote):
    server.faults += ["cut:4000", "status:503", "status:503"]
    with pytest.raises(BadInput, match="4,000 of 10,240"):
        fetch(remote, options=QUICK)
    server.asked.clear()
    assert fetch(remote, options=QUICK).read_bytes() == BODY
    assert server.asked == [("/model.pth", "bytes=4000-")]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["status:404"], "status 404"),
        (["html"], "web page"),
        (["redirect:/model.pth"] * 9, "redirects"),
        (["redirect:file:///etc/passwd"], "neither http nor https|file"),
        (["no-length"], "without a length"),
        (["status:500"] * 3, "status 500"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_no_file_is_refused_and_nothing_is_left(server, remote, faults, words):
    server.faults += faults
    with pytest.raises(BadInput, match=words):
        fetch(remote, options=QUICK)
    assert not remote.path.exists()
    assert not remote.partial.exists()


def test_a_file_shorter_than_announced_is_not_taken_for_whole(server, remote):
    server.faults += ["long:7", "status:503"]
    with pytest.raises(BadInput, match="10,240 of 10,247"):
        fetch(remote, options=replace(QUICK, tries=1))
    assert not remote.path.exists()


def test_a_silent_server_is_given_up_on(server, remote):
    server.faults += ["slow"]
    with pytest.raises(BadInput, match=r"model\.pth"):
        fetch(remote, options=DownloadOptions(timeout=0.03, tries=1, pause=0.0))


def test_an_empty_file_is_refused(server):
    with pytest.raises(BadInput, match="/empty has 0 bytes"):
        fetch(RemoteFile(f"{server.url}/empty", "empty"), options=QUICK)


def test_another_file_at_the_same_address_is_refused_once_it_is_pinned(server, remote):
    fetch(remote, options=QUICK)
    remote.path.unlink()
    server.files["/model.pth"] = BODY[::-1]
    with pytest.raises(BadInput, match=SHA256):
        fetch(remote, options=QUICK)
    assert not remote.path.exists()
    with pytest.raises(BadInput, match="0" * 64):
        fetch(replace(remote, name="other", sha256="0" * 64), options=QUICK)


def test_a_damaged_file_is_downloaded_again(server, remote):
    fetch(remote, options=QUICK).write_bytes(BODY[:99])
    assert fetch(remote, options=QUICK).read_bytes() == BODY


def test_a_file_that_its_reader_refuses_is_not_kept(server, remote):
    def refuse(path):
        raise BadInput(f"{path.stat().st_size} bytes are no checkpoint")

    with pytest.raises(BadInput, match="10240 bytes are no checkpoint"):
        fetch(remote, check=refuse, options=QUICK)
    assert not remote.path.exists()
    assert not remote.record.exists()


def test_a_file_longer_than_announced_is_cut_and_its_checksum_tells(server, remote):
    server.faults += ["short:5"]
    with pytest.raises(BadInput, match=SHA256):
        fetch(replace(remote, sha256=SHA256), options=QUICK)
    assert not remote.path.exists()


def test_offline_nothing_is_asked_and_what_is_there_is_used(server, remote, monkeypatch):
    monkeypatch.setenv("MILAN_OFFLINE", "1")
    with pytest.raises(BadInput, match=str(remote.path)):
        fetch(remote, options=QUICK)
    remote.path.parent.mkdir(parents=True)
    remote.path.write_bytes(BODY)
    assert fetch(remote) == remote.path
    assert remote.pin == SHA256
    remote.path.write_bytes(BODY[:99])
    with pytest.raises(BadInput, match="offline"):
        fetch(remote)
    assert server.asked == []
