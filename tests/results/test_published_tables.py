"""Published tables read as descriptions: tiny ones made here, and the real ones."""

import math

import pytest

from milan import Catalogue, Unit, read_descriptions
from milan.errors import BadInput
from milan.results.catalogue import read_catalogue


def write(folder, name, *lines):
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_milan_and_clip_dissect_name_their_layers(tmp_path):
    said = read_descriptions(
        write(tmp_path, "anything.csv", "layer,unit,description", 'conv1,0,"red, or orange"', "fc,12, null ")
    )
    assert [(str(each.unit), each.text) for each in said] == [("conv1:0", "red, or orange"), ("fc:12", "null")]
    assert all(math.isnan(each.score) for each in said)
    (said,) = read_descriptions(
        write(tmp_path, "clip.csv", "layer,unit,description,similarity", "layer4,7,snorkeling,0.25")
    )
    assert (said.unit, said.text, said.score) == (Unit("layer4", 7), "snorkeling", 0.25)


NETDISSECT = (
    "unit,category,label,score,color-label,color-truth,color-iou,scene-label,scene-iou,texture-label,texture-iou"
)


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
    assert [(str(each.unit), [one.text for one in each.candidates]) for each in said] == [
        ("layer1:6", ["stripes", "lines"])
    ]
    (said,) = read_descriptions(tmp_path / "dnd_fc.csv", layer="classifier")
    assert said.unit == Unit("classifier", 3)


LINEAR = "layer,unit,val correlation,weight0,concept0,weight1,concept1,weight2,concept2,bias"


def test_linear_explanations_are_weighted_sums(tmp_path):
    row = '"encoder.layers.encoder_layer_10.mlp[1]",15,0.25,0.5,"arena, rodeo",-0.125,alcove,0.0,0,0.375'
    (said,) = read_descriptions(write(tmp_path, "le_label.csv", LINEAR, row))
    assert said.unit == Unit("encoder.layers.encoder_layer_10.mlp.1", 15)
    assert (said.text, said.score, said.bias) == ("0.50 arena, rodeo - 0.12 alcove", 0.25, 0.375)
    assert said.concepts == (("arena, rodeo", 0.5), ("alcove", -0.125))
    assert said.candidates == ()


def test_linear_explanations_keep_the_other_scores_and_a_concept_named_null(tmp_path):
    scored = LINEAR + ",sim correlation,sim ablation(optim),sim ablation(norm)"
    rows = ["layer4,0,0.5,1.5,null,2,dog,3,cat,0,0.375,0.25,0.125", "layer4,1,,0,0,0,0,0,0,0.5,0.125,0.25,0.5"]
    (said,) = read_descriptions(write(tmp_path, "le.csv", scored, *rows))  # nothing is said of unit 1
    assert said.text == "1.50 null + 2.00 dog + 3.00 cat"
    parts = (("sim correlation", 0.375), ("sim ablation(optim)", 0.25), ("sim ablation(norm)", 0.125))
    assert [(each.text, each.score, each.parts) for each in said.candidates] == [(said.text, 0.5, parts)]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet50_imagenet_layer4.csv", "layer4"),
        ("vgg16_bn_cifar100_features[43].csv", "features.43"),
        ("vit_b_16_imagenet_encoder.layers.encoder_layer_10.csv", "encoder.layers.encoder_layer_10"),
    ],
)
def test_baselines_of_linear_explanations_are_of_the_layer_in_the_files_name(tmp_path, name, layer):
    row = '29,"polka, dotted",0.125'
    (said,) = read_descriptions(write(tmp_path, name, "unit,description,sim correlation", row))
    assert (said.unit, said.text, said.score) == (Unit(layer, 29), "polka, dotted", 0.125)


