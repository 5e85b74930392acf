"""Describe-and-Dissect on the toy world, step by step, and its choice of candidates for other describers."""

import numpy as np
import pytest
import torch

import milan
from milan.describers import DescriptionFailure
from milan.describers._shared.candidate_selection import compute_image_products, compute_scores
from milan.describers._shared.contract import UNITS, make_toy_dissection
from milan.describers.describe_and_dissect import RegionFinder
from milan.errors import BadInput
from milan.pretrained.llm import Llm, TemporaryFailure
from milan.results.catalogue import Catalogue, Entry, read_catalogue
from milan.results.page import write_page
from milan.units import Unit
from tests.describers.colour_captioner import ColourCaptioner
from tests.describers.makers import COLOURS, PICTURED, load_simulated
from tests.results.page.conftest import read_data

RED = Unit("answers", 0)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


def dissector(**settings):
    models = {
        "captioner": f"{PICTURED}:ColourCaptioner",
        "painter": f"{PICTURED}:ColourPainter",
        "embedder": COLOURS,
        "pictures": 3,
    }
    return load_simulated("describe_and_dissect", **models | settings)


def test_the_colours_of_the_toy_world_are_found(toys):
    said = {UNITS[each.unit.index]: each for each in dissector().describe(toys, toys.units)}
    assert {name: said[name].text.split()[0] for name in ("red", "green", "blue")} == {
        "red": "red",
        "green": "green",
        "blue": "blue",
    }
    seen = said["red"].reasoning["seen"]
    assert len(seen) == 10
    assert {each["caption"] for each in seen} <= {"a red square on black ground", "a red wall", "a magenta wall"}
    assert any(each["box"] for each in seen), "parts of images are among what moves it most"
    assert {each["label"] for each in seen} >= {"red wall"}


def test_looks_are_crops_and_images_ranked_by_what_the_unit_answers(toys):
    looks = RegionFinder(toys.open_target(), toys.open_probe(), toys, 10, "mean").find(RED)
    values = [look.activation for look in looks]
    assert values == sorted(values, reverse=True)
    assert len(looks) == 10
    first = looks[0]
    assert first.box is not None, "a part that is all red moves it more than a whole image"
    red = first.pixels.float().mean((1, 2))
    assert red[0] > 180
    assert red[1:].max() < 80
    crop = toys.open_probe().image(first.image)[:, first.box[0] : first.box[2], first.box[1] : first.box[3]]
    assert torch.allclose(crop.float().mean((1, 2)), red, atol=6)


def test_without_crops_the_top_images_are_captioned_whole(toys):
    (said,) = dissector(crops=False).describe(toys, [RED])
    seen = said.reasoning["seen"]
    assert {each["box"] for each in seen} == {None}
    top = toys.activations("mean")[:, RED.index].topk(10).values.tolist()
    assert [each["activation"] for each in seen] == pytest.approx(top, abs=1e-3)
    assert dissector(crops=False).key != dissector().key


def test_options_without_painting_and_with_a_concept_set(toys, tmp_path):
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("red\ngreen\nblue\n")
    (said,) = dissector(select=False, painter="nowhere:none").describe(toys, [RED])
    assert said.text.split()[0] == "red"
    assert "painted" not in said.reasoning
    assert sum(candidate.score for candidate in said.candidates) == pytest.approx(1)
    chosen = dissector(concepts=str(concepts), captioner="nowhere:none")
    (said,) = chosen.describe(toys, [Unit("answers", 2)])
    assert said.text == "blue"
    assert {each["caption"] for each in said.reasoning["seen"]} == {"blue"}


def test_several_labels_say_different_things(toys):
    (one,) = dissector().describe(toys, [Unit("answers", 6)])
    (said,) = dissector(labels=3).describe(toys, [Unit("answers", 6)])
    labels = said.text.split("; ")
    assert labels[0] == one.text
    assert 1 <= len(labels) <= 3
    assert said.candidates[0].text == said.text


def test_what_was_found_is_not_asked_again(toys, cache, monkeypatch):
    (first,) = dissector().describe(toys, [RED])

    def never(self, images):
        raise AssertionError("captioned again")

    monkeypatch.setattr(ColourCaptioner, "caption_images", never)
    assert list(dissector().describe(toys, [RED])) == [first]


class Silent(Llm):
    """Is asked in vain for anything about red."""

    key, name, is_cacheable = "silent", "silent", False

    def answer(self, question, attempt=0):
        if any("red" in text for text, _ in question.items):
            raise TemporaryFailure("HTTP 500: <html>no</html>")
        return "things"


def test_a_unit_that_cannot_be_summed_up_is_a_failure_and_the_others_go_on(toys):
    made = dissector(llm=f"{__file__}:Silent", llm_options={"pause": 0.0})
    made.llm_client.pause = 0.0
    found = list(made.describe(toys, [RED, Unit("answers", 1)]))
    assert isinstance(found[0], DescriptionFailure)
    assert "HTTP 500" in found[0].reason
    assert found[1].text == "things"


def test_scores_by_hand():
    ranks = np.array([[1.0, 2.0, 9.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]])
    found = compute_scores(ranks, np.array([0.2, 0.5, 0.9]), beta=2)
    assert found["mean"].tolist() == [-4, -4, -7]
    assert found["topk_squared"].tolist() == [-2.5, -12.5, -42.5]
    np.testing.assert_allclose(found["topk_squared_image_products"], [2 * 0.2, 1 * 0.5, 0])
    own = torch.eye(2)
    painted = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert compute_image_products(own, painted, np.array([1.0, 3.0, 2.0]), top=2) == pytest.approx(
        (0.6 + 0.8 + 0 + 1) / 4
    )


def test_pictures_that_move_a_unit_alike_share_their_ranks(toys):
    (said,) = dissector().describe(toys, [RED])
    ranks = [rank for each in said.reasoning["painted"] for rank in each["ranks"]]
    assert sum(ranks) == len(ranks) * (len(ranks) + 1) / 2


def test_best_concept_of_any_describers_candidates(toys):
    inner = load_simulated("clip_dissect", embedder=COLOURS, pooling="max", concepts="diorama")
    best = milan.BestConcept(inner, painter=f"{PICTURED}:ColourPainter", embedder=COLOURS, pictures=2, candidates=3)
    (before,), (after,) = inner.describe(toys, [RED]), best.describe(toys, [RED])
    assert {each.text for each in after.candidates} == {each.text for each in before.candidates[:3]}
    assert after.text == after.candidates[0].text
    with pytest.raises(BadInput, match="candidates is 0"):
        milan.BestConcept(inner, candidates=0)


def test_the_whole_reasoning_is_on_the_page_and_read_back(toys, tmp_path, cache):
    (said,) = dissector().describe(toys, [RED])
    catalogue = Catalogue((Entry(RED, description=said),), {"describer": "describe_and_dissect"})
    catalogue.write(tmp_path)
    assert read_catalogue(tmp_path)[RED].reasoning["painted"] == said.reasoning["painted"]
    assert "reasoning" not in (tmp_path / "descriptions.csv").read_text().splitlines()[0]
    page = write_page(catalogue, {"answers": toys}, tmp_path / "page")
    reason = read_data(page)["layers"][0]["blocks"][0]["reasoning"]
    assert len(reason["seen"]) == 10
    assert [each["text"] for each in reason["painted"]] == [each.text for each in said.candidates]
    for file in reason["files"].values():
        assert (tmp_path / "page" / file).stat().st_size > 100
