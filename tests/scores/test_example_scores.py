"""Detection, fuzzing and intruder scores: their draw, their exam with literal units, and each kind of judge."""

import numpy as np
import pytest
import torch

from milan.diorama.text_reader import parse_description
from milan.errors import MissingEvidence, UnknownName
from milan.probes import Probe, load_probe
from milan.scores.example_judges import EmbedderJudge, LabelJudge, load_judge
from milan.scores.example_scores import (
    ExampleScores,
    UnitExamples,
    compute_example_scores,
    make_intruder_groups,
    make_regions,
    select_examples,
)
from milan.units import Unit
from tests.pretrained.chat_server import KEY, choice, serving

SCENES = 300


@pytest.fixture(scope="module")
def probe() -> Probe:
    return load_probe("diorama:objects", limit=SCENES)


@pytest.fixture(scope="module")
def judge(probe: Probe) -> LabelJudge:
    return LabelJudge(probe)


def draw(judge: LabelJudge, text: str) -> UnitExamples:
    """Return the examples of a unit that is active exactly on the pixels that a text denotes."""
    signatures = judge.signatures
    maps = signatures.text_values(parse_description(text))[np.asarray(signatures.pixels)]
    values = maps.mean((1, 2)) + np.random.default_rng(0).random(SCENES) * 1e-6
    active, bands, inactive = select_examples(values, None, 10, np.random.default_rng(0))
    right, wrong = make_regions(torch.from_numpy(maps[active]).float(), (64, 64))
    return UnitExamples(Unit("layer", 0), active, bands, inactive, right, wrong)


def score(judge: LabelJudge, examples: UnitExamples, text: str) -> ExampleScores:
    active, inactive = (judge.rate([text], rows)[0] for rows in (examples.active, examples.inactive))
    right, wrong = (judge.rate([text], examples.active, each)[0] for each in (examples.regions, examples.wrong_regions))
    return compute_example_scores(examples, active, inactive, right, wrong)


@pytest.mark.parametrize(
    ("unit", "said", "detection", "fuzzing"),
    [
        ("car", "cars", (0.95, 1), (0.95, 1)),
        ("car", "no cars", (0, 0.05), (0, 0.05)),
        ("car", "everything", (0.5, 0.5), (0.5, 0.5)),
        ("car", "", (0.5, 0.5), (0.5, 0.5)),
        ("car", "glimmering whatnots", (0.5, 0.5), (0.5, 0.5)),
        ("tree or house", "houses or trees", (0.95, 1), (0.9, 1)),
        # Half of an either-or unit: some active images show the other half.
        ("tree or house", "houses", (0.5, 0.97), (0.3, 0.9)),
        # What the scores cannot see, as documented: a text that is too broad.
        ("car", "vehicles", (0.7, 1), (0.7, 1)),
    ],
)
def test_the_exam_with_labels_as_the_judge(
    judge: LabelJudge, unit: str, said: str, detection: tuple[float, float], fuzzing: tuple[float, float]
) -> None:
    found = score(judge, draw(judge, unit), said)
    assert detection[0] <= found.detection <= detection[1]
    assert fuzzing[0] <= found.fuzzing <= fuzzing[1]


def test_intruders_of_a_unit_with_one_meaning_are_found(judge: LabelJudge) -> None:
    groups = make_intruder_groups(draw(judge, "snowfield or desert"), np.random.default_rng(0))
    assert [judge.find_intruder(rows) == place for rows, place in groups]


def test_hard_negatives_are_inactive_and_most_like_the_active_ones() -> None:
    values = np.array([0.0] * 16 + [5.0, 6.0, 7.0, 8.0])
    likeness = np.eye(20)[:, :2] * 0.0
    likeness[16:, 0] = likeness[[3, 4], 0] = 1.0
    active, bands, inactive = select_examples(values, likeness, 4, np.random.default_rng(0))
    assert set(active) <= {16, 17, 18, 19}
    assert bands.tolist() == sorted(bands)
    assert set(inactive[: len(active) // 2]) <= {3, 4}
    assert not set(inactive) & {16, 17, 18, 19}


def test_a_unit_that_is_never_active_has_no_examples() -> None:
    active, _, inactive = select_examples(np.zeros(30), None, 10, np.random.default_rng(0))
    assert len(active) == len(inactive) == 0


def test_ties_count_half_and_bands_are_scored_apart() -> None:
    examples = UnitExamples(
        Unit("layer", 0), np.arange(2), np.array([0, 4]), np.arange(2, 4), *[torch.ones(2, 1, 2, 2).bool()] * 2
    )
    found = compute_example_scores(examples, *map(np.array, ([1.0, 3.0], [1.0, 2.0], [1.0, 2.0], [1.0, 1.0])))
    assert (found.detection, found.fuzzing) == (0.625, 0.75)
    assert found.by_band[0] == 0.25
    assert found.by_band[4] == 1.0
    assert np.isnan(found.by_band[1])


def test_regions_have_the_same_size_and_differ() -> None:
    maps = torch.zeros(2, 8, 8)
    maps[0, 0, 0] = maps[1, 7, 7] = 1.0
    right, wrong = make_regions(maps, (32, 32))
    assert right.sum((1, 2, 3)).tolist() == wrong.sum((1, 2, 3)).tolist() == [102, 102]
    assert torch.equal(right[0], wrong[1])
    assert make_regions(torch.ones(3, 1, 1), (32, 32))[0].shape == (0, 1, 32, 32)


def test_an_image_text_model_rates_images_and_regions(probe: Probe) -> None:
    judge = EmbedderJudge("diorama", probe)
    rows = np.arange(4)
    whole = judge.rate(["cars", "sky"], rows)
    everything = judge.rate(["cars", "sky"], rows, torch.ones(4, 1, 64, 64, dtype=torch.bool))
    assert whole.shape == (2, 4)
    assert not np.allclose(whole[0], whole[1])
    assert np.allclose(whole, everything, atol=1e-4)
    assert judge.find_intruder(rows) in range(4)


def test_a_multimodal_model_behind_an_endpoint_rates_pictures(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as server:
        server.usual = choice("Picture 1\t9\nPicture 2\t0\nPicture 3\t7")
        judge = load_judge("openai:model", probe, base_url=server.url)
        assert judge.rate(["cars"], np.arange(3)).tolist() == [[9, 0, 7]]
        assert judge.find_intruder(np.arange(3)) == 1
        parts = server.asked[0]["messages"][-1]["content"]
        assert [part["type"] for part in parts].count("image_url") == 3


def test_labels_are_needed_to_judge_by_them() -> None:
    photos = Probe.from_tensor(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(MissingEvidence):
        load_judge("labels", photos)
    with pytest.raises(UnknownName, match="phrases:"):
        load_judge("phrases:", photos)
