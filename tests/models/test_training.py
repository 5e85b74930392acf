"""The training function: which weights it keeps, the learning rate over the updates, and what it imports."""

import subprocess
import sys
from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from milan.errors import BadInput
from milan.models import TextBatch
from milan.models.lightning_modules import TrainingModule, compute_bleu
from milan.models.training import TrainingConfig, train


class Weight(nn.Module):
    """One weight, which is the loss of every batch (squared or not); remembers its values."""

    learning_rate = 0.1

    def __init__(self, start: float, squared: bool):
        super().__init__()
        self.weight, self.squared, self.values = nn.Parameter(torch.tensor(start)), squared, []

    def loss(self, _batch: TextBatch) -> Tensor:
        self.values.append(self.weight.item())
        return self.weight**2 if self.squared else self.weight * 1


class WeightTraining(TrainingModule):
    metric, mode = "distance", "min"

    def validation_step(self, _batch: TextBatch, _index: int) -> None:
        self.log("distance", abs(self.model.weight - 3.7))


class Batches(pl.LightningDataModule):
    def __init__(self, count: int):
        super().__init__()
        batch = TextBatch(torch.zeros(1, 1, dtype=torch.long))
        loader = DataLoader(range(count), batch_size=None, collate_fn=lambda _: batch)
        self.train_dataloader = self.val_dataloader = lambda: loader


def test_training_stops_by_patience_and_keeps_the_best_weights() -> None:
    model = Weight(4.0, squared=True)
    result = train(WeightTraining(model), Batches(1), TrainingConfig(patience=2))
    after = [*model.values[1:], None]
    best = min(after[:-1], key=lambda value: abs(value - 3.7))
    assert result.model is model
    assert model.weight.item() == best
    assert not model.training
    assert result.log == {"epochs": after.index(best) + 3, "distance": pytest.approx(abs(best - 3.7), abs=1e-4)}


def test_the_learning_rate_rises_and_falls_to_zero_over_the_updates() -> None:
    model = Weight(0.0, squared=False)
    result = train(WeightTraining(model, updates=100), Batches(30), TrainingConfig(updates=100))
    steps = [one - other for one, other in pairwise([*model.values, model.weight.item()])]
    assert len(steps) == result.log["updates"] == 100
    assert steps[0] == pytest.approx(0.1 / 20, rel=0.3)
    assert steps[19] == pytest.approx(0.1 * 0.81, rel=0.1)
    assert steps[-1] == pytest.approx(0.1 * 0.01, rel=0.1)


def test_training_without_a_validated_epoch_is_an_error() -> None:
    with pytest.raises(BadInput, match="no epoch"):
        train(WeightTraining(Weight(4.0, squared=True)), Batches(1), TrainingConfig(max_epochs=0))


def test_describing_with_milan_imports_no_lightning() -> None:
    code = (
        "import sys, torch, milan.cli.describe, milan.cli.describe_run, milan.cli.describe_output;"
        "from milan.describers.milan import Milan;"
        "milan = Milan(captioner='diorama', beam=3);"
        "milan.search(torch.zeros(1, 15, milan.models.captioner.key.in_features));"
        "print(sorted({'pytorch_lightning', 'lightning_fabric', 'torchmetrics', 'sacrebleu'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_bleu_is_of_the_whole_corpus_and_of_any_number_of_references() -> None:
    assert compute_bleu(["red dots on a wall"], [["Red dots on a wall."]]) == pytest.approx(100)
    assert compute_bleu(["red dots on a wall"], [["green", "red dots on a wall"]]) == pytest.approx(100)
    assert compute_bleu(["red dots on a wall", "x"], [["red dots on a wall", "a dog"], ["blue lines"]]) < 100
    assert compute_bleu(["q"], [["red dots"]]) < 1
