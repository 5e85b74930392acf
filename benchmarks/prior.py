"""The prior's perplexity on held-out units of real annotations, against counted n-grams on the same split and
vocabulary.

    python -m benchmarks.prior ../shared/data/milannotations/resnet152_imagenet.csv --out FOLDER

Split by unit, so that no other annotation of a held-out unit is seen; words that occur once in the training texts are
<unk> for all; each text is scored with its end. The discount of the Kneser-Ney trigram is the best of four on the
held-out texts, in its favour.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from nltk.lm import KneserNeyInterpolated

from milan.cli.train import train
from milan.models import Prior
from milan.models.data_module import MilannotationsDataModule

DISCOUNTS = (0.1, 0.5, 0.75, 0.9)
Ids = Sequence[int]


def perplexity(texts: Sequence[Ids], log_of: Callable[[Ids, int], float]) -> float:
    """Exponential of the mean negative log probability of a token; ``log_of(before, token)``."""
    logs = [log_of(text[:place], token) for text in texts for place, token in enumerate(text)]
    return math.exp(-sum(logs) / len(logs))


def unigram(texts: Sequence[Ids], words: int) -> Callable[[Ids, int], float]:
    """Add-one."""
    counts = Counter(token for text in texts for token in text)
    total = sum(counts.values()) + words
    return lambda _, token: math.log((counts[token] + 1) / total)


def trigram(texts: Sequence[Ids], words: Sequence[str], discount: float) -> Callable[[Ids, int], float]:
    """Interpolated Kneser-Ney of nltk."""
    model = KneserNeyInterpolated(3, discount=discount)
    sentences = [["<s>", "<s>", *(words[token] for token in text)] for text in texts]
    grams = [[tuple(one[i : i + n]) for n in (1, 2, 3) for i in range(len(one) - n + 1)] for one in sentences]
    model.fit(grams, vocabulary_text=[word for one in sentences for word in one] + ["<unk>"])

    def log_of(before: Ids, token: int) -> float:
        context = ["<s>", "<s>", *(words[one] for one in before)][-2:]
        return math.log(model.score(words[token], context))

    return log_of


def prior_perplexity(model: Prior, texts: Sequence[Ids]) -> float:
    longest = max(map(len, texts))
    tokens = torch.tensor([[*text, *[model.vocabulary.stop] * (longest - len(text))] for text in texts])
    return math.exp(-float(model.score(tokens).sum()) / sum(map(len, texts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", help="csv of layer, unit, summary")
    parser.add_argument("--out", required=True, help="folder of the training run; a finished one is not done again")
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    options = parser.parse_args()
    config = Path(__file__).parents[1] / "configs" / "prior.yaml"
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    sizes = ["--model.hidden=512", "--model.embedding=128", f"--trainer.max_epochs={options.epochs}"]
    train(
        [
            "fit",
            f"--config={config}",
            f"--data.folders=['{options.annotations}']",
            f"--out={options.out}",
            *sizes,
            *quiet,
        ]
    )
    data, model = MilannotationsDataModule([options.annotations], encoder=None), Prior.from_pretrained(options.out)
    vocabulary = data.vocabulary
    assert model.vocabulary == vocabulary
    split = data.split
    seen, held_out = (
        [vocabulary.encode(text) for one in part for text in one.texts] for part in (split.train, split.held_out)
    )
    words = [*vocabulary.words, "<start>", "<stop>", "<pad>", "<unk>"]
    unknown = sum(token == vocabulary.unk for text in held_out for token in text)
    tokens = sum(map(len, held_out))
    counted = {discount: perplexity(held_out, trigram(seen, words, discount)) for discount in DISCOUNTS}
    discount = min(counted, key=lambda one: counted[one])
    print(
        f"\n{len(split.train)} units ({len(seen)} texts) seen, {len(split.held_out)} units ({len(held_out)} texts,"
        f" {tokens} tokens,"
    )
    print(
        f"{unknown} of them <unk>) held out; {len(vocabulary)} words with specials; {model.trained_on['epochs']}"
        " epochs\n"
    )
    print("| | perplexity of a held-out token |\n| --- | --- |")
    print(
        f"| unigram, add-one | {perplexity(held_out, unigram(seen, len(words) - 2)):.1f} |"
    )  # neither <start> nor <pad> is ever said
    print(f"| trigram, interpolated Kneser-Ney (discount {discount}) | {counted[discount]:.1f} |")
    print(f"| prior: LSTM of two layers | {prior_perplexity(model, held_out):.1f} |")


if __name__ == "__main__":
    main()
