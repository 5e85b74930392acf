"""Probes: any picture, any source, one order, one crop; nothing bad in one image touches another."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps, features
from torchvision.transforms import functional

from milan.errors import BadInput, MilanWarning, MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.probes import image_decoding as pictures
from milan.probes.image_decoding import UnreadableImage, decode_image, decode_label_map, formats
from milan.targets.preprocessing import Preprocessing
from tests import toys


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new("RGB", size, colour)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def folder_of(path: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    """A folder of ``count`` pictures, each of its own grey, those numbered in ``bad`` being no pictures."""
    path.mkdir(exist_ok=True)
    for index in range(count):
        data = b"not a picture" if index in bad else encoded(picture((index, index, index)))
        (path / f"{index:03}.png").write_bytes(data)
    return path


def greys(probe: Probe, size: int = 4, workers: int = 0) -> dict[int, int]:
    """The grey of each image by number, having looked that batches are as promised."""
    found = {}
    for ids, images in probe.batches(size, workers=workers):
        assert len(ids) == len(images) <= size
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        found |= dict(zip(ids.tolist(), images[:, 0, 0, 0].tolist(), strict=True))
    assert list(found) == sorted(found)
    return found


# --- pictures of any kind


def test_modes_that_mean_the_same_colour_give_it() -> None:
    orange = (255, 128, 0)
    for image in (
        picture(orange),
        picture(orange).convert("RGBA"),
        picture(orange).convert("P", palette=Image.Palette.ADAPTIVE),
    ):
        assert pixels(decode_image(encoded(image)))[:, 0, 0].tolist() == list(orange)
    cmyk = pixels(decode_image(encoded(picture(orange).convert("CMYK"), "TIFF")))[:, 0, 0]
    assert cmyk.tolist() == list(orange)
    for grey in (Image.new("L", (9, 9), 100), Image.new("LA", (9, 9), (100, 255))):
        assert pixels(decode_image(encoded(grey)))[:, 4, 4].tolist() == [100] * 3
    assert pixels(decode_image(encoded(Image.new("1", (9, 9), 1))))[:, 4, 4].tolist() == [255] * 3


def test_what_is_transparent_is_white() -> None:
    for image in (Image.new("RGBA", (9, 9), (255, 0, 0, 0)), Image.new("LA", (9, 9), (0, 0))):
        assert pixels(decode_image(encoded(image))).min() == 255
    half = pixels(decode_image(encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 51)))))
    assert half[:, 0, 0].tolist() == [204] * 3
    palette = Image.new("P", (9, 9), 0)
    palette.putpalette([255, 0, 0])
    assert pixels(decode_image(encoded(palette, transparency=0)))[:, 0, 0].tolist() == [255] * 3


def test_sixteen_bits_are_scaled() -> None:
    values = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        assert pixels(decode_image(encoded(Image.fromarray(values), format)))[0, 0].tolist() == [0, 1, 100, 255]
    floats = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], dtype=np.float32))
    assert pixels(decode_image(encoded(floats, "TIFF")))[0, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int) -> None:
    image = picture((0, 0, 0), (32, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels(decode_image(data)), pixels(expected))
    assert decode_image(data).size == ((32, 16) if orientation < 5 else (16, 32))


def test_damaged_exif_is_no_reason_to_lose_the_picture() -> None:
    data = encoded(picture((9, 9, 9)), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode_image(data).size == (20, 10)


def bomb() -> bytes:
    """A small PNG that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not a picture"),
        (encoded(picture((1, 2, 3), (200, 200)), "JPEG")[:700], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50))[:-2000], "truncated|broken|incomplete"),
        (bomb(), "decompression bomb"),
    ],
    ids=["empty", "html", "cut jpeg", "cut png", "bomb"],
)
def test_what_cannot_be_decoded_says_why(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why):
        decode_image(data)


def test_every_format_that_pillow_reads_here_is_found_whatever_its_suffix(tmp_path: Path) -> None:
    names = ["a.jpe", "b.jp2", "c.tga", "d.apng", "e.pnm", "f.qoi", "g.dib", "h.mpo"]
    names += ["i.avif"] if features.check("avif") else []
    for name in names:
        picture((9, 9, 9)).save(tmp_path / name, "JPEG" if name == "h.mpo" else None)
    (tmp_path / "j.png").write_bytes(encoded(picture((9, 9, 9)), "WEBP"))
    with warnings.catch_warnings(action="error"):
        probe = load_probe(str(tmp_path), size=8)
    assert greys(probe) == pytest.approx(dict.fromkeys(range(len(names) + 1), 9), abs=1)
    Image.init()
    assert set(formats()) <= set(Image.OPEN)
    assert {"EPS", "WMF", "PSD", "FITS"}.isdisjoint(formats())


