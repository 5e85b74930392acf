"""The training loop of the stand-ins, which can be interrupted and resumed."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milan.console.progress import track_progress
from milan.storage.files import atomic_write

CHECKPOINT_SECONDS = 120.0  # seconds between two checkpoints
LOG_STEPS = 200  # steps between two reports of the loss
MUON_LEARNING_RATE = 0.02  # highest learning rate of the matrices that Muon optimizes


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
    """Train with AdamW; the learning rate rises for a twentieth of the steps and then falls as a cosine.

    Args:
        learner: the module that is trained.
        loss: returns the loss of a step, which must depend on the step and the weights alone.
        steps: number of steps.
        checkpoint: file of the checkpoint, which is deleted at the end.
        learning_rate: the highest learning rate.
        after_step: called after each step, to limit weights.
        muon_parameters: matrices that Muon optimizes instead (Jordan et al. 2024); a small transformer then takes about
            half of the steps.
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
        value = loss(step)
        learner.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for each in optimizers:
            each.step()
        for each in schedules:
            each.step()
        if after_step is not None:
            after_step()
        losses.append(value.item())
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
    """Load a checkpoint, if there is one, and return the next step."""
    if not checkpoint.is_file():
        return 0
    values = torch.load(checkpoint, weights_only=True)
    for name, each in state.items():
        each.load_state_dict(values[name])
    return values["step"]
