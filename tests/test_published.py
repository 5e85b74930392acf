"""Published tables read as descriptions: tiny ones made here, and the real ones."""

import math

import pytest

from milan import Catalogue, Unit, read_descriptions
from milan.catalogue import read_catalogue
from milan.errors import BadInput


def write(folder, name, *lines):
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_milan_and_clip_dissect_name_their_layers(tmp_path):
    said = read_descriptions(write(tmp_path, "anything.csv", "layer,unit,description", 'conv1,0,"red, or orange"', "fc,12, null "))
    assert [(str(each.unit), each.text) for each in said] == [("conv1:0", "red, or orange"), ("fc:12", "null")]
    assert all(math.isnan(each.score) for each in said)
    (said,) = read_descriptions(write(tmp_path, "clip.csv", "layer,unit,description,similarity", "layer4,7,snorkeling,0.25"))
    assert (said.unit, said.text, said.score) == (Unit("layer4", 7), "snorkeling", 0.25)


NETDISSECT = "unit,category,label,score,color-label,color-truth,color-iou,scene-label,scene-iou,texture-label,texture-iou"


def test_network_dissection_counts_from_one_and_has_candidates(tmp_path):
    row = "1,color,purple-c,0.09,purple-c,100,0.09,dining_room-s,0.11,,0.005"
    (said,) = read_descriptions(write(tmp_path, "netdissect_layer2.csv", NETDISSECT, row))
    assert (said.unit, said.text, said.score) == (Unit("layer2", 0), "purple", 0.09)
    assert [(each.text, each.score) for each in said.candidates] == [("dining room", 0.11), ("purple", 0.09)]
    with pytest.raises(BadInput, match=r"line 2.*counts from 1"):
        read_descriptions(write(tmp_path, "layer2.csv", NETDISSECT, "0" + row[1:]))


def test_describe_and_dissect_has_one_label_or_several(tmp_path):
    (said,) = read_descriptions(write(tmp_path, "dnd_fc.csv", "Neuron ID,label", "3,aquatic life"))
    assert (said.unit, said.text, said.candidates) == (Unit("fc", 3), "aquatic life", ())
    head = "Neuron ID,Label 1,Label 2,Label 3"
    said = read_descriptions(write(tmp_path, "layer1.csv", head, "6,stripes,lines, ", "7, , , "), layer="")
    assert [(str(each.unit), [one.text for one in each.candidates]) for each in said] == [("layer1:6", ["stripes", "lines"])]
    (said,) = read_descriptions(tmp_path / "dnd_fc.csv", layer="classifier")
    assert said.unit == Unit("classifier", 3)


@pytest.mark.parametrize("row", ["conv1,one,red", "conv1", "conv1,,red"])
def test_a_row_that_is_none_is_told_with_its_line(tmp_path, row):
    with pytest.raises(BadInput, match=r"table\.csv, line 3, is not a row"):
        read_descriptions(write(tmp_path, "table.csv", "layer,unit,description", "conv1,0,blue", row))


def test_another_table_is_none_and_ours_is_still_ours(tmp_path):
    with pytest.raises(BadInput, match="is not a table of descriptions"):
        read_descriptions(write(tmp_path, "other.csv", "name,age", "a,1"))
    published = read_descriptions(
        write(tmp_path, "clip.csv", "layer,unit,description,similarity", "layer4,7,a dog,0.25", "conv1,1,red,0.5")
    )
    Catalogue.of(published, describer="clip_dissect").write(tmp_path)
    assert sorted(read_descriptions(tmp_path), key=lambda each: each.unit) == sorted(published, key=lambda each: each.unit)
    assert read_catalogue(tmp_path)["layer4:7"].text == "a dog"


# File, descriptions, and one of them.
REAL = [
    ("milan.csv", 4904, "conv1:1", "Neon green"),
    ("clip_dissect.csv", 3904, "conv1:0", "red"),
    ("netdissect_layer1.csv", 256, "layer1:0", "purple"),
    ("netdissect_layer2.csv", 512, "layer2:1", "chequered"),
    ("netdissect_layer3.csv", 1024, "layer3:1", "neck"),
    ("netdissect_layer4.csv", 2048, "layer4:1", "freckled"),
    ("dnd_fc.csv", 1000, "fc:2", "white shark in water"),
    ("dnd_layer1.csv", 50, "layer1:10", "red and white patterns"),
    ("dnd_layer4.csv", 50, "layer4:125", "fitness exercises"),
]


@pytest.mark.parametrize(("name", "count", "unit", "text"), REAL)
def test_the_real_tables_are_read(shared_data, name, count, unit, text):
    said = read_descriptions(shared_data / "published" / "resnet50_imagenet" / name)
    assert len({each.unit for each in said}) == len(said) == count
    assert Catalogue.of(said)[unit].text == text
    assert all(each.text.strip() for each in said)


def test_the_real_tables_have_the_published_counts(shared_data):
    folder = shared_data / "published" / "resnet50_imagenet"
    clip = read_descriptions(folder / "clip_dissect.csv")
    layers = ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert [len({each.text for each in clip if each.unit.layer == layer}) for layer in layers] == [22, 90, 176, 430, 811]
    found = [read_descriptions(folder / f"netdissect_{layer}.csv") for layer in layers[1:]]
    assert [sum(each.score > 0.04 for each in said) for said in found] == [61, 62, 276, 1355]