def test_other_files_are_counted(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIC", "notes", "classes.txt", "Thumbs.db", ".hidden.heic"):
        (tmp_path / name).write_text("x")
    with pytest.raises(BadInput, match=r"found 2 \.heic, 1 without suffix\)"):
        load_probe(str(tmp_path))
    (tmp_path / "c.png").write_bytes(encoded(picture((1, 1, 1))))
    with pytest.warns(MilanWarning, match=r"3 files under .*: 2 \.heic, 1 without suffix"):
        assert len(load_probe(str(tmp_path), size=8)) == 1


def test_postscript_named_as_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for read in (decode_image, decode_label_map):
        with pytest.raises(UnreadableImage, match="not a picture in a supported format"):
            read(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("mode", "depth"), [("RGB", 4), ("L", 5), ("RGBA", 8), ("I;16", 6), ("P", 5)])
def test_a_picture_is_decoded_up_to_a_size_in_memory(monkeypatch: pytest.MonkeyPatch, mode: str, depth: int) -> None:
    data = encoded(Image.new(mode, (30, 20)))
    monkeypatch.setattr(pictures, "MAX_DECODED_BYTES", 600 * depth)
    assert decode_image(data).size == (30, 20)
    monkeypatch.setattr(pictures, "MAX_DECODED_BYTES", 600 * depth - 1)
    with pytest.raises(UnreadableImage, match=f"30 x 20 pixels of mode {mode}"):
        decode_image(data)


def test_a_file_is_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture((1, 1, 1))))
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(pictures.MAX_FILE_BYTES + 1)  # a hole: nothing is written
    assert decode_image(tmp_path / "a.png").size == (20, 10)
    with pytest.raises(UnreadableImage, match=r"has 0\.5 GB"):
        decode_image(tmp_path / "b.png")


def test_what_does_not_fit_into_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pictures, "_apply_orientation", full)
    with pytest.raises(UnreadableImage, match="not enough memory"):
        decode_image(encoded(picture((1, 1, 1))))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "F", "RGB"])
def test_strips_are_converted_as_the_whole(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (17, 12, 4), dtype=np.uint8)
    grey = values[..., 0].astype(np.float32)
    image = Image.fromarray(values, "RGBA" if mode != "CMYK" else "CMYK")
    if mode in ("F", "I;16"):
        image = Image.fromarray(grey if mode == "F" else grey.astype(np.uint16) * 200)
    elif mode not in ("RGBA", "CMYK"):
        image = image.convert("RGB").convert(mode)
    if mode in ("P", "RGB"):
        image.info["transparency"] = 3 if mode == "P" else image.getpixel((5, 11))
    whole = pixels(pictures._to_rgb(image))
    monkeypatch.setattr(pictures, "STRIP", 40)  # three rows of twelve
    assert np.array_equal(pixels(pictures._to_rgb(image)), whole)


@given(
    st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]), st.integers(0, 400)
)
def test_wild_bytes_are_a_picture_or_unreadable(noise: bytes, format: str, at: int) -> None:
    sound = encoded(picture((200, 100, 50)), format)
    for data in (noise, sound[:at], sound[:at] + noise + sound[at + len(noise) :]):
        try:
            with warnings.catch_warnings(action="ignore"):
                found = decode_image(data)
        except UnreadableImage:  # any other exception fails the test
            continue
        assert found.mode == "RGB"


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))


