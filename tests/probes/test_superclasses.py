"""Which class of a probe counts as which concept: superclasses by number, name and WordNet id, and the real ones of
ImageNet.
"""

import json

import numpy as np
import pytest
import torch

from milan.errors import BadInput, MilanWarning, MissingEvidence
from milan.probes import Probe, load_probe
from milan.probes.superclasses import format_class_names, load_class_concepts, match_outputs


def probe(classes, wnids=None, labels=None):
    labels = labels or list(range(len(classes)))
    made = Probe.from_tensor(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), labels, list(classes))
    made.source.wnids = wnids
    return made


def shown(found):
    return {name: np.flatnonzero(found.members[:, place]).tolist() for place, name in enumerate(found.names)}


def written(tmp_path, name, content):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(tmp_path / name)


def test_superclasses_name_classes_by_number_or_name(tmp_path):
    file = written(
        tmp_path, "super.json", {"animal": [0, "dog, domestic dog"], "thing": [2, 3], "all": [0, 1, 2, 3], "none": []}
    )
    found = load_class_concepts(probe(["cat", "dog, domestic dog", "cup", "lamp"]), file)
    assert shown(found) == {
        "cat": [0],
        "dog": [1],
        "cup": [2],
        "lamp": [3],
        "animal": [0, 1],
        "thing": [2, 3],
        "all": [0, 1, 2, 3],
    }
    assert found.presence_matrix([1, 3, 1]).tolist() == [
        [0, 1, 0, 0, 1, 0, 1],
        [0, 0, 0, 1, 0, 1, 1],
        [0, 1, 0, 0, 1, 0, 1],
    ]


def test_of_concepts_with_the_same_classes_the_narrowest_stays(tmp_path):
    synsets = written(
        tmp_path, "synsets.json", {n: {"id": f"0000000{n}-n", "label": name} for n, name in enumerate("abcd")}
    )
    file = written(tmp_path, "super.json", {"wide": [0, 1, 2, 3], "narrow": [0, 1, 2], "one": [0, 3], "other": [2, 3]})
    assert shown(load_class_concepts(probe(["a", "b"]), file, synsets)) == {"a": [0], "b": [1], "narrow": [0, 1]}


def test_numbers_of_another_data_set_are_found_by_wordnet_id_even_where_names_are_shared(tmp_path):
    """ImageNet has two classes called crane; tiny-imagenet numbers its 200 classes anew and has one of them."""
    synsets = written(
        tmp_path,
        "synsets.txt",
        "{134: {'id': '02012849-n', 'label': 'crane'}, 517: {'id': '03126707-n', 'label': 'crane'},\n"
        " 1: {'id': '01443537-n', 'label': 'fish'}}",
    )
    file = written(
        tmp_path, "super.json", {"bird": [134], "animal": [134, 1], "machine": [517], "entity": [1, 134, 517]}
    )
    ids = load_class_concepts(probe(["crane", "fish"], ["n03126707", "n01443537"]), file, synsets)
    assert shown(ids) == {"crane": [0], "fish": [1], "entity": [0, 1]}
    file = written(tmp_path, "super.json", {"machine": [517], "active": [1, 134]})
    with pytest.warns(MilanWarning, match="1 of 2 classes .*: crane"):
        assert shown(load_class_concepts(probe(["crane", "fish"]), file, synsets)) == {"crane": [0], "fish": [1]}


def test_class_numbers_with_gaps_need_outputs_only_for_the_classes_of_images(tmp_path, recwarn):
    of_class = {3: ("n01443537", "fish"), 17: ("n02012849", "crane"), 900: ("n03126707", "crane")}
    wnids, names = zip(*(of_class.get(label, (str(label), str(label))) for label in range(901)), strict=True)
    made = probe(names, list(wnids), [900, 3, 17, 3])
    named = {1: ("01443537-n", "fish"), 134: ("02012849-n", "crane"), 517: ("03126707-n", "crane")}
    synsets = written(tmp_path, "synsets.json", str({n: {"id": i, "label": name} for n, (i, name) in named.items()}))
    found = match_outputs(made, 1000, synsets)
    assert [found[label] for label in made.labels] == [517, 1, 134, 1]
    assert set(found) == {-1, 1, 134, 517}
    file = written(tmp_path, "super.json", {"animal": [134, 1]})
    assert shown(load_class_concepts(made, file, synsets))["animal"] == [3, 17]
    assert not recwarn
    with pytest.raises(MissingEvidence, match=r"1 of 3 classes have no output .*'crane \(900\)'"):
        match_outputs(made, 500, synsets)


