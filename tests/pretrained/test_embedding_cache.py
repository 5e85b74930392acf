"""Vectors of probes and texts: computed once, found by content, gone on with after a kill, never wrong."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from milan.errors import BadInput, MilanWarning
from milan.pretrained import embedding_cache as embeddings
from milan.pretrained.embedder import embed_probe, embed_texts, load_embedder
from milan.probes import Probe, load_probe
from tests.describers.colour_embedder import ColourEmbedder
from tests.pretrained import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def probe():
    return Probe.from_tensor(
        torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    )


def _pictures(folder: Path, count: int, bad: int = 0) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"{number:03}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
        if number in range(2, 2 + bad):
            file.write_bytes(b"no picture")
    return folder


def test_once_for_all_who_ask(cache, probe):
    embedder = ColourEmbedder(batch_size=8)
    found = embed_probe(embedder, probe)
    expected = embedder.encode_images(torch.stack([probe.image(index) for index in range(20)]))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    before = embedder.seen
    torch.testing.assert_close(embed_probe(embedder, probe), found, rtol=0, atol=0)
    assert embedder.seen == before
    assert list(cache.rglob("rows.npy"))


def test_another_probe_or_embedder_is_a_miss(cache, probe):
    embedder = ColourEmbedder()
    embed_probe(embedder, probe)
    pixels = torch.stack([probe.image(index) for index in range(20)])
    pixels[3, 0, 0, 0] ^= 255
    changed = Probe.from_tensor(pixels)
    assert embedder.seen == 20
    torch.testing.assert_close(embed_probe(embedder, changed), embedder.encode_images(pixels), rtol=0, atol=0)
    other = ColourEmbedder()
    other.key = "other colours"
    embed_probe(other, probe)
    assert other.seen == 20


def test_changed_weights_are_a_miss(cache, tmp_path, probe):
    one, other = (
        load_embedder(tiny.make("clip", tmp_path / "one")),
        load_embedder(tiny.make("clip", tmp_path / "other", seed=1)),
    )
    first, second = embed_probe(one, probe), embed_probe(other, probe)
    assert (first - second).abs().max() > 1e-3
    assert (embed_texts(one, ["a red dog"]) - embed_texts(other, ["a red dog"])).abs().max() > 1e-3


def test_writing_to_what_is_given_changes_nothing_kept(cache, probe):
    embedder = ColourEmbedder()
    found = embed_probe(embedder, probe)
    kept = found.clone()
    found.zero_()
    torch.testing.assert_close(embed_probe(embedder, probe), kept, rtol=0, atol=0)


def test_unreadable_images_are_nan_and_shift_nothing(cache, tmp_path):
    probe = load_probe(str(_pictures(tmp_path / "p", 60, bad=2)), size=8)
    embedder = ColourEmbedder(batch_size=7)
    with pytest.warns(MilanWarning, match="2 of 60 images"):
        found = embed_probe(embedder, probe)
    assert found.isnan().any(1).nonzero().flatten().tolist() == [2, 3]
    assert found.isnan().all(1).sum() == 2
    torch.testing.assert_close(found[4], embedder.encode_images(probe.image(4)[None])[0])


def test_too_many_unreadable_images_are_an_error_each_time(cache, tmp_path):
    folder = _pictures(tmp_path / "p", 60, bad=9)
    for _ in range(2):
        with pytest.raises(BadInput, match=r"9 of 60 images of .* cannot be read \(more than 5%\)"):
            embed_probe(ColourEmbedder(batch_size=7), load_probe(str(folder), size=8))


class Stopping(ColourEmbedder):
    """Fails at its third batch."""

    def encode_images(self, images):
        if self.seen >= 16:
            raise KeyboardInterrupt
        return super().encode_images(images)


def test_goes_on_where_it_stopped(cache, probe, monkeypatch):
    monkeypatch.setattr(embeddings, "SAVE_INTERVAL", -1.0)
    with pytest.raises(KeyboardInterrupt):
        embed_probe(Stopping(batch_size=8), probe)
    rest = ColourEmbedder(batch_size=8)
    found = embed_probe(rest, probe)
    assert rest.seen == 4
    torch.testing.assert_close(
        found, rest.encode_images(torch.stack([probe.image(index) for index in range(20)])), rtol=0, atol=0
    )


KILLED = """
import os, signal, sys
from milan.pretrained import embedding_cache as embeddings
from milan.pretrained.embedder import embed_probe
from milan.probes import load_probe
from tests.describers.colour_embedder import ColourEmbedder
class Killed(ColourEmbedder):
    def encode_images(self, images):
        if self.seen >= 24:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_images(images)