@given(
    st.sampled_from(sorted(MODES)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from(["center", "squash"]),
    st.data(),
)
def test_every_mode_and_shape_becomes_the_square(
    mode: str, width: int, height: int, size: int, kind: str, data: st.DataObject
) -> None:
    values = data.draw(arrays.arrays(np.uint8, (height, width, 3)))
    image = Image.fromarray(values).convert(mode)
    format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    square = Preprocessing(size, size + 3, crop=kind).pixels(decode_image(encoded(image, format)))
    assert square.shape == (3, size, size)
    assert square.dtype == np.uint8


# --- folders


def test_folder_is_in_order_and_skips_bad_files_without_a_shift(tmp_path: Path) -> None:
    probe = load_probe(str(folder_of(tmp_path / "p", 100, bad=(3, 50))), size=8)
    with pytest.warns(MilanWarning, match=r"2 of 100 images of .* skipped: .*003.png: not a picture in .*; .*050.png"):
        found = greys(probe)
    assert found == {index: index for index in range(100) if index not in (3, 50)}
    assert set(probe.unreadable) == {3, 50}
    assert probe.image(4)[0, 0, 0] == 4
    with pytest.raises(BadInput, match=r"cannot read .*003\.png: not a picture"):
        probe.image(3)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_order_and_pixels_do_not_depend_on_workers_or_batch(tmp_path: Path, workers: int) -> None:
    folder = folder_of(tmp_path / "p", 60, bad=(7,))
    with pytest.warns(MilanWarning, match="1 of 60"):
        alone = greys(load_probe(str(folder), size=8))
    with pytest.warns(MilanWarning, match="1 of 60"):
        assert greys(load_probe(str(folder), size=8), size=7, workers=workers) == alone


def test_a_reader_may_stop_early(tmp_path: Path) -> None:
    probe = load_probe(str(folder_of(tmp_path / "p", 60)), size=8)
    batches = probe.batches(2, workers=2)
    ids, _ = next(batches)
    batches.close()
    assert ids.tolist() == [0, 1]
    assert len(greys(probe, workers=2)) == 60


def test_there_is_no_worker_process_to_be_killed(tmp_path: Path) -> None:
    import psutil

    before = {child.pid for child in psutil.Process().children()}
    batches = load_probe(str(folder_of(tmp_path / "p", 60)), size=8).batches(2, workers=3)
    next(batches)
    assert {child.pid for child in psutil.Process().children()} <= before
    batches.close()


def test_more_than_five_percent_bad_is_an_error(tmp_path: Path) -> None:
    probe = load_probe(str(folder_of(tmp_path / "p", 100, bad=tuple(range(6)))), size=8)
    with pytest.raises(BadInput, match=r"6 of 100 images of .* cannot be read \(more than 5%\): .*; and 3 more"):
        list(probe.batches(8))
    single = load_probe(str(folder_of(tmp_path / "q", 1, bad=(0,))), size=8)
    with pytest.raises(BadInput, match="1 of 1 images"):
        list(single.batches(8))


def test_a_few_bad_ones_in_the_first_part_are_not_yet_an_error(tmp_path: Path) -> None:
    probe = load_probe(str(folder_of(tmp_path / "p", 200, bad=(1, 2))), size=8)
    with pytest.warns(MilanWarning, match="2 of 10"):
        assert [ids.tolist() for ids, _ in probe.batches(5, 0, 10)] == [[0, 3, 4], [5, 6, 7, 8, 9]]
    with warnings.catch_warnings(action="error"):
        assert len(list(probe.batches(5, 10, 200))) == 38


def test_one_image_is_a_probe(tmp_path: Path) -> None:
    assert greys(load_probe(str(folder_of(tmp_path / "p", 1)), size=8)) == {0: 0}


def test_labels_from_class_folders(tmp_path: Path) -> None:
    for name in ("b", "a", "c d"):
        folder_of(tmp_path / name, 2)
    (tmp_path / "empty").mkdir()
    with pytest.warns(MilanWarning, match="no images in empty"):
        probe = load_probe(str(tmp_path), size=8)
    assert (probe.labels, probe.classes) == ([0, 0, 1, 1, 2, 2], ["a", "b", "c d"])
    assert load_probe(str(tmp_path), size=8, limit=3).labels == [0, 0, 1]
    folder_of(tmp_path, 1)
    assert load_probe(str(tmp_path), size=8).labels is None


@pytest.mark.parametrize(("names", "warned"), [("train val", 1), ("Test", 1), ("train bus", 0)])
def test_folders_named_like_parts_of_a_data_set_are_warned_of(tmp_path: Path, names: str, warned: int) -> None:
    for name in names.split():
        (tmp_path / name).mkdir()
        folder_of(tmp_path / name / "cat", 1)
    with warnings.catch_warnings(record=True, action="always") as caught:
        assert load_probe(str(tmp_path), size=8).classes == sorted(names.split())
    first = f"{tmp_path}/{sorted(names.split())[0]} for the classes"
    assert [first in str(each.message) for each in caught] == [True] * warned


def test_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "p", 2)
    (folder / "._000.png").write_bytes(b"resource fork")
    (folder / "readme.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    assert len(load_probe(str(folder), size=8)) == 2


def test_loops_of_links_end_and_broken_links_are_bad(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "p", 30)
    (folder / "loop").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "self.png").symlink_to(folder / "self.png")
    probe = load_probe(str(folder), size=8)
    assert len(probe) == 32
    with pytest.raises(BadInput, match=r"2 of 32 .*gone\.png: No such file"):
        list(probe.batches(8))


