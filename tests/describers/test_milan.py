"""MILAN as a describer: the contract in every strategy, the same bits in any company, its key, and what it refuses."""

from pathlib import Path

import pytest
import torch

from milan.describers import check_describer
from milan.describers._shared.contract import make_toy_dissection
from milan.describers.milan import Milan
from milan.dissection.dissection import Dissection
from milan.errors import BadInput
from milan.models import Captioner, Prior
from tests.describers.makers import load_simulated
from tests.models.test_data_module import ENCODER
from tests.models.worlds import WORDS, captioner, prior

STRATEGIES = ("rerank", "beam", "greedy", "sample", "pmi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner and a prior with random weights, for the features of the tiny encoder."""
    folder = tmp_path_factory.mktemp("models")
    captioner(features=32, encoder={"spec": ENCODER, "pooling": "mean", "downsampling": "area"}).save_pretrained(
        folder / "captioner"
    )
    prior().save_pretrained(folder / "prior")
    return folder


@pytest.fixture(scope="module")
def dissection(tmp_path_factory: pytest.TempPathFactory) -> Dissection:
    return make_toy_dissection(tmp_path_factory.mktemp("toy"))


def milan(folder: Path, **settings: object) -> Milan:
    return Milan(
        **{"captioner": str(folder / "captioner"), "prior": str(folder / "prior"), "beam": 12, "steps": 6} | settings
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_keeps_the_contract(strategy: str, folder: Path, dissection: Dissection) -> None:
    check_describer(lambda: milan(folder, strategy=strategy), dissection)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_descriptions_are_the_same_to_the_last_bit_in_any_batch(
    strategy: str, folder: Path, dissection: Dissection
) -> None:
    units = dissection.active_units()
    at_once = list(milan(folder, strategy=strategy).describe(dissection, units))
    assert list(milan(folder, strategy=strategy, batch_size=1).describe(dissection, units)) == at_once
    assert list(milan(folder, strategy=strategy, batch_size=2).describe(dissection, units[1:])) == at_once[1:]
    assert len({said.text for said in at_once}) > 1, "these units look different to the encoder"


def test_every_candidate_is_kept_with_its_three_scores(folder: Path, dissection: Dissection) -> None:
    describer = milan(folder, prior_weight=0.3)
    said = next(describer.describe(dissection, dissection.active_units()))
    assert len(said.candidates) == 12
    assert (said.text, said.score) == (said.candidates[0].text, said.candidates[0].score)
    vocabulary = describer.models.captioner.vocabulary
    exemplars = dissection.exemplars(said.unit)
    features = describer.models.encoder.encode(exemplars.images, exemplars.masks).unsqueeze(0)
    for candidate in said.candidates:
        parts = dict(candidate.parts)
        assert candidate.score == parts["pmi"] == pytest.approx(parts["likelihood"] - 0.3 * parts["prior"], abs=1e-4)
        ids = vocabulary.encode(candidate.text)
        if len(ids) <= 6:  # ended before the last step
            tokens = torch.tensor([[ids]])
            assert float(describer.models.captioner.score(features, tokens)) == pytest.approx(
                parts["likelihood"], abs=1e-3
            )
            assert float(describer.models.prior.score(tokens)) == pytest.approx(parts["prior"], abs=1e-3)


def test_the_likeliest_text_is_of_the_same_beam(folder: Path, dissection: Dissection) -> None:
    unit = dissection.active_units()[0]
    reranked, beam = (
        next(milan(folder, strategy=one, prior_weight=2.0).describe(dissection, [unit])) for one in ("rerank", "beam")
    )
    assert {one.text for one in reranked.candidates} == {one.text for one in beam.candidates}
    assert reranked.text != beam.text
    likelihoods = [dict(one.parts)["likelihood"] for one in beam.candidates]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_samples_follow_the_seed(folder: Path, dissection: Dissection) -> None:
    units = dissection.active_units()
    texts = [
        [said.text for said in milan(folder, strategy="sample", seed=seed).describe(dissection, units)]
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_key_follows_what_changes_answers(folder: Path, tmp_path: Path) -> None:
    key = milan(folder).key
    assert milan(folder, batch_size=3).key == key
    assert (
        len({key, milan(folder, beam=13).key, milan(folder, strategy="beam").key, milan(folder, prior_weight=0.1).key})
        == 4
    )
    other = captioner(features=32, encoder={"spec": ENCODER, "pooling": "mean", "downsampling": "area"})
    other.readout.bias.data += 1
    other.save_pretrained(tmp_path)
    assert milan(folder, captioner=str(tmp_path)).key != key
    Captioner.from_pretrained(folder / "captioner").save_pretrained(tmp_path / "copy")
    assert milan(folder, captioner=str(tmp_path / "copy")).key == key


def test_a_prior_of_other_words_is_refused(folder: Path, tmp_path: Path) -> None:
    Prior([*WORDS[:-1], "zebra"], embedding=8, hidden=16).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"different vocabularies \(2 words differ: f4, zebra\)"):
        _ = milan(folder, prior=str(tmp_path)).models
    Prior(WORDS[::-1], embedding=8, hidden=16).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="their order"):
        _ = milan(folder, prior=str(tmp_path)).models


def test_an_encoder_of_other_features_is_refused(folder: Path, dissection: Dissection) -> None:
    describer = milan(folder, encoder="torchvision:resnet18", encoder_weights="random")
    with pytest.raises(BadInput, match="features of length 1024"):
        next(describer.describe(dissection, dissection.active_units()))
    captioner(features=32).save_pretrained(folder / "nameless")
    with pytest.raises(BadInput, match="does not say what encoder"):
        _ = milan(folder, captioner=str(folder / "nameless")).models


def test_a_2022_checkpoint_describes(shared_data: Path, dissection: Dissection) -> None:
    file = str(shared_data / "milan_checkpoint" / "checkpoint.pth.gz")
    units = dissection.active_units()[:2]
    describer = Milan.from_released(file)
    released = list(describer.describe(dissection, units))
    named = load_simulated("milan", captioner=file, prior=file, as_released=True)
    assert list(named.describe(dissection, units)) == released
    assert len(released[0].candidates) > 1
    assert named.key == describer.key


def test_the_embedded_default_describes_dioramas_units() -> None:
    from milan.dissection.loading import load_dissection
    from milan.storage.packaged_data import locate_packaged_data

    describer = load_simulated("milan")
    layer = load_dissection(locate_packaged_data("data/diorama/annotations") / "resnet-objects" / "layer3")
    said = list(describer.describe(layer, layer.active_units()[:3]))
    assert len(said) == 3
    for one in said:
        best = dict(one.candidates[0].parts)
        assert one.text
        assert max(best["likelihood"], best["prior"]) < 0
        assert (
            one.score
            == max(candidate.score for candidate in one.candidates)
            == pytest.approx(best["likelihood"] - 0.2 * best["prior"])
        )
    assert "simulated" in str(describer.models.captioner.trained_on["data"])
