"""Diorama's image-text models as they come with the package: loaded by the published models' code, as good as their
cards say.
"""

import json

import pytest
import torch

from milan.diorama_build.image_text_quality import compute_recall, measure_embedder
from milan.pretrained.embedder import load_embedder
from milan.storage.packaged_data import locate_packaged_data

SPECS = {"clip": "diorama", "siglip-small": "diorama:siglip-small", "siglip-large": "diorama:siglip-large"}
COUNT = 120  # scenes of each world that a test has the time to draw


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("name", SPECS)
def test_it_is_as_good_as_its_card_says(name, work):
    card = json.loads((locate_packaged_data(f"data/diorama/{name}") / "quality.json").read_text())
    message, found = card["held_out"], measure_embedder(load_embedder(SPECS[name]), work, COUNT)
    for task in ("objects named", "objects named, the rest covered", "their colours named", "settings named"):
        spread = (
            300
            * (
                max(message[task], 100 - message[task])
                / 100
                * min(message[task] + 5, 105 - message[task])
                / 100
                / COUNT
            )
            ** 0.5
        )
        assert abs(found[task] - message[task]) < spread + 1, (task, found, message)
    if name != "clip":
        sure, known = found["what shows, by the sigmoid"], message["what shows, by the sigmoid"]
        assert abs(sure["average precision"] - known["average precision"]) < 6
        assert known["average precision"] > 4 * known["of which show"]
        assert sure["calibration error"] < 5
    for way in ("scenes by sentence", "sentences by scene"):
        assert found[way]["recall@5"] >= message[way]["recall@5"] - 5  # among fewer it is easier
        assert message[way]["recall@5"] > 20 * 0.5  # chance is 0.5


def test_together_they_are_small_and_differ():
    sizes = {
        name: sum(file.stat().st_size for file in locate_packaged_data(f"data/diorama/{name}").iterdir())
        for name in SPECS
    }
    assert sum(sizes.values()) < 12e6, sizes
    embedders = [load_embedder(spec) for spec in SPECS.values()]
    assert len({each.key for each in embedders}) == 3
    assert embedders[1].features != embedders[2].features
    assert [each.bias is None for each in embedders] == [True, False, False]
    assert all(each.scale > 1 for each in embedders)


def test_the_library_itself_loads_them():
    import open_clip
    from transformers import AutoModel, AutoProcessor

    folder = locate_packaged_data("data/diorama/clip")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    words = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red house"])
    vector = torch.nn.functional.normalize(model.eval().encode_text(words), dim=1)
    torch.testing.assert_close(vector.detach(), load_embedder().encode_texts(["a red house"]))
    for name in [name for name in SPECS if name != "clip"]:
        folder = locate_packaged_data(f"data/diorama/{name}")
        assert type(AutoModel.from_pretrained(folder)).__name__ == "SiglipModel"
        assert type(AutoProcessor.from_pretrained(folder)).__name__ == "SiglipProcessor"


def test_recall_counts_ties_against():
    assert compute_recall(torch.ones(10, 10)) == {"recall@1": 0.0, "recall@5": 0.0}
    cosines = torch.eye(10)
    cosines[0, 1] = 2.0
    assert compute_recall(cosines) == {"recall@1": 90.0, "recall@5": 100.0}


@pytest.mark.parametrize("name", SPECS)
def test_the_card_says_what_it_is(name):
    text = (locate_packaged_data(f"data/diorama/{name}") / "README.md").read_text()
    assert "stand-in" in text
    assert "not to be used on photographs" in text
    assert f"--only {name}" in text
