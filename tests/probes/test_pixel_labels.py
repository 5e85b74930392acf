"""Pixel labels: of the probe, of Diorama, of a segmenter; always under the images' own crop."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from milan.diorama.scene_vocabulary import COLOURS, OBJECTS, SETTINGS
from milan.diorama.scenes import draw_scene
from milan.diorama.text_reader import parse_description
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.pretrained import segmenter_labels as module
from milan.pretrained.segmenter_labels import SegmenterLabels, compute_source_key, load_pixel_labels
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import DioramaLabels, LabelMapLabels, TensorLabels, load_probe_labels, parse_class_names
from tests import toys
from tests.describers.colour_segmenter import ColourSegmenter
from tests.describers.labelled import CLASSES, parquet, png


def test_label_maps_name_classes_and_skip_what_is_unlabelled(tmp_path: Path) -> None:
    labels = load_probe_labels(load_probe(str(parquet(tmp_path)), size=8, resize=8))
    assert (labels.concepts, labels.levels, labels.level_names) == (["cat", "dog", "sky"], 1, ["label"])
    found = labels.load([1, 0])
    assert found.shape == (2, 1, 8, 8)
    assert found[1, 0, 0].tolist() == [0, 0, 0, 1, 1, -1, -1, -1]
    assert found[0, 0, :, 7].tolist() == [2, 2, 2, 2, -1, -1, -1, -1]  # the last is 255


def test_names_by_file_by_list_or_beside_the_data(tmp_path: Path) -> None:
    probe = load_probe(str(parquet(tmp_path, names=False)), size=8, resize=8)
    with pytest.raises(MissingEvidence, match=r"put classes\.txt beside the data, or give classes=FILE"):
        load_probe_labels(probe)
    assert load_probe_labels(probe, "a,b,c,void").concepts == ["a", "b", "c"]
    (tmp_path / "names.txt").write_text("\ufeffa\r\nb\r\nc \r\nvoid\r\n\r\n", encoding="utf-8")
    assert load_probe_labels(probe, str(tmp_path / "names.txt")).concepts == ["a", "b", "c"]
    assert load_probe_labels(probe, "a,b,c,d", ignored="b").concepts == ["a", "c", "d"]
    (tmp_path / "shifted.txt").write_text("a\n\nc\n")
    with pytest.raises(BadInput, match=r"shifted\.txt, line 2: empty; give the name of class 1"):
        parse_class_names(str(tmp_path / "shifted.txt"))
    with pytest.raises(BadInput, match=r"cannot read .*absent\.txt"):
        parse_class_names(str(tmp_path / "absent.txt"))
    with pytest.raises(BadInput, match="named twice: a"):
        load_probe_labels(probe, "a,b,a,d")


def test_a_class_without_a_name_is_told(tmp_path: Path) -> None:
    labels = load_probe_labels(load_probe(str(parquet(tmp_path)), size=8, resize=8), "cat,dog,sky")
    with pytest.raises(
        BadInput, match=r"class 3 in the segmentation of row 0 of .*two\.parquet, but there are names for 0 to 2 only"
    ):
        labels.load([0])


def test_labels_have_the_crop_of_the_images(tmp_path: Path) -> None:
    picture = np.zeros((20, 36, 3), np.uint8)
    picture[:, 18:] = 255  # the right half is white, and is class 1
    table = pa.table({"image": [png(picture)], "segmentation": [png((picture[:, :, 0] > 0).astype(np.uint8))]})
    pq.write_table(table, tmp_path / "one.parquet")
    probe = load_probe(str(tmp_path / "one.parquet"), size=10)
    found = load_probe_labels(probe, "black,white").load([0])[0, 0]
    bright = probe.image(0).float().mean(0) / 255
    assert torch.equal(found[:, [0, 1, 2, 7, 8, 9]], bright.round().long()[:, [0, 1, 2, 7, 8, 9]])
    assert set(found.unique().tolist()) == {0, 1}


def test_keys_change_with_what_the_labels_depend_on(tmp_path: Path) -> None:
    probe = load_probe(str(parquet(tmp_path)), size=8, resize=8)
    keys = {
        load_probe_labels(probe).key,
        load_probe_labels(probe, "a,b,c,d").key,
        load_probe_labels(probe, ignored="cat").key,
    }
    keys |= {LabelMapLabels(load_probe(str(tmp_path / "two.parquet"), size=8, resize=9), CLASSES).key}
    assert len(keys) == 4
    given = TensorLabels(torch.zeros(1, 1, 4, 4, dtype=torch.int64), ["a"])
    assert len({given.key, TensorLabels(given.labels, ["b"]).key, TensorLabels(given.labels - 1, ["a"]).key}) == 3
    with pytest.raises(BadInput, match="labels from 0 to 0 for 0 concepts"):
        TensorLabels(given.labels, [])


def test_diorama_knows_every_pixel(cache: Path) -> None:
    labels = load_probe_labels(load_probe("diorama:objects", limit=5))
    assert isinstance(labels, DioramaLabels)
    assert labels.level_names == ["colour", "pattern", "object", "part", "text", "setting"]
    scene = draw_scene(2_000_000 + 3)
    found = labels.load([3])[0].numpy()
    for level, names in ((0, COLOURS), (2, OBJECTS)):
        expected = np.array([-1, *(labels.concepts.index(name) for name in names)])[
            scene.labels[labels.level_names[level]]
        ]
        assert np.array_equal(found[level], expected)
    assert {labels.concepts[number] for number in np.unique(found[5])} == {scene.setting} <= set(SETTINGS)
    walls = labels.concepts.index("wall")
    assert labels.concepts.count("wall") == 1
    assert walls < len(labels.concepts)


def test_every_name_of_diorama_is_read_back_as_the_concept_that_it_names(cache: Path) -> None:
    for name in DioramaLabels(load_probe("diorama:objects", limit=1)).concepts:
        assert parse_description(name).concept_count == 1, name


def test_a_probe_without_labels_says_so() -> None:
    with pytest.raises(MissingEvidence, match="no segmentations"):
        LabelMapLabels(toys.probe(), ["a"])
    with pytest.raises(MissingEvidence, match="no names for the pixel labels"):
        load_probe_labels(toys.probe())


def test_a_segmenter_labels_each_image_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_LENGTH", 5)
    seen: list[int] = []

    class Counting(ColourSegmenter):
        def _segment(self, images):
            seen.append(len(images))
            return super()._segment(images)

    probe = toys.probe()
    labels = SegmenterLabels(probe, Counting(), ignored="grey")
    assert (labels.concepts, labels.level_names) == (["red", "green", "blue", "dark", "colourful"], ["colour", "kind"])
    found = labels.load([1, 11, 9, 1])
    red = labels.concepts.index("red")
    assert (found[0, 0] == red).all()
    assert (found[0, 1] == labels.concepts.index("colourful")).all()
    assert (found[2] == -1).all()  # grey, which is ignored, and of no kind
    assert torch.equal(found[0], found[3])
    assert sorted(seen) == [2, 5, 5]
    assert torch.equal(SegmenterLabels(probe, Counting(), ignored="grey").load([1, 11, 9, 1]), found)
    assert len(seen) == 3


def test_unreadable_images_shift_no_labels(tmp_path: Path, cache: Path) -> None:
    from PIL import Image

    for index, colour in enumerate([(220, 40, 40), (40, 190, 60), (50, 70, 220)] * 10):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{index:02}.png")
    (tmp_path / "01.png").write_bytes(b"no picture")
    probe = load_probe(str(tmp_path), size=16)
    found = SegmenterLabels(probe, ColourSegmenter()).load([0, 1, 2])
    assert [each[0].unique().tolist() for each in found] == [[0], [-1], [2]]


def test_where_labels_come_from(tmp_path: Path) -> None:
    probe = Probe.from_tensor(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(UnknownName, match="unknown source of pixel labels 'segmentr'; nearest: segmenter"):
        load_pixel_labels(probe, "segmentr")
    own = f"segmenter:{Path(__file__).parents[1] / 'describers' / 'colour_segmenter.py'}:ColourSegmenter"
    assert isinstance(load_pixel_labels(probe, own), SegmenterLabels)
    assert compute_source_key(own) == "colours"
    assert compute_source_key("probe") == compute_source_key("probe", "") != compute_source_key("probe", "a,b")


def test_real_street_labels(shared_data: Path) -> None:
    labels = load_probe_labels(load_probe(str(shared_data / "camvid" / "val.parquet")))
    assert labels.concepts == (shared_data / "camvid" / "classes.txt").read_text().split()[:-1]
    found = labels.load([0, 50])
    assert found.shape == (2, 1, 224, 224)
    road, sky = labels.concepts.index("road"), labels.concepts.index("sky")
    rows = torch.arange(224.0)[:, None].expand(224, 224)
    assert all(rows[each[0] == road].mean() > rows[each[0] == sky].mean() for each in found)
