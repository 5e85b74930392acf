"""Trains the package's English pipeline with spaCy's trainer on a treebank of Universal Dependencies."""

import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from milan.console.command_line import program
from milan.errors import BadInput
from milan.language.text_parsing import preserve_rng_state, read_treebank_files
from milan.storage.files import atomic_write, cache_root, lock_folder
from milan.storage.packaged_data import locate_packaged_data

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

SPLITS = ("train", "dev", "test")
# Most training texts have one sentence, some more, so that the parser learns where a sentence ends.
MAX_SENTENCES = 3
NAME, VERSION = "milan_ewt", "1"


def build(
    treebank: Path,
    out: Path | None = None,
    work: Path | None = None,
    seed: int = 0,
    take_best: bool = False,
    epochs: int | None = None,
) -> None:
    """Train a tagger and a parser, measure them on held-out sentences, and write them with a model card.

    The best model so far is on disk whenever the training is interrupted.

    Args:
        treebank: folder of CoNLL-U files with train, dev and test in their names, such as UD English EWT.
        out: output folder; by default data/language of this installation.
        work: folder of texts and intermediate models; by default a folder in the cache.
        seed: random seed of the order of sentences and of the initial weights.
        take_best: write the best model of an interrupted training, without training.
        epochs: largest number of epochs, if smaller than that of configs/language.yaml.

    Raises:
        BadInput: a file of the treebank is missing, or ``take_best`` finds no model.
    """
    work = work or cache_root() / "language"
    with lock_folder(work), preserve_rng_state():
        texts = {part: read_treebank(treebank, part) for part in SPLITS}
        best = work / "models" / "model-best"
        if not take_best:
            _train(texts, work, seed, epochs)
        if not best.is_dir():
            raise BadInput(f"no model in {best}; run without --take_best")
        _write(best, texts["test"], out or locate_packaged_data("data") / "language")


def read_treebank(folder: Path, part: str) -> "list[Doc]":
    """Return the sentences of one part of a treebank, each as a document.

    Raises:
        BadInput: there is no such file, or it cannot be read.
    """
    files = sorted(file for file in Path(folder).glob("*.conllu") if part in file.name)
    if not files:
        raise BadInput(f"no *{part}*.conllu in {folder}; give the folder of a treebank of Universal Dependencies")
    return read_treebank_files(files)


def evaluate_pipeline(language: "Language", sentences: "Sequence[Doc]", lower: bool = False) -> dict[str, float]:
    """Return tagging accuracy, and unlabelled and labelled attachment without punctuation, in percent.

    Args:
        language: the pipeline, which gets the treebank's own tokens.
        sentences: annotated sentences.
        lower: whether the sentences are put in lower case without a full stop at the end, as descriptions are.
    """
    from spacy.tokens import Doc
    from spacy.training import Example

    examples = []
    for sentence in sentences:
        reference = _to_description(sentence) if lower else sentence
        words, spaces = [token.text for token in reference], [bool(token.whitespace_) for token in reference]
        examples.append(Example(Doc(language.vocab, words=words, spaces=spaces), reference))
    scores = language.evaluate(examples)
    keys = {"tagging": "pos_acc", "unlabelled attachment": "dep_uas", "labelled attachment": "dep_las"}
    return {name: round(100 * scores[key], 2) for name, key in keys.items()}


def _to_description(sentence: "Doc") -> "Doc":
    """Return the sentence in lower case, without the full stop."""
    from spacy.tokens import Doc

    last = sentence[-1]
    size = len(sentence) - (len(sentence) > 1 and last.text == "." and last.head.i != last.i)
    tokens = list(sentence)[:size]
    heads = [token.head.i for token in tokens]
    if any(head >= size for head in heads):
        return sentence
    return Doc(
        sentence.vocab,
        words=[token.text.lower() for token in tokens],
        spaces=[bool(token.whitespace_) for token in tokens],
        pos=[token.pos_ for token in tokens],
        heads=heads,
        deps=[token.dep_ for token in tokens],
    )


def _train(texts: "dict[str, list[Doc]]", work: Path, seed: int, epochs: int | None) -> None:
    from spacy.tokens import DocBin
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train

    models = work / "models"
    models.mkdir(parents=True, exist_ok=True)
    for part, docs in {"train": _group_sentences(texts["train"], seed), "dev": texts["dev"]}.items():
        DocBin(attrs=["POS", "HEAD", "DEP", "SENT_START", "SPACY"], docs=docs).to_disk(work / f"{part}.spacy")
    started = monotonic()
    train(init_nlp(_load_config(work, seed, epochs, len(texts["train"]))), models, stdout=sys.stdout, stderr=sys.stderr)
    print(f"trained in {monotonic() - started:.0f} s", flush=True)