def test_the_tables_of_cosy(tmp_path):
    invert = write(
        tmp_path, "resnet50_places-avgpool.csv", "neuron,concept,concept_id,metric", '7,"arena, rodeo",17,0.97'
    )
    (said,) = read_descriptions(invert)
    assert (said.unit, said.text, said.score) == (Unit("avgpool", 7), "arena, rodeo", 0.97)
    (said,) = read_descriptions(write(tmp_path, "resnet18_layer1.csv", "layer,unit,description", "1,12,Seashells"))
    assert said.unit == Unit("layer1", 12)
    head = "group,Unnamed: 0,concept_set_words,concept_set_noun_phrases"
    words, phrases = "[('grass', 0.5), ('green', 0.25)]", "[('grass web site', 0.125), ('green grass', 0.0625)]"
    rows = [f'2,2,"{words}","{phrases}"', f'9,9,"{words}",[]']
    said = read_descriptions(write(tmp_path, "resnet18-layer3_original.csv", head, *rows))
    assert [(str(each.unit), each.text, each.score) for each in said] == [
        ("layer3:2", "grass web site", 0.125),
        ("layer3:9", "grass", 0.5),
    ]
    assert [(each.text, each.score) for each in said[0].candidates] == [
        ("grass web site", 0.125),
        ("green grass", 0.0625),
    ]
    for cell in ("__import__('os')", "[" * 100_000, "[1]", "[('a', 'b')]"):
        with pytest.raises(BadInput, match=r"layer4\.csv, line 2: .* is not a list of texts with scores"):
            read_descriptions(write(tmp_path, "resnet18-layer4.csv", head, f'2,2,[],"{cell}"'))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("conv1,one,red", "line 3: unit 'one'"),
        ("conv1,-1,red", "line 3: unit '-1'"),
        ("conv1,,red", "line 3: unit ''"),
        (",1,red", "line 3: the layer is empty"),
        ("conv1,0,red", "line 3: unit conv1:0 is in the table twice"),
        ("conv1", r"line 3: 1 cells for 3 columns \(layer, unit, description\)"),
        ("conv1,1,red, and blue", "line 3: 4 cells for 3 columns"),
        ('conv1,1,"red', "line 3: unexpected end of data"),
        ('conv1,1,"two\nlines"\n,,\n\nconv1,2', "line 7: 2 cells"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_its_line(tmp_path, row, message):
    with pytest.raises(BadInput, match=rf"table\.csv, {message}"):
        read_descriptions(write(tmp_path, "table.csv", "layer,unit,description", "conv1,0,blue", row))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("layer;unit;description", "separated by ';'"),
        ("layer\tunit\tdescription", r"separated by '\\t'"),
        ("Layer,Unit,Description", "has the columns Layer, Unit, Description and needs layer, unit, description"),
        ("name,age", "has the columns name, age and needs layer, unit, description"),
        ("layer,layer,unit", "two columns named 'layer'"),
        ("", "is empty"),
    ],
)
def test_another_header_is_named(tmp_path, head, message):
    with pytest.raises(BadInput, match=rf"table\.csv.*{message}"):
        read_descriptions(write(tmp_path, "table.csv", head))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_tables_of_spreadsheets_are_read_or_named(tmp_path, encoding):
    file = tmp_path / "table.csv"
    file.write_bytes('layer,unit,description\r\nfc,0,"dogs, ""wet"""\r\n'.encode(encoding))
    if encoding == "utf-16-le":  # without the mark of its kind
        with pytest.raises(BadInput, match=r"table\.csv, line 1: a zero byte"):
            read_descriptions(file)
    else:
        assert [each.text for each in read_descriptions(file)] == ['dogs, "wet"']


def test_our_own_table_is_still_ours(tmp_path):
    published = read_descriptions(
        write(tmp_path, "clip.csv", "layer,unit,description,similarity", "layer4,7,a dog,0.25", "conv1,1,red,0.5")
    )
    Catalogue.from_descriptions(published, describer="clip_dissect").write(tmp_path)
    assert sorted(read_descriptions(tmp_path), key=lambda each: each.unit) == sorted(
        published, key=lambda each: each.unit
    )
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
    assert Catalogue.from_descriptions(said)[unit].text == text
    assert all(each.text.strip() for each in said)


def test_the_real_tables_have_the_published_counts(shared_data):
    folder = shared_data / "published" / "resnet50_imagenet"
    clip = read_descriptions(folder / "clip_dissect.csv")
    layers = ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert [len({each.text for each in clip if each.unit.layer == layer}) for layer in layers] == [
        22,
        90,
        176,
        430,
        811,
    ]
    found = [read_descriptions(folder / f"netdissect_{layer}.csv") for layer in layers[1:]]
    assert [sum(each.score > 0.04 for each in said) for said in found] == [61, 62, 276, 1355]
