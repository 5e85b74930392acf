"""Seconds of one training step of the captioner at batch 64 from cached features, sizes as in MILAN's paper, lengths as
in MILANNOTATIONS.

    python -m benchmarks.training_step [--rounds 5]

Captions have 1 to 14 words, 4.05 in the mean, as those of the 2022 measurement (its loop ran 14.2 steps for each
batch); one step is loss, backward pass and AdamW. The 2022 code's figure was taken on the same kind of machine with the
same sizes.
"""

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.decoding import EXEMPLARS, FEATURES, WORDS, peak
from milan.models import CaptionBatch, Captioner
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