def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [b"\xff\xfe.png", "ü — 猫 🐈.png".encode(), b"a b\n\x1b[31m.png", b"x" * 200 + b".png"]
    for grey, name in enumerate(sorted(names)):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(encoded(picture((grey,) * 3)))  # noqa: PTH118
    probe = load_probe(str(tmp_path), size=8)
    assert greys(probe) == {0: 0, 1: 1, 2: 2, 3: 3}
    for index in range(4):
        where = probe.source.format_location(index)
        where.encode()
        assert where.isprintable()
    assert len(probe.fingerprint) == 16


def test_order_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    for name in ("b.png", "A.png", "a.png", "ä.png", "B.png"):
        (tmp_path / name).write_bytes(encoded(picture((1, 1, 1))))
    names = ["A.png", "B.png", "a.png", "b.png", "ä.png"]
    assert [file.name for file in load_probe(str(tmp_path)).source.files] == names
    code = f"from milan import load_probe; print([f.name for f in load_probe({str(tmp_path)!r}).source.files])"
    changed = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "1"}
    printed = subprocess.run([sys.executable, "-c", code], env=changed, capture_output=True, check=True).stdout
    assert printed.decode().strip() == str(names)


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no images found under .* \(looked for \.jpg \.jpeg"):
        load_probe(str(tmp_path))
    folder_of(tmp_path / "photos", 1)
    with pytest.raises(UnknownName, match=r"unknown probe .*photo'; nearest: .*photos"):
        load_probe(str(tmp_path / "photo"))
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(BadInput, match=r"is a file, but neither \.parquet nor \.zip"):
        load_probe(str(tmp_path / "a.csv"))
    with pytest.raises(UnknownName, match="unknown probe 'imagenet:val'"):
        load_probe("imagenet:val")


def test_numbers_that_cannot_be(tmp_path: Path) -> None:
    probe = toys.probe()
    for index in (-1, 12):
        with pytest.raises(BadInput, match=f"no image {index} in a probe of 12"):
            probe.image(index)
    with pytest.raises(BadInput, match="limit is 0"):
        load_probe(str(folder_of(tmp_path / "p", 1)), limit=0)
    with pytest.raises(BadInput, match="batch_size is 0"):
        list(probe.batches(0))


def test_fingerprint_changes_with_files_and_crop_only(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "p", 3)
    first = load_probe(str(folder), size=8).fingerprint
    assert load_probe(str(folder), size=8).fingerprint == first
    moved = folder.rename(tmp_path / "q")
    assert load_probe(str(moved), size=8).fingerprint == first
    others = {
        load_probe(str(moved), size=9).fingerprint,
        load_probe(str(moved), size=8, resize=12).fingerprint,
        load_probe(str(moved), size=8, crop="squash").fingerprint,
        load_probe(str(moved), size=8, limit=2).fingerprint,
    }
    os.utime(moved / "001.png", ns=(1, 1))
    others.add(load_probe(str(moved), size=8).fingerprint)
    assert len(others | {first}) == 6


def test_settings_make_it_again(tmp_path: Path) -> None:
    probe = load_probe(str(folder_of(tmp_path / "p", 3)), size=8, resize=11, crop="center", limit=2)
    assert load_probe(**probe.settings).fingerprint == probe.fingerprint


def test_archive_of_a_folder(tmp_path: Path, cache: Path) -> None:
    folder_of(tmp_path / "photos", 3)
    shutil.make_archive(str(tmp_path / "photos"), "gztar", tmp_path, "photos")
    probe = load_probe(str(tmp_path / "photos.tar.gz"), size=8)
    assert greys(probe) == {0: 0, 1: 1, 2: 2}
    assert probe.labels is None  # the one folder at the top is not a class
    assert load_probe(str(tmp_path / "photos.tar.gz"), size=8).fingerprint == probe.fingerprint
    shutil.rmtree(cache)
    assert load_probe(str(tmp_path / "photos.tar.gz"), size=8).fingerprint == probe.fingerprint


# --- tables and data sets


def table(path: Path, count: int = 200, group: int = 90, **columns: list) -> Path:
    images = [{"bytes": encoded(picture((index % 256,) * 3)), "path": None} for index in range(count)]
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=group)
    return path


