"""Fits a stand-in step by step, and goes on where a killed run stopped."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milan.console.progress import track_progress
from milan.storage.files import atomic_write

CHECKPOINT_SECONDS = 120.0  # seconds of training that a kill may cost
LOG_STEPS = 200  # steps between two reports of the loss
MUON_LEARNING_RATE = 0.02  # highest learning rate of matrices whose steps are made orthogonal


def fit_stand_in(
    learner: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    checkpoint: Path,
    *,
    learning_rate: float,
    after_step: Callable[[], None] | None = None,
    muon_parameters: Sequence[nn.Parameter] = (),
) -> None:
    """AdamW, the learning rate rising for a twentieth of the steps and then falling as a cosine.

    Args:
        loss: the loss of the step of a number, which must follow from the number and the weights alone.
        checkpoint: where what a killed run had reached is kept, until the end.
        learning_rate: the highest learning rate.
        after_step: called after each step, to keep a weight within bounds.
        muon_parameters: matrices that Muon fits instead, whose steps are as near to orthogonal as can be (Jordan et al.
            2024); a small transformer learns the same in about half of the steps.
    """
    other = [value for value in learner.parameters() if not any(value is each for each in muon_parameters)]
    decayed, plain = [value for value in other if value.ndim > 1], [value for value in other if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))]
    if muon_parameters:
        optimizers.append(torch.optim.Muon(list(muon_parameters), lr=MUON_LEARNING_RATE, weight_decay=0.05))
    rising = max(1, steps // 20)
    schedules: list[Any] = [
        torch.optim.lr_scheduler.LambdaLR(
            each,
            lambda step: min(
                (step + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rising) / max(1, steps - rising))
            ),
        )
        for each in optimizers
    ]
    state = {"learner": learner, **{f"part {number}": part for number, part in enumerate((*optimizers, *schedules))}}
    first, losses, saved = _resume(checkpoint, state), [], time.monotonic()
    learner.train()
    for step in track_progress(range(first, steps), description=f"training from step {first}"):
        found = loss(step)
        learner.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for each in optimizers:
            each.step()
        for each in schedules:
            each.step()
        if after_step is not None:
            after_step()
        losses.append(found.item())
        if (step + 1) % LOG_STEPS == 0:
            print(
                f"step {step + 1}/{steps}: loss {sum(losses[-LOG_STEPS:]) / len(losses[-LOG_STEPS:]):.4f}", flush=True
            )
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            _save_checkpoint(checkpoint, state, step + 1)
            saved = time.monotonic()
    checkpoint.unlink(missing_ok=True)


def _save_checkpoint(checkpoint: Path, state: dict[str, Any], step: int) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(checkpoint) as path:
        torch.save({**{name: each.state_dict() for name, each in state.items()}, "step": step}, path)


def _resume(checkpoint: Path, state: dict[str, Any]) -> int:
    """Puts back what a killed run had reached, and gives the step to go on with."""
    if not checkpoint.is_file():
        return 0
    found = torch.load(checkpoint, weights_only=True)
    for name, each in state.items():
        each.load_state_dict(found[name])
    return found["step"]
