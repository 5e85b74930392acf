"""Seconds of one training step of the captioner at batch 64 from cached features, sizes as in MILAN's paper, lengths as
in MILANNOTATIONS.

    python -m benchmarks.training_step [--rounds 5]

Captions have 1 to 14 words, 4.05 in the mean, as those of the 2022 measurement (its loop ran 14.2 steps for each
batch); one step is loss, backward pass and AdamW. The 2022 code's figure was taken on the same kind of machine with the
same sizes.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoding import EXEMPLARS, FEATURES, WORDS, measure_rate, peak
from benchmarks.table import Row
from milan.models import CaptionBatch, Captioner, attention_lstm, captioner
from milan.models.lightning_modules import make_training_module

BATCH, MEAN_WORDS, LONGEST = 64, 4.05, 14
OFFICIAL = 1.57  # seconds of the 2022 code


def captions(model: Captioner) -> torch.Tensor:
    """Random words, the numbers of words geometric with the right mean, one caption of the greatest length."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.empty(BATCH).geometric_(1 / MEAN_WORDS, generator=rng).clamp_(1, LONGEST).long()
    lengths[0] = LONGEST
    tokens = torch.randint(WORDS, (BATCH, LONGEST + 1), generator=rng)
    steps = torch.arange(LONGEST + 1)
    tokens[steps == lengths.unsqueeze(1)] = model.vocabulary.stop
    tokens[steps > lengths.unsqueeze(1)] = model.vocabulary.pad
    return tokens


def train_steps(model: Captioner, batch: CaptionBatch, steps: int) -> float:
    """Return the CPU seconds of one training step, the mean of ``steps``."""
    optimizer = make_training_module(model).configure_optimizers()
    start = time.process_time()
    for _ in range(steps):
        model.train().loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - start) / steps


def run_by_autograd(*given: Any) -> Any:
    """Run the captioner's steps as ``run_teacher_forced`` does, with the gradient of autograd."""
    return attention_lstm._run_forward(*given, torch.matmul)[:2]


def rows(scale: float) -> list[Row]:
    """Return the CPU seconds of a step, and of epochs with the hand-written gradient and with ordinary autograd.

    The two take turns of four steps on one thread. An epoch has 165 steps and a validation of 390 units: three captions
    a unit and a tenth of the units held out, as in MILAN's paper.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Captioner([f"word{index}" for index in range(WORDS)], features=FEATURES)
    batch = CaptionBatch(torch.rand(BATCH, EXEMPLARS, FEATURES), captions(model))
    with FlopCounterMode(display=False) as count:
        train_steps(model, batch, 1)
    runs = {"by hand": captioner.run_teacher_forced, "autograd": run_by_autograd}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for name in list(runs) * max(4, round(10 * scale)):
            captioner.run_teacher_forced = runs[name]
            seconds[name].append(train_steps(model, batch, 4))
    finally:
        captioner.run_teacher_forced = runs["by hand"]
    units = batch.features.repeat(7, 1, 1)[:390]
    start = time.process_time()
    model.eval().decode_greedily(units)
    validation = time.process_time() - start
    by_hand, autograd = (165 * statistics.median(times) + validation for times in seconds.values())
    step, floor, peer = min(seconds["by hand"]), count.get_total_flops() / measure_rate(), f"2022: {OFFICIAL} s"
    what = "captioner's epoch of 165 steps and its validation, hand-written gradient"
    return [
        Row(f"captioner's training step, batch {BATCH}", step, floor, "its matrix products", None, "CPU s", peer),
        Row(what, by_hand, autograd, "ordinary autograd", 0.8, "CPU s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="the fastest of so many steps counts")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Captioner([f"word{index}" for index in range(WORDS)], features=FEATURES).train()
    batch = CaptionBatch(torch.rand(BATCH, EXEMPLARS, FEATURES), captions(model))
    optimizer = make_training_module(model).configure_optimizers()

    def step() -> list[float]:
        start = time.perf_counter()
        loss = model.loss(batch)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        end = time.perf_counter()
        return [end - start, forward - start, backward - forward, end - backward]

    with FlopCounterMode(display=False) as count:
        step()
    whole, forward, backward, update = min(step() for _ in range(options.rounds))
    words = float((batch.tokens < WORDS).sum() / BATCH)
    print("| | figure |\n| --- | --- |")
    print(f"| captions | {BATCH}, {words:.2f} words in the mean, {batch.tokens.shape[1]} steps |")
    print(f"| training step | {whole:.2f} s (loss {forward:.2f}, backward {backward:.2f}, AdamW {update:.2f}) |")
    print(f"| against the 2022 code | {OFFICIAL / whole:.1f} times as fast ({OFFICIAL} s) |")
    flops = count.get_total_flops()
    print(f"| matrix products | {flops / 1e9:.0f} GFLOP, {flops / peak():.2f} s at the rate of a large one |")


if __name__ == "__main__":
    main()
