"""Probes of shards: tar files as webdataset writes them, and parquet files."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from milan.errors import BadInput
from milan.probes import Probe, load_probe

COUNT = 6


def picture(number: int) -> bytes:
    pixels = np.full((8, 8, 3), 30 * number, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                for suffix, content in (("png", picture(number)), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        numbers = list(range(3 * shard, 3 * shard + 3))
        images = [{"bytes": picture(number), "path": None} for number in numbers]
        rows = datasets.Dataset.from_dict({"image": images, "label": [number % 2 for number in numbers]})
        rows.cast_column("image", datasets.Image()).to_parquet(folder / f"{shard:04d}.parquet")
    return folder


def open_shards(folder: Path, kind: str) -> Probe:
    return load_probe(f"{folder}/*.{kind}", size=8)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_images_and_labels_of_all_shards_in_order(folder: Path, kind: str) -> None:
    probe = open_shards(folder, kind)
    assert len(probe) == COUNT
    assert [int(probe.image(number)[0, 4, 4]) for number in (5, 0, 3)] == [150, 0, 90]
    assert probe.labels == [0, 1] * 3
    assert open_shards(folder, kind).fingerprint == probe.fingerprint
    parts = [load_probe(f"{folder}/*.{kind}@{part}", size=8) for part in ("learn", "judge")]
    assert sum(map(len, parts)) == COUNT


@pytest.mark.parametrize(("pattern", "value"), [("*.jpg", "no file"), ("*", r"\.parquet, \.tar"), ("*/x*.tar", "x")])
def test_a_pattern_that_matches_no_shards_of_one_kind(folder: Path, pattern: str, value: str) -> None:
    with pytest.raises(BadInput, match=value):
        load_probe(f"{folder}/{pattern}")


def test_a_tar_file_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"nothing")
    with pytest.raises(BadInput, match=r"\*\.tar"):
        load_probe(f"{tmp_path}/*.tar")
