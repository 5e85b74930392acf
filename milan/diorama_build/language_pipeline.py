"""Trains the English pipeline that comes with the package: spaCy's own trainer, on a treebank of Universal
Dependencies.
"""

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
MAX_SENTENCES = 3  # sentences of a training text: most have one, some more, so that the parser learns where one ends
NAME, VERSION = "milan_ewt", "1"


def build(
    treebank: Path,
    out: Path | None = None,
    work: Path | None = None,
    seed: int = 0,
    take_best: bool = False,
    epochs: int | None = None,
) -> None:
    """Trains a tagger and a parser, measures them on sentences they have not seen, and writes them with a card.

    The best so far is on disk whenever the training is stopped.

    Args:
        treebank: a folder of CoNLL-U files with train, dev and test in their names, such as UD English EWT
        out: where to; the data/language of this installation unless given
        work: where texts and the training's models are kept; a folder in the cache unless given
        seed: of the order of sentences and of the first weights
        take_best: no training: take the best model of one that was stopped
        epochs: at most so many passes over the sentences, if fewer than in configs/language.yaml
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
    """The sentences of one part of a treebank, each a document.

    Raises:
        BadInput: there is no such file, or it cannot be read.
    """
    files = sorted(file for file in Path(folder).glob("*.conllu") if part in file.name)
    if not files:
        raise BadInput(f"no *{part}*.conllu in {folder}; give the folder of a treebank of Universal Dependencies")
    return read_treebank_files(files)


def evaluate_pipeline(language: "Language", sentences: "Sequence[Doc]", lower: bool = False) -> dict[str, float]:
    """Tagging accuracy, and unlabelled and labelled attachment (without punctuation), in percent, on the treebank's own
    tokens.

    Args:
        language: the pipeline.
        sentences: with the right answers.
        lower: whether it is given small letters and no full stop at the end, as people write descriptions.
    """
    from spacy.tokens import Doc
    from spacy.training import Example

    examples = []
    for right in sentences:
        asked = _to_description(right) if lower else right
        words, spaces = [token.text for token in asked], [bool(token.whitespace_) for token in asked]
        examples.append(Example(Doc(language.vocab, words=words, spaces=spaces), asked))
    scores = language.evaluate(examples)
    return {name: round(100 * scores[key], 2) for name,
        key in (("tagging", "pos_acc"), ("unlabelled attachment", "dep_uas"),
                                                                ("labelled attachment", "dep_las"))}  # fmt: skip


def _to_description(right: "Doc") -> "Doc":
    """The sentence in small letters and without the full stop."""
    from spacy.tokens import Doc

    size = len(right) - (len(right) > 1 and right[-1].text == "." and right[-1].head.i != right[-1].i)
    kept = list(right)[:size]
    heads = [token.head.i for token in kept]
    if any(head >= size for head in heads):
        return right
    return Doc(right.vocab, words=[token.text.lower() for token in kept],
        spaces=[bool(token.whitespace_) for token in kept],
               pos=[token.pos_ for token in kept], heads=heads, deps=[token.dep_ for token in kept])  # fmt: skip


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
    settings["training"]["eval_frequency"] = min(
        settings["training"]["eval_frequency"], max(1, sentences // 10)
    )  # of a small treebank
    return DEFAULT_CONFIG.merge(settings)


def _group_sentences(sentences: "Sequence[Doc]", seed: int) -> "Iterator[Doc]":
    """Texts of one to three sentences that follow each other; every second has one."""
    from spacy.tokens import Doc

    rng, at = random.Random(seed), 0
    while at < len(sentences):
        count = rng.choice([1, 1, 2, MAX_SENTENCES])
        yield Doc.from_docs(list(sentences[at : at + count]))
        at += count


def _write(best: Path, test: "Sequence[Doc]", out: Path) -> None:
    """The model with its scores and its card, whole or not at all."""
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
    for part in ("train", "dev"):  # where the training's texts lay
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
    print(f"{out}: on test sentences, in percent: {scores}", flush=True)


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
    """``python -m milan.language build``: read the options, build, and return the exit status."""
    text = "Trains an English tagger and parser on a treebank, with spaCy's trainer."
    return program("python -m milan.language build", text, build, words, "build")


if __name__ == "__main__":
    sys.exit(main())