def _load_config(work: Path, seed: int, epochs: int | None, sentences: int) -> Any:
    import yaml
    from spacy.language import DEFAULT_CONFIG

    settings = yaml.safe_load(locate_packaged_data("configs/language.yaml").read_text(encoding="utf-8"))
    for part in ("train", "dev"):
        settings["corpora"][part]["path"] = str(work / f"{part}.spacy")
    settings["training"] |= {"seed": seed, "train_corpus": "corpora.train", "dev_corpus": "corpora.dev"}
    settings["training"]["max_epochs"] = min(settings["training"]["max_epochs"], epochs or sys.maxsize)
    # A small treebank is evaluated more often.
    settings["training"]["eval_frequency"] = min(settings["training"]["eval_frequency"], max(1, sentences // 10))
    return DEFAULT_CONFIG.merge(settings)


def _group_sentences(sentences: "Sequence[Doc]", seed: int) -> "Iterator[Doc]":
    """Yield texts of one to three consecutive sentences; half of the texts have one."""
    from spacy.tokens import Doc

    rng, at = random.Random(seed), 0
    while at < len(sentences):
        count = rng.choice([1, 1, 2, MAX_SENTENCES])
        yield Doc.from_docs(list(sentences[at : at + count]))
        at += count


def _write(best: Path, test: "Sequence[Doc]", out: Path) -> None:
    """Write the model with its scores and its card, completely or not at all."""
    import spacy

    language = spacy.load(best)
    language.meta.update(
        name=NAME,
        version=VERSION,
        license="CC BY-SA 4.0",
        description="Tagger and parser trained on UD English EWT",
        author="milan",
    )
    scores = {
        "as written": evaluate_pipeline(language, test),
        "in small letters, without full stop": evaluate_pipeline(language, test, lower=True),
    }
    language.meta["performance"] = scores
    # The paths of the training texts.
    for part in ("train", "dev"):
        language.config["corpora"][part]["path"] = None
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    language.to_disk(partial)
    facts = {
        "treebank": "UD English EWT",
        "test sentences": len(test),
        "scores in percent": scores,
        "spacy": spacy.__version__,
    }
    with atomic_write(partial / "scores.json") as file:
        file.write_text(json.dumps(facts, indent=1) + "\n")
    with atomic_write(partial / "README.md") as file:
        file.write_text(_format_card(facts, scores))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    print(f"{out}: scores on test sentences in percent: {scores}", flush=True)


def _format_card(facts: dict[str, Any], scores: dict[str, dict[str, float]]) -> str:
    rows = "".join(
        f"| {way} | {' | '.join(f'{value:.1f}' for value in each.values())} |\n" for way, each in scores.items()
    )
    return f"""# English tagger and parser

A spaCy pipeline (spaCy {facts["spacy"]}): one embedding, a tagger of universal parts of speech, a parser of \
universal dependencies.
`milan.language` takes it where no `en_core_web_*` is installed. Made by `python -m milan.language build --treebank \
FOLDER`.

| {facts["test sentences"]} test sentences, % | {" | ".join(next(iter(scores.values())))} |
| --- | --- | --- | --- |
{rows}
Measured on the treebank's own tokens; attachment leaves punctuation out, as spaCy's scorer does. The treebank is \
of weblogs, mails,
newsgroups, answers and reviews: in short descriptions of pictures the pipeline errs more, and what a report counts \
with it is an estimate.

**Licence: CC BY-SA 4.0.** The English Web Treebank (UniversalDependencies/UD_English-EWT) is under CC BY-SA 4.0. \
These weights were made
from it and are passed on under the same terms: who shares them, changed or not, names the treebank and keeps the \
licence. The package's
code is MIT and is not touched by that; to be free of the condition, install one of spaCy's own pipelines or leave \
this folder out.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run ``python -m milan.language build`` with these arguments and return the exit status."""
    text = "Train an English tagger and parser on a treebank, with spaCy's trainer."
    return program("python -m milan.language build", text, build, words, "build")


if __name__ == "__main__":
    sys.exit(main())