def test_classes_that_are_called_by_their_ids_get_their_names(tmp_path):
    synsets = written(tmp_path, "synsets.json", {7: {"id": "01443537-n", "label": "goldfish, Carassius auratus"}})
    made = probe(["n01443537", "n00000001"], ["n01443537", "n00000001"])
    with pytest.warns(MilanWarning, match="n00000001"):
        assert load_class_concepts(made, synsets=synsets).names == ["goldfish", "n00000001"]


def test_a_folder_of_wordnet_ids_tells_them(tmp_path):
    from PIL import Image

    for name in ("n01443537", "n02012849"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    assert load_probe(str(tmp_path), size=8).wnids == ["n01443537", "n02012849"]
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "a.png")
    assert load_probe(str(tmp_path), size=8).wnids is None


def test_names_are_short_where_that_is_their_own():
    assert format_class_names(probe(["cat, kitty", "maillot", "maillot, tank suit", "crane", "crane"])) == [
        "cat",
        "maillot",
        "maillot, tank suit",
        "crane (3)",
        "crane (4)",
    ]


def test_a_superclass_with_the_name_of_a_class_is_told_apart(tmp_path):
    file = written(tmp_path, "super.json", {"plate": [0, 1]})
    assert load_class_concepts(probe(["plate", "cup"]), file).names == ["plate", "cup", "plate (any)"]


def test_numbers_that_mean_nothing_here_are_told_with_what_to_do(tmp_path):
    file = written(tmp_path, "super.json", {"entity": [0, 1, 999]})
    with pytest.raises(
        BadInput, match=r"superclass 'entity' lists 999, which is no class of this probe \(it has 2\).*synsets=FILE"
    ):
        load_class_concepts(probe(["a", "b"]), file)
    with pytest.raises(BadInput, match="none of the 2 classes"):
        load_class_concepts(
            probe(["a", "b"]), file, written(tmp_path, "synsets.json", {1: {"id": "00000001-n", "label": "z"}})
        )


@pytest.mark.parametrize("content", ["[1, 2]", '{"a": 3}', "{", ""])
def test_a_file_of_another_form_is_refused(tmp_path, content):
    with pytest.raises(BadInput, match="superclass"):
        load_class_concepts(probe(["a", "b"]), written(tmp_path, "super.json", content))


def test_a_probe_without_labels_is_refused():
    plain = Probe.from_tensor(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(MissingEvidence, match="no class labels"):
        load_class_concepts(plain)


def test_dioramas_classes_have_its_groups():
    found = shown(load_class_concepts(load_probe("diorama:objects", limit=3)))
    assert len(found["animals"]) == 5
    assert len(found["vehicles"]) == 7


def test_the_two_hundred_classes_of_tiny_imagenet_find_their_superclasses(shared_data):
    concepts = shared_data / "concepts"
    real = load_probe(str(shared_data / "tiny_imagenet" / "val.parquet"))
    found = load_class_concepts(
        real, str(concepts / "imagenet_superclass_to_ids.json"), str(concepts / "imagenet_label_to_wordnet_synset.txt")
    )
    groups = {name: [found.names[place] for place in places] for name, places in shown(found).items()}
    assert found.names[:2] == ["goldfish", "European fire salamander"]
    assert set(groups["aquatic bird"]) == {"goose", "black stork", "king penguin", "albatross"}
    assert "crane" not in groups["animal"], "its crane is the machine"
    assert "crane" in groups["device"] or "crane" in groups["artifact"]
    assert len({tuple(column) for column in found.members.T.tolist()}) == len(found.names)
