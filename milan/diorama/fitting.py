"""Fits a stand-in step by step, and goes on where a killed run stopped."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milan.progress import progress
from milan.storage import atomic

KEEPING = 120.0  # seconds of training that a kill may cost
TOLD = 200  # steps between two reports of the loss
TURNING = 0.02  # highest learning rate of matrices whose steps are made orthogonal


def fit(
    learner: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    kept: Path,
    *,
    rate: float,
    settle: Callable[[], None] | None = None,
    turned: Sequence[nn.Parameter] = (),
) -> None:
    """AdamW, the learning rate rising for a twentieth of the steps and then falling as a cosine.

    Args:
        loss: the loss of the step of a number, which must follow from the number and the weights alone.
        kept: where what a killed run had reached is kept, until the end.
        rate: the highest learning rate.
        settle: called after each step, to keep a weight within bounds.
        turned: matrices that Muon fits instead, whose steps are as near to orthogonal as can be (Jordan et al. 2024); a small
            transformer learns the same in about half of the steps.
    """
    other = [value for value in learner.parameters() if not any(value is each for each in turned)]
    decayed, plain = [value for value in other if value.ndim > 1], [value for value in other if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]
    if turned:
        optimizers.append(torch.optim.Muon(list(turned), lr=TURNING, weight_decay=0.05))
    rising = max(1, steps // 20)
    schedules: list[Any] = [
        torch.optim.lr_scheduler.LambdaLR(
            each, lambda step: min((step + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rising) / max(1, steps - rising)))
        )
        for each in optimizers
    ]
    state = {"learner": learner, **{f"part {number}": part for number, part in enumerate((*optimizers, *schedules))}}
    first, losses, saved = _resumed(kept, state), [], time.monotonic()
    learner.train()
    for step in progress(range(first, steps), text=f"training from step {first}"):
        found = loss(step)
        learner.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for each in optimizers:
            each.step()
        for each in schedules:
            each.step()
        if settle is not None:
            settle()
        losses.append(found.item())
        if (step + 1) % TOLD == 0:
            print(f"step {step + 1}/{steps}: loss {sum(losses[-TOLD:]) / len(losses[-TOLD:]):.4f}", flush=True)
        if time.monotonic() - saved > KEEPING:
            _keep(kept, state, step + 1)
            saved = time.monotonic()
    kept.unlink(missing_ok=True)


def _keep(kept: Path, state: dict[str, Any], step: int) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic(kept) as path:
        torch.save({**{name: each.state_dict() for name, each in state.items()}, "step": step}, path)


def _resumed(kept: Path, state: dict[str, Any]) -> int:
    """Puts back what a killed run had reached, and gives the step to go on with."""
    if not kept.is_file():
        return 0
    found = torch.load(kept, weights_only=True)
    for name, each in state.items():
        each.load_state_dict(found[name])
    return found["step"]