def test_parquet_reads_rows_in_any_order(tmp_path: Path) -> None:
    probe = load_probe(str(table(tmp_path / "t.parquet")), size=8)
    assert greys(probe, size=16, workers=3) == {index: index for index in range(200)}
    for index in (199, 0, 89, 90, 150, 149, 12):
        assert probe.image(index)[0, 0, 0] == index
    assert [ids.tolist() for ids, _ in probe.batches(2, 88, 92)] == [[88, 89], [90, 91]]
    assert probe.labels is None


def test_parquet_labels_and_names(tmp_path: Path) -> None:
    file = table(tmp_path / "t.parquet", 3, label=[2, 0, 2], name=["cat", "dog", "cat"])
    probe = load_probe(str(file), size=8)
    assert (probe.labels, probe.classes) == ([2, 0, 2], ["dog", "1", "cat"])
    file = table(tmp_path / "u.parquet", 3, label=[1, 0, 1], name=["cat", "dog", "bird"])  # two names for label 1
    assert (load_probe(str(file), size=8).labels, load_probe(str(file), size=8).classes) == ([1, 0, 1], None)


def test_parquet_of_hugging_face_declares_its_classes(tmp_path: Path) -> None:
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    rows = datasets.Dataset.from_dict(
        {"img": [picture((1, 1, 1)), picture((2, 2, 2))], "label": [1, 0]}, features=features
    )
    rows.to_parquet(tmp_path / "t.parquet")
    probe = load_probe(str(tmp_path / "t.parquet"), size=8)
    assert (probe.labels, probe.classes) == ([1, 0], ["dog", "cat"])
    assert greys(probe) == {0: 1, 1: 2}


def test_parquet_with_bad_rows(tmp_path: Path) -> None:
    images = [{"bytes": encoded(picture((9, 9, 9))), "path": None}] * 50
    images[7], images[9] = {"bytes": b"no", "path": None}, None
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    probe = load_probe(str(tmp_path / "t.parquet"), size=8)
    with pytest.warns(MilanWarning, match=r"row 7 of .*: not a picture in .*; row 9 of .*: no picture in this row"):
        assert len(greys(probe)) == 48


