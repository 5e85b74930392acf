"""Neurons described a second: beam 50, 15 steps, vocabulary 5,000, hidden 512, 15 x 3,904 features, batch 16, reranked
by the prior.

    python -m benchmarks.decoding [--batch 16] [--rounds 5]

The captioner's weights are random and it never says <stop>, so that all 15 steps are taken. The arithmetic is counted
two ways: as if every beam paid for every step, and as it is here, where the beams that grow out of one state share its
attention, gate and matrix products, and texts that begin alike share the prior's. The 2022 code's figure was taken on
the same kind of machine with the same sizes.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch

from benchmarks.table import Row
from milan.describers.milan import Milan
from milan.dissection.loading import load_dissection
from milan.models import Captioner, Prior
from milan.models.decoding import MAX_STEPS, DecodedTexts, TokenConstraints, beam_search
from milan.models.reranking import rank_texts
from milan.storage.packaged_data import locate_packaged_data

WORDS, HIDDEN, EMBEDDING, FEATURES, EXEMPLARS, BEAM = 4996, 512, 128, 3904, 15, 50
OFFICIAL = 1.61  # neurons a second of the 2022 code, same sizes, 2 cores


def best_of(rounds: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak() -> float:
    """Operations a second of a large 32-bit matrix product, as this machine does them now."""
    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    torch.mm(one, other)
    return 2 * 2048**3 / best_of(5, lambda: torch.mm(one, other))


def measure_cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_rate() -> float:
    """Return the operations of a large matrix product in a CPU second of one thread."""
    one, other = torch.randn(2048, 2048), torch.randn(2048, 2048)
    torch.mm(one, other)
    return 2 * 2048**3 / measure_cpu(lambda: torch.mm(one, other))


class Count:
    """Adds up the operations of every matrix product done within the block."""

    def __enter__(self) -> "Count":
        from torch.utils.flop_counter import FlopCounterMode

        self._mode = FlopCounterMode(display=False)
        self._mode.__enter__()
        return self

    def __exit__(self, *fault: object) -> None:
        self._mode.__exit__(None, None, None)
        self.total = self._mode.get_total_flops()


def unshared(batch: int) -> int:
    """Operations if every beam paid for every step and every text for every token of the prior."""
    gates, words = 4 * HIDDEN, WORDS + 4
    step = (
        HIDDEN * HIDDEN
        + EXEMPLARS * (HIDDEN + FEATURES)
        + HIDDEN * FEATURES
        + (EMBEDDING + FEATURES + HIDDEN) * gates
        + HIDDEN * words
    )
    prior = (EMBEDDING + 3 * HIDDEN) * gates + HIDDEN * words
    return (
        2
        * batch
        * (step * (1 + BEAM * (MAX_STEPS - 1)) + prior * BEAM * MAX_STEPS + FEATURES * HIDDEN * (EXEMPLARS + 2))
    )


def models() -> tuple[Captioner, Prior]:
    torch.manual_seed(0)
    words = [f"word{index}" for index in range(WORDS)]
    captioner, prior = Captioner(words, features=FEATURES).eval(), Prior(words).eval()
    with torch.no_grad():
        captioner.readout.bias[captioner.vocabulary.stop] = -1e4  # random weights, and no end before the last step
    return captioner, prior


def trained(batch: int, rounds: int) -> float:
    """Neurons a second of the captioner and prior trained on Diorama, on units it describes, where beams end early."""
    describer = Milan(captioner="diorama")
    layer = load_dissection(locate_packaged_data("data/diorama/annotations") / "resnet-objects" / "layer4")
    exemplars = [layer.exemplars(unit) for unit in layer.active_units()[: 4 * batch]]
    features = torch.stack([describer.models.encoder.encode(one.images, one.masks) for one in exemplars]).split(batch)
    return sum(map(len, features)) / best_of(rounds, lambda: [describer.search(one) for one in features])


def rows(scale: float) -> list[Row]:
    """Return the CPU seconds for a unit when no beam ends early, relative to its products at the rate of a large one.

    Both run on one thread, in turns.
    """
    torch.set_num_threads(1)
    batch, rounds = 16, max(2, round(5 * scale))
    captioner, prior = models()
    constraints = TokenConstraints(captioner.vocabulary)
    features = torch.rand(batch, EXEMPLARS, FEATURES, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def search() -> None:
        found = beam_search(captioner.start_decoding(features), batch, constraints, beam=BEAM, steps=MAX_STEPS)
        rank_texts(found, found.scores, prior.score(found.tokens), weight=0.2, by="pmi")

    with Count() as count:
        search()
    pairs = [(measure_cpu(search), measure_rate()) for _ in range(rounds)]
    seconds, rate = min(one for one, _ in pairs), max(one for _, one in pairs)
    name = f"beam search of {BEAM} and reranking, 15 steps, a unit of {batch}"
    floor_is = "its matrix products at the rate of a large one"
    peer = f"2022 code: {1 / OFFICIAL:.2f} s"
    return [Row(name, seconds / batch, count.total / rate / batch, floor_is, 1.25, "CPU s", peer)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16, help="units searched for together")
    parser.add_argument("--rounds", type=int, default=5, help="the fastest of so many rounds counts")
    options = parser.parse_args()
    captioner, prior = models()
    speller = TokenConstraints(captioner.vocabulary)
    features = torch.rand(options.batch, EXEMPLARS, FEATURES, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def beams() -> DecodedTexts:
        found = beam_search(captioner.start_decoding(features), options.batch, speller, beam=BEAM, steps=MAX_STEPS)
        assert (found.tokens != captioner.vocabulary.stop).all(), (
            "a beam ended early: this would be no measure of 15 steps"
        )
        return found

    def search() -> None:
        found = beams()
        rank_texts(found, found.scores, prior.score(found.tokens), weight=0.2, by="pmi")

    with Count() as count:
        search()
    found = beams()
    seconds, flops = best_of(options.rounds, search), peak()
    beam = best_of(options.rounds, beams)
    rerank = best_of(options.rounds, lambda: prior.score(found.tokens))
    rate = options.batch / seconds
    print("| | figure |\n| --- | --- |")
    print(
        f"| beam search and reranking, batch {options.batch} | {seconds:.2f} s ({beam:.2f} beam, {rerank:.2f} prior) |"
    )
    print(f"| neurons a second | {rate:.2f} ({rate / OFFICIAL:.1f} times the 2022 code's {OFFICIAL}) |")
    print(
        f"| matrix products done | {count.total / 1e9:.0f} GFLOP ({unshared(options.batch) / 1e9:.0f} if nothing were"
        " shared) |"
    )
    print(f"| a large matrix product here and now | {flops / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads |")
    bound = options.batch * flops / count.total
    print(f"| arithmetic bound | {bound:.1f} neurons a second; reached: {rate / bound:.0%} |")
    print(f"| bound if nothing were shared | {options.batch * flops / unshared(options.batch):.1f} neurons a second |")
    found_rate = trained(options.batch, options.rounds)
    print(
        f"| trained weights, beams end early | {found_rate:.1f} neurons a second (Diorama's, hidden 256, its layer4) |"
    )
    print(f"| peak memory | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB |")


if __name__ == "__main__":
    main()