embeddings.SAVE_INTERVAL = float(sys.argv[2])
embed_probe(Killed(batch_size=8), load_probe(sys.argv[1], size=8))
"""


@pytest.mark.parametrize(("pause", "left"), [("-1", 36), ("60", 60)])
def test_a_kill_loses_at_most_the_last_seconds(cache, tmp_path, pause, left):
    folder = _pictures(tmp_path / "p", 60)
    command = [sys.executable, "-c", KILLED, str(folder), pause]
    killed = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "MILAN_CACHE": str(cache)}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    probe, rest = load_probe(str(folder), size=8), ColourEmbedder(batch_size=8)
    found = embed_probe(rest, probe)
    assert rest.seen == left
    torch.testing.assert_close(
        found, rest.encode_images(torch.stack([probe.image(index) for index in range(60)])), rtol=0, atol=0
    )


def test_damaged_files_are_made_anew(cache, probe):
    embedder = ColourEmbedder()
    kept = embed_probe(embedder, probe).clone()
    rows = next(cache.rglob("rows.npy"))
    rows.write_bytes(rows.read_bytes()[:200])
    torch.testing.assert_close(embed_probe(embedder, probe), kept, rtol=0, atol=0)
    facts = rows.with_name("done.json")
    facts.write_text("{")
    torch.testing.assert_close(embed_probe(embedder, probe), kept, rtol=0, atol=0)
    assert json.loads(facts.read_text()) == {"done": 20, "whole": True}
    assert embedder.seen == 60


def test_two_who_ask_at_once_share_the_work(cache, probe):
    embedders = [ColourEmbedder(batch_size=1) for _ in range(4)]
    found = []
    threads = [threading.Thread(target=lambda each=each: found.append(embed_probe(each, probe))) for each in embedders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.seen for each in embedders) == 20
    assert all(torch.equal(found[0], other) for other in found)


def test_each_text_is_read_once_ever(cache):
    embedder = ColourEmbedder(batch_size=2)
    texts = ["red", "blue", "red", "a green thing", "\udcff odd", "'); DROP TABLE texts; --"]
    found = embed_texts(embedder, texts)
    torch.testing.assert_close(found, ColourEmbedder().encode_texts(texts), rtol=0, atol=0)
    assert sorted(embedder.read) == sorted(set(texts))
    again = ColourEmbedder()
    torch.testing.assert_close(
        embed_texts(again, ["blue", "yellow", "red"]), ColourEmbedder().encode_texts(["blue", "yellow", "red"])
    )
    assert again.read == ["yellow"]
    other = ColourEmbedder()
    other.key = "other colours"
    embed_texts(other, ["red"])
    assert other.read == ["red"]
    assert embed_texts(embedder, []).shape == (0, 4)


def test_more_texts_than_are_looked_up_at_once(cache):
    texts = [f"red {'blue ' * (number % 7)} {number}" for number in range(embeddings.LOOKUP_BATCH * 2 + 3)]
    embedder = ColourEmbedder(batch_size=64)
    torch.testing.assert_close(embed_texts(embedder, texts[::-1]), ColourEmbedder().encode_texts(texts[::-1]))
    assert embed_texts(embedder, texts).shape == (len(texts), 4)
    assert len(embedder.read) == len(texts)


def test_a_stopped_run_keeps_the_texts_it_had(cache):
    class Stopping(ColourEmbedder):
        def encode_texts(self, texts):
            if len(self.read) >= 4:
                raise KeyboardInterrupt
            return super().encode_texts(texts)

    with pytest.raises(KeyboardInterrupt):
        embed_texts(Stopping(batch_size=2), ["red", "green", "blue", "white", "grey", "black"])
    rest = ColourEmbedder(batch_size=2)
    embed_texts(rest, ["red", "green", "blue", "white", "grey", "black"])
    assert rest.read == ["grey", "black"]


def test_a_damaged_or_unwritable_cache_is_told(cache, probe, monkeypatch, tmp_path):
    embed_texts(ColourEmbedder(), ["red"])
    file = next(cache.rglob("*.sqlite"))
    for each in file.parent.iterdir():
        each.unlink()
    file.write_text("no database, but as long as one's head would be, and then a little longer for good measure" * 3)
    with pytest.raises(BadInput, match="delete the file"):
        embed_texts(ColourEmbedder(), ["red"])
    with pytest.raises(sqlite3.DatabaseError):  # what it was is left for the user to look at
        sqlite3.connect(file).execute("SELECT * FROM texts")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="set MILAN_CACHE to another folder"):
        embed_probe(ColourEmbedder(), probe)