def declared(file: Path, **columns: tuple[str, list[dict]]) -> None:
    """Writes columns of files, each with its kind, as Hugging Face's library declares them in parquet files."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {name: {"_type": kind} for name, (kind, _) in columns.items()}
    table = pa.table({name: pa.array(cells, cell) for name, (_, cells) in columns.items()})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), file)


def test_a_path_in_a_row_opens_nothing_outside_the_data_set(tmp_path: Path, cache: Path) -> None:
    inside, outside = tmp_path / "set", tmp_path / "private.png"
    inside.mkdir()
    for grey, file in enumerate((outside, inside / "own.png")):
        file.write_bytes(encoded(picture((grey,) * 3)))
    (inside / "link.png").symlink_to(outside)
    paths = ["own.png", f"{inside}/own.png", f"{outside}", "../private.png", "link.png", "/dev/zero", "a\0b", "no.png"]
    cells = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": cells, "segmentation": cells[::-1]}), inside / "t.parquet")
    probe = load_probe(str(inside / "t.parquet"), size=8)
    assert [int(probe.image(row)[0, 0, 0]) for row in (0, 1)] == [1, 1]
    for row, message in enumerate(["leads out"] * 4 + ["null byte", "No such file"], start=2):
        with pytest.raises(BadInput, match=rf"row {row} of .*{message}"):
            probe.image(row)
    with pytest.raises(BadInput, match="leads out"):
        probe.segmentation(2)
    (tmp_path / "hub").mkdir()
    declared(tmp_path / "hub" / "t.parquet", image=("Image", cells))
    with pytest.raises(BadInput, match=r"row 2 of .*leads out"):
        load_probe(f"hf:{tmp_path / 'hub'}", size=8).image(2)
    assert greys(load_probe(f"hf:{folder_of(tmp_path / 'files', 3)}", size=8)) == {0: 0, 1: 1, 2: 2}


def test_other_columns_of_a_data_set_are_not_decoded(tmp_path: Path, cache: Path) -> None:
    image = [{"bytes": encoded(picture((7, 7, 7)))}]
    declared(tmp_path / "t.parquet", image=("Image", image), sound=("Audio", [{"bytes": b"no sound"}]))
    assert greys(load_probe(f"hf:{tmp_path}", size=8)) == {0: 7}


def test_segmentation_lies_on_its_picture(tmp_path: Path) -> None:
    image, classes = picture((0, 0, 0), (40, 30)), Image.new("L", (40, 30), 3)
    image.paste((255, 255, 255), (10, 5, 30, 25))
    classes.paste(11, (10, 5, 30, 25))
    cell = [{"bytes": encoded(classes), "path": None}]
    pq.write_table(
        pa.table({"image": [{"bytes": encoded(image), "path": None}], "segmentation": cell}), tmp_path / "t.parquet"
    )
    probe = load_probe(str(tmp_path / "t.parquet"), size=30, resize=30)
    found = probe.segmentation(0)
    assert sorted(found.unique().tolist()) == [3, 11]
    assert torch.equal(found == 11, probe.image(0)[0] == 255)
    with pytest.raises(MissingEvidence, match="no segmentations"):
        toys.probe().segmentation(0)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more"])
def test_what_is_no_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot read .*t\.parquet as parquet"):
        load_probe(str(tmp_path / "t.parquet"))


def test_parquet_without_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match=r"no column of pictures \(image, img, picture\) among text, label"):
        load_probe(str(tmp_path / "t.parquet"))
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "e.parquet")
    with pytest.raises(BadInput, match="has no rows"):
        load_probe(str(tmp_path / "e.parquet"))


def saved(path: Path) -> Path:
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    split = datasets.Dataset.from_dict(
        {"image": [picture((i,) * 3) for i in (1, 2)], "kind": [1, 0]}, features=features
    )
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(path)
    return path


def test_data_set_on_disk(tmp_path: Path) -> None:
    spec = f"hf:{saved(tmp_path / 'set')}"
    probe = load_probe(f"{spec}#test", size=8)
    assert (greys(probe), probe.labels, probe.classes) == ({0: 1, 1: 2}, [1, 0], ["a", "b"])
    assert probe.fingerprint == load_probe(f"{spec}#test", size=8).fingerprint
    with pytest.raises(BadInput, match=r"has the splits train, test; choose one, as in .*#train"):
        load_probe(spec)
    with pytest.raises(UnknownName, match="unknown split 'tset'; nearest: test"):
        load_probe(f"{spec}#tset")


def test_data_set_as_a_folder_of_files(tmp_path: Path, cache: Path) -> None:
    table(tmp_path / "train.parquet", 3)
    assert greys(load_probe(f"hf:{tmp_path}", size=8)) == {0: 0, 1: 1, 2: 2}


def test_of_a_limited_data_set_only_the_first_rows_are_read(tmp_path: Path, cache: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [picture((number,) * 3) for number in range(9)], "label": list(range(9))}
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"data/{split}-0.parquet")
    spec = f"hf:{tmp_path}/data"
    probe = load_probe(f"{spec}#test", size=8, limit=4)
    assert (greys(probe), probe.labels) == ({0: 0, 1: 1, 2: 2, 3: 3}, [0, 1, 2, 3])
    assert len(probe.source) == 4
    assert probe.fingerprint == load_probe(f"{spec}#test", size=8, limit=4).fingerprint
    assert len(load_probe(f"{spec}#test@learn", size=8, limit=4).source) == 7
    with pytest.raises(BadInput, match="has the splits"):
        load_probe(spec, limit=4)
    rows["image"].reverse()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "data/test-0.parquet")
    assert greys(load_probe(f"{spec}#test", size=8, limit=2)) == {0: 8, 1: 7}


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~nobody"])
def test_paths_are_never_sent_to_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(BadInput, match="no dataset at "):
        load_probe(f"hf:{name}")


@pytest.mark.parametrize("offline", ["1", "0"])
def test_no_hub_is_told_within_seconds(tmp_path: Path, offline: str) -> None:
    code = "import time; start = time.time()\nfrom milan import load_probe\nfrom milan.errors import BadInput\n"
    code += "try: load_probe('hf:nobody/nothing')\nexcept BadInput as error: print(error, '|', time.time() - start)"
    environment = os.environ | {
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
    }
    start = time.time()
    reported = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "'nobody/nothing' is not in the cache and the hub cannot be reached" in reported
    assert str(tmp_path) in reported
    assert "or pass a local copy" in reported
    assert reported.count("\n") == 1
    assert (
        time.time() - start < 60
    )  # loading the libraries included, on a busy machine; the libraries alone would retry for half a minute


# --- Diorama, tensors


def test_diorama_is_drawn_at_the_size_asked_for() -> None:
    probe = load_probe("diorama:objects", limit=5)
    assert (probe.size, len(probe), len(probe.labels or [])) == (64, 5, 5)
    (ids, images), *_ = probe.batches(8, workers=2)
    assert images.shape == (5, 3, 64, 64)
    assert all(torch.equal(probe.image(index), images[index]) for index in ids.tolist())
    large = load_probe("diorama:scenes", size=96, limit=2)
    assert large.image(1).shape == (3, 96, 96)
    assert large.fingerprint != load_probe("diorama:scenes", limit=2).fingerprint
    assert load_probe(**large.settings).fingerprint == large.fingerprint
    with pytest.raises(UnknownName, match="nearest: objects"):
        load_probe("diorama:object")


def test_tensor_probe() -> None:
    probe = toys.probe()
    assert torch.equal(torch.cat([images for _, images in probe.batches(5)]), toys.pictures())
    assert probe.fingerprint == toys.probe().fingerprint
    changed = toys.pictures()
    changed[0, 0, 0, 0] += 1
    assert Probe.from_tensor(changed).fingerprint != probe.fingerprint
    with pytest.raises(BadInput, match="3 labels for 12 images"):
        Probe.from_tensor(toys.pictures(), [1, 2, 3])
    assert Probe.from_tensor(toys.pictures().numpy()).fingerprint == Probe.from_tensor(toys.pictures()).fingerprint


@pytest.mark.parametrize(
    ("images", "value"),
    [
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "0 x 3 x 8 x 8"),
        (torch.rand(2, 3, 8, 8), "float32"),
        (np.zeros((2, 3, 8, 8)), "float64"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"2 x 8 x 8 x 3.*permute"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"3 x 8 x 8.*batch axis"),
    ],
)
def test_what_is_no_probe_is_told_by_its_shape_or_kind(images: torch.Tensor | np.ndarray, value: str) -> None:
    with pytest.raises(BadInput, match=value):
        Probe.from_tensor(images)


class Pictures(torch.utils.data.Dataset):
    """The toy pictures as a dataset of PyTorch, whose items are made by ``item(picture, label)``."""

    def __init__(self, item=lambda picture, label: (picture, label)):
        self.item = item

    def __len__(self) -> int:
        return len(toys.LABELS)

    def __getitem__(self, index: int) -> Any:
        return self.item(Image.fromarray(toys.pictures()[index].permute(1, 2, 0).numpy()), toys.LABELS[index])


def huggingface(column: str) -> datasets.Dataset:
    rows = [Pictures()[index] for index in range(len(Pictures()))]
    columns = {column: [{"bytes": encoded(image), "path": None} for image, _ in rows], "label": toys.LABELS}
    return datasets.Dataset.from_dict(columns).cast_column(column, datasets.Image())


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [
        (Pictures(), toys.LABELS),
        ([Pictures()[index] for index in range(12)], toys.LABELS),
        (Pictures(lambda picture, label: picture), None),
        (Pictures(lambda picture, label: {"image": picture, "label": torch.tensor(label)}), toys.LABELS),
        (Pictures(lambda picture, label: (picture, toys.CLASSES[label], "more")), [1 - label for label in toys.LABELS]),
        (Pictures(lambda picture, label: (np.asarray(picture), label)), toys.LABELS),
        (Pictures(lambda picture, label: (torch.from_numpy(np.array(picture)).permute(2, 0, 1), label)), toys.LABELS),
        (huggingface("image"), toys.LABELS),
        (huggingface("photo"), toys.LABELS),
    ],
    ids=["pairs", "list", "images", "mapping", "class names", "arrays", "tensors", "hugging face", "another column"],
)
def test_a_probe_of_a_dataset_object_has_its_images_and_labels(dataset: Any, labels: list[int] | None) -> None:
    classes = ["red", "no red"] if labels and labels[0] else toys.CLASSES
    probe = Probe.from_dataset(dataset, classes, target=toys.target())
    assert torch.equal(torch.stack([image for image, _ in probe]), toys.pictures())
    assert [label for _, label in probe] == (labels or [-1] * 12)
    assert probe.labels == labels
    assert probe.fingerprint == Probe.from_dataset(dataset, classes, target=toys.target()).fingerprint
    assert probe.fingerprint != Probe.from_dataset(dataset, size=8).fingerprint
    batches = torch.utils.data.DataLoader(probe, batch_size=5, shuffle=False)
    assert [len(images) for images, _ in batches] == [5, 5, 2]
    assert torch.equal(probe[-1][0], probe[11][0])
    with pytest.raises(IndexError):
        probe[12]


def test_a_dataset_object_of_which_an_image_is_bad_or_that_is_none() -> None:
    def fails(picture: Image.Image, label: int) -> Any:
        if picture.getpixel((0, 0)) == (255, 255, 0):
            raise OSError("truncated")
        return picture, label

    probe = Probe.from_dataset(Pictures(fails), toys.CLASSES, size=16)
    with pytest.raises(BadInput, match="item 11 of Pictures: OSError: truncated"):
        probe[11]
    assert probe.labels == [*toys.LABELS[:11], -1]
    assert len(Probe.from_dataset(Pictures(fails), limit=3).labels or []) == 3
    noise = np.random.default_rng(0)
    wrong = {
        "list is empty": [],
        "splits train, test": {"train": [], "test": []},
        "generator": (item for item in ()),
        "float32": [torch.rand(3, 8, 8)],
        "item 0 of Pictures": Pictures(lambda picture, label: noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)),
    }
    for value, dataset in wrong.items():
        with pytest.raises(BadInput, match=value):
            Probe.from_dataset(dataset)


# --- real photographs


def test_real_photographs_are_torchvisions(shared_data: Path) -> None:
    file = shared_data / "imagenet_sample" / "train.parquet"
    probe = load_probe(str(file), resize=256)
    assert (len(probe), probe.labels, (probe.classes or [])[1]) == (1000, list(range(1000)), "goldfish")
    rows = pq.ParquetFile(file).read_row_group(2, columns=["image"]).column(0).to_pylist()
    for index in (200, 233, 299):
        image = Image.open(io.BytesIO(rows[index - 200]["bytes"])).convert("RGB")
        expected = functional.pil_to_tensor(functional.center_crop(functional.resize(image, 256), [224, 224]))
        assert torch.equal(probe.image(index), expected)


def test_real_segmentations(shared_data: Path) -> None:
    probe = load_probe(str(shared_data / "camvid" / "val.parquet"), limit=3)
    found = probe.segmentation(2)
    assert found.shape == (224, 224)
    assert set(found.unique().tolist()) <= set(range(12))
    assert json.dumps(probe.settings)


def test_what_is_learnt_from_is_not_judged_by(tmp_path):
    for number in range(10):
        folder = tmp_path / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    whole, learn, judge = (load_probe(f"{tmp_path}{part}", size=8) for part in ("", "@learn", "@judge"))
    seen = [
        [(int(probe.image(index)[0, 0, 0]), probe.classes[probe.labels[index]]) for index in range(len(probe))]
        for probe in (learn, judge)
    ]
    assert [len(part) for part in seen] == [8, 2]
    assert sorted(seen[0] + seen[1]) == sorted((number, ["even", "odd"][number % 2]) for number in range(10))
    assert len({probe.fingerprint for probe in (whole, learn, judge)}) == 3
    assert load_probe(**judge.settings).fingerprint == judge.fingerprint
    assert load_probe("diorama:objects@learn").fingerprint == load_probe("diorama:objects").fingerprint
    others = load_probe("diorama:objects@judge")
    assert len(others) == 1000
    assert others.fingerprint != load_probe("diorama:objects", limit=1000).fingerprint
    assert not torch.equal(others.image(0), load_probe("diorama:objects").image(0))
    with pytest.raises(BadInput, match="without @judge"):
        load_probe("latents:diorama:generator-objects@judge")
