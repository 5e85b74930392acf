"""The study of better describers: choosing among texts by hand, and the transformer that stands in for the LSTM."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.better_describer import Change, Heard, verdicts
from benchmarks.transformer_captioner import TransformerCaptioner
from milan.experiments.generalization.config import GeneralizationConfig
from milan.models import CaptionBatch
from milan.models.annotated_units import AnnotatedUnit
from milan.models.decoding import TokenConstraints, beam_search
from milan.units import Unit

WORDS = [f"word{number}" for number in range(12)]


def test_each_rule_chooses_by_its_own_sum() -> None:
    unit = AnnotatedUnit(Path("layer"), Unit("layer", 0), ("dots",))
    texts = ["dots", "red dots", "red and blue dots"]
    found = Heard((unit,), [texts], [np.array([-3.0, -3.2, -5.0])], [np.array([-2.0, -4.0, -10.0])])
    assert found.best(0.0) == ["dots"]
    assert found.best(0.2) == ["red dots"], "-2.6, -2.4, -3.0"
    assert found.best(0.5) == ["red and blue dots"], "-2.0, -1.2, 0.0"
    assert found.best(0.0, shrink=1.0) == ["red and blue dots"], "-3/2, -3.2/3, -5/5"
    assert found.best(0.0, pull=10.0, near=[np.array([0.1, 0.0, 0.0])]) == ["dots"]
    assert found.best(0.0, pull=10.0, near=[np.array([0.0, 0.1, 0.0])]) == ["red dots"]


def test_a_change_is_asked_under_its_seeds() -> None:
    plan = GeneralizationConfig(seeds=5, seed=1)
    assert list(Change("beam", {}, seeds=2).rounds(plan)) == [1, 2]
    assert list(Change("λ", {}).rounds(plan)) == [1, 2, 3, 4, 5]
    assert list(Change("ensemble", {}, together=True).rounds(plan)) == [1], "it says one thing"


def test_the_best_setting_where_it_was_chosen_is_judged_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Two units each; the other setting would be truer on the network that judges."""
    worth = {"red": 1.0, "blue": 0.5, "none": 0.0}

    class FixedAnswers:
        def __init__(self, name: str, texts: dict[str, list[str]]):
            self.judging, self.plan, self.texts = (
                name.startswith("resnet"),
                GeneralizationConfig(seeds=1, seed=1),
                texts,
            )
            self.units = tuple(AnnotatedUnit(Path("layer"), Unit("layer", index), ("dots",)) for index in range(2))

        def truth(self, texts: list[str]) -> np.ndarray:
            return np.array([worth[text] for text in texts])

        def heard(self, _seed: int) -> Heard:
            return Heard(self.units, [["blue"], ["none"]], [np.zeros(1)] * 2, [np.zeros(1)] * 2)

    cases = [
        FixedAnswers("alexnet", {"a": ["red", "red"], "b": ["none", "blue"]}),
        FixedAnswers("resnet", {"a": ["blue", "blue"], "b": ["red", "red"]}),
    ]
    change = Change("words", {name: lambda case, _seed, name=name: case.texts[name] for name in "ab"})
    (found,) = verdicts(cases, [change])
    assert (found.setting, found.chosen, found.judged) == ("a", 1.0, 0.5)
    assert found.difference.startswith("+0.250 [")
    assert "a 1.000, b 0.250" in capsys.readouterr().out


@pytest.fixture(scope="module")
def model() -> TransformerCaptioner:
    torch.manual_seed(0)
    return TransformerCaptioner(WORDS, features=6, width=16, layers=2, heads=2).eval()


def test_a_walk_says_what_reading_the_whole_text_says(model: TransformerCaptioner) -> None:
    features = torch.randn(3, 4, 6)
    found = beam_search(model.start_decoding(features), 3, TokenConstraints(model.vocabulary), beam=4, steps=5)
    for unit in range(3):
        for beam in range(4):
            tokens = found.tokens[unit, beam]
            length = int((tokens != model.vocabulary.stop).sum()) + 1
            before = torch.cat([torch.tensor([model.vocabulary.start]), tokens])[:-1]
            logs = model(model.project(features[unit : unit + 1]), before.unsqueeze(0))[0].log_softmax(-1)
            by_hand = logs[torch.arange(5), tokens][:length].sum()
            assert found.scores[unit, beam] == pytest.approx(by_hand.item(), abs=1e-4)


def test_padding_counts_in_no_loss(model: TransformerCaptioner) -> None:
    features, stop, pad = torch.randn(1, 4, 6), model.vocabulary.stop, model.vocabulary.pad
    short, long = torch.tensor([[1, stop]]), torch.tensor([[1, stop, pad, pad]])
    losses = [model.loss(CaptionBatch(features, tokens)).item() for tokens in (short, long)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
