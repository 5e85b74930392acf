"""CLIP-Dissect: each similarity against sums done by hand, and on the toy world what its colours say."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import rankdata

from milan import Unit, check_describer
from milan.describers import clip_dissect
from milan.describers._shared import concept_similarity as c
from milan.describers._shared.contract import UNITS, make_toy_dissection
from milan.errors import BadInput, MilanWarning
from milan.storage import files
from tests.describers.makers import COLOURS, load_simulated

SIMILARITIES = ("soft_wpmi", "wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return make_toy_dissection(tmp_path_factory.mktemp("toys"))


@pytest.fixture(params=[(300, 7, 40), (60, 5, 3)], ids=["many concepts", "fewer images than are taken, few concepts"])
def world(request):
    """Likeness (images, concepts) and activations (images, units), with ties and a unit that is mostly silent."""
    images, units, concepts = request.param
    rng = np.random.default_rng(3)
    likeness = rng.normal(0.2, 0.1, (images, concepts)).clip(0.01).astype(np.float32)
    activations = rng.normal(0, 1, (images, units)).astype(np.float32)
    activations[:, 0] = activations[:, 0].clip(1.5)  # mostly equal
    activations[:, 1] = likeness[:, 1] * 3  # goes with a concept
    return likeness, activations


def by_hand_best(activations, count):
    return [np.lexsort((np.arange(len(column)), -column))[:count] for column in activations.T.astype(np.float64)]


def by_hand_pmi(likeness, activations, top, temperature, weight, log_chance):
    """Σ over the strongest images of log_chance(softmax, rank), less weight times the logarithm of its mean
    over units.
    """
    best = by_hand_best(activations, top)
    scaled = likeness.astype(np.float64) * temperature
    evidence = np.array([log_chance(scaled[images]) for images in best])
    return evidence - weight * (logsumexp(evidence, axis=0) - math.log(len(best)))


def soft(scaled):
    chances = softmax(scaled, axis=1)
    surely = 0.998 + (0.970 - 0.998) * np.arange(len(scaled)) / len(scaled)
    return np.log(1 + surely[:, None] * (chances - 1)).sum(0)


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_soft_wpmi_is_the_published_formula_in_float64(world, weight):
    likeness, activations = world
    expected = by_hand_pmi(likeness, activations, 100, 10.0, weight, soft)
    found = c.soft_wpmi(torch.from_numpy(likeness), torch.from_numpy(activations), prior_weight=weight).double().numpy()
    assert (
        np.abs(found - expected).max() < 5e-5
    )  # with few concepts the sums are near 500, where float32 has steps of 3e-5
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_soft_wpmi_takes_blocks_for_the_whole(world, monkeypatch):
    likeness, activations = map(torch.from_numpy, world)
    whole = c.soft_wpmi(likeness, activations)
    for name, value in (("CONCEPTS_PER_BLOCK", 2), ("UNITS_PER_BLOCK", 3), ("IMAGES_PER_BLOCK", 7)):
        monkeypatch.setattr(c, name, value)
    assert torch.allclose(
        c.soft_wpmi(likeness, activations), whole, rtol=0, atol=5e-5
    )  # logarithms are taken at other places


def test_a_product_that_leaves_float32_is_taken_in_parts():
    """One concept of two is certain in each image: a hundred factors of up to 500."""
    likeness = torch.zeros(100, 2)
    likeness[:, 0] = 10.0
    expected = soft(likeness.double().numpy() * 10)
    found = c.compute_soft_log_likelihood(likeness, torch.arange(100)[None], c.make_inclusion(100), 10.0)[0]
    assert expected[0] - expected[1] > math.log(3e38)  # more than float32 holds
    assert float(found[0] - found[1]) == pytest.approx(expected[0] - expected[1], rel=1e-6)


def test_wpmi_is_the_published_formula(world):
    likeness, activations = world
    expected = by_hand_pmi(likeness, activations, 28, 2.0, 0.6, lambda scaled: log_softmax(scaled, axis=1).sum(0))
    images, units = torch.from_numpy(likeness), torch.from_numpy(activations)
    evidence = c.compute_log_likelihood(images, c.find_top_images(units, 28), 2.0)
    found = evidence - 0.6 * c.average_over_units(iter(evidence.split(2)))
    assert np.allclose(found.numpy(), expected, atol=1e-4)


def test_rank_reorder_is_what_its_words_say(world):
    likeness, activations = world
    count = max(int(0.05 * len(likeness)), 10)
    expected = np.zeros((activations.shape[1], likeness.shape[1]))
    for unit, images in enumerate(by_hand_best(activations, count)):
        own = activations[images, unit].astype(np.float64)
        chance = np.mean([abs(a - b) ** 3 for a in own for b in own])
        for concept in range(likeness.shape[1]):
            place = rankdata(likeness[images, concept], method="ordinal") - 1  # 0 is the least like
            given = np.sort(own)[place]
            error = np.mean(np.abs(own - given) ** 3) / chance if chance else 1.0
            expected[unit, concept] = -error / math.sqrt(likeness[images, concept].astype(np.float64).mean())
    found = c.rank_reorder(torch.from_numpy(likeness), *c.find_ranked_images(torch.from_numpy(activations))).numpy()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found[1].argmax() == 1
    assert found[1, 1] == 0  # the unit goes with this concept exactly


def test_rank_reorder_bears_images_that_are_unlike_the_concept(world):
    likeness, activations = map(torch.from_numpy, world)
    likeness = likeness.clone()
    likeness[:, 2] = -likeness[:, 2]
    scores = c.rank_reorder(likeness, *c.find_ranked_images(activations))
    assert scores.isfinite().all()
    assert (scores.argmin(1) == 2).all()


def test_the_cosines_are_cosines(world):
    likeness, activations = (each.astype(np.float64) for each in world)

    def cosines(one, other):
        return (one / np.linalg.norm(one, axis=0).clip(1e-3)).T @ (other / np.linalg.norm(other, axis=0).clip(1e-3))

    images, units = map(torch.from_numpy, world)
    assert np.allclose(c.cosine(images, units).numpy(), cosines(activations, likeness), atol=1e-5)
    cubed = cosines((activations - activations.mean(0)) ** 3, (likeness - likeness.mean(0)) ** 3)
    assert np.allclose(c.cosine_cubed(images, units).numpy(), cubed, atol=1e-4)


def test_the_strongest_images_stand_in_order_and_ties_by_number(world):
    _, activations = world
    for count in (1, 17, 10_000):
        found = c.find_top_images(torch.from_numpy(activations), count).numpy()
        assert (found == np.array(by_hand_best(activations, count))).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_each_similarity_keeps_the_contract(similarity, toys):
    check_describer(
        lambda: load_simulated("clip_dissect", similarity=similarity, embedder=COLOURS, batch_size=3, pooling="max"),
        toys,
    )


@pytest.mark.parametrize("similarity", ["soft_wpmi", "rank_reorder", "cos_similarity", "cos_similarity_cubed"])
def test_the_colours_of_the_toy_world_are_found(similarity, toys, tmp_path, cache):
    words = tmp_path / "words.txt"
    words.write_text("green\nblue\nred\n\nyellow\ngreen\n")
    describer = load_simulated(
        "clip_dissect", similarity=similarity, embedder=COLOURS, concepts=str(words), pooling="mean", top=8
    )
    with pytest.warns(MilanWarning, match="1 empty lines and 1 repeated"):
        said = {UNITS[each.unit.index]: each for each in describer.describe(toys, toys.units)}
    assert [said[colour].text for colour in ("red", "green", "blue")] == ["red", "green", "blue"]
    candidates = said["red"].candidates
    assert candidates[0].text == "red"
    assert len(candidates) == 4
    assert dict(candidates[0].parts)["deviations"] > 0.9


def test_parts_of_a_score_add_up(toys, cache):
    describer = load_simulated("clip_dissect", embedder=COLOURS, prior_weight=0.4)
    for said in describer.describe(toys, toys.units):
        for each in said.candidates:
            parts = dict(each.parts)
            assert each.score == pytest.approx(parts["likelihood"] - 0.4 * parts["prior"], abs=1e-5)


def test_background_units_change_the_prior_and_one_alone_is_told(toys, cache):
    def said(background):
        describer = load_simulated("clip_dissect", embedder=COLOURS, pooling="max", top=8, background_units=background)
        return next(iter(describer.describe(toys, [Unit("answers", 0)])))

    assert said(None) == said([0, 1, 2, 3, 6])
    assert said([1, 2]).score > said([0, 1, 2]).score  # less like itself, the background makes the unit stand out
    with pytest.warns(MilanWarning, match=r"over 1 background units \(answers:0\)"):
        assert said([0]).score == pytest.approx(0, abs=1e-5)


def test_the_key_knows_what_answers_depend_on(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen")

    def key(**settings):
        return load_simulated("clip_dissect", **{"embedder": COLOURS, "concepts": str(words)} | settings).key

    first = key()
    assert key(batch_size=7) == first
    assert len({first, key(top=7), key(prompt="a {}"), key(similarity="wpmi"), key(background_units=[0])}) == 5
    words.write_text("red\nblue")
    assert key() != first


def test_a_prompt_without_its_hole_is_refused():
    with pytest.raises(BadInput, match=r"has no \{\}"):
        load_simulated("clip_dissect", prompt="a photo")


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_blocks_of_concepts_give_what_the_whole_similarities_give(similarity, toys, cache, tmp_path, monkeypatch):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(["red", "green", "blue", "yellow", "black", "white", "grey"]))
    settings = {"similarity": similarity, "embedder": COLOURS, "concepts": str(words), "top": 8}
    whole = list(load_simulated("clip_dissect", **settings).describe(toys, toys.units))
    monkeypatch.setattr(clip_dissect, "CONCEPTS_PER_BLOCK", 2)
    monkeypatch.setattr(clip_dissect, "BLOCK_VALUES", 1)
    monkeypatch.setattr(files, "MIN_SCRATCH_BYTES", 0)
    for one, other in zip(load_simulated("clip_dissect", **settings).describe(toys, toys.units), whole, strict=True):
        assert one.text == other.text
        for mine, theirs in zip(one.candidates, other.candidates, strict=True):
            assert mine.score == pytest.approx(theirs.score, abs=1e-4, rel=1e-5)
