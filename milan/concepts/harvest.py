"""Concepts harvested from texts: the nouns, noun phrases, verbs and adjectives of captions and product texts.

SAND (Srinivas et al. 2025, appendix A.1) makes its concept set in this way from captions of COCO and product texts of
Amazon-Berkeley Objects, without phrases longer than four words.
"""

import gzip
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milan.console.progress import track_progress
from milan.diorama.scene_vocabulary import ADJECTIVES, COLOURS, KINDS, SETTINGS, SYNONYMS, pluralize
from milan.diorama.scenes import draw_scene
from milan.diorama.sentences import RELATION_PHRASES, generate_sentences
from milan.errors import BadInput, UnknownName
from milan.language import PACKAGED_PIPELINE, load_pipeline
from milan.language.text_parsing import preserve_rng_state, read_treebank_files
from milan.storage.files import cache_folder, content_key

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

LEXICON = "lexicon"
TREEBANK_PREFIX = "treebank:"
MIN_OCCURRENCES = 3  # rarer phrases are mostly errors of spelling or of the parser
MAX_WORDS = 4  # words of a concept (SAND, appendix A.1)
HARVESTED_SCENES = (
    1500  # of Diorama, whose sentences are harvested; more of them add few phrases that occur three times
)
NOUN_TAGS = {"NOUN", "PROPN"}
CONTENT_TAGS = {*NOUN_TAGS, "VERB", "ADJ"}
SKIPPED_TAGS = {"DET", "PRON", "NUM", "PUNCT", "ADP", "CCONJ", "SPACE", "AUX"}  # what a concept does not begin with
PRODUCT_FIELDS = (
    "item_name",
    "bullet_point",
    "product_description",
    "item_keywords",
    "color",
    "pattern",
    "material",
    "style",
)
EPOCHS = 3
BATCH_SIZE = 32  # sentences in a step of training


def harvest_phrases(
    texts: Iterable[str], *, spacy_model: str = LEXICON, minimum: int = MIN_OCCURRENCES, max_words: int = MAX_WORDS
) -> dict[str, int]:
    """Return the phrases in texts with their counts, most frequent first, then alphabetically.

    Phrases are in lower case and without punctuation.

    Args:
        texts: sentences, captions, product texts.
        spacy_model: spaCy pipeline that finds phrases, see ``load_tagger``.
        minimum: minimum number of occurrences.
        max_words: maximum number of words.
    """
    counted: Counter[str] = Counter()
    for doc in load_tagger(spacy_model).pipe(texts, batch_size=256):
        counted.update(phrase for phrase in iter_phrases(doc) if len(phrase.split()) <= max_words)
    frequent = [(phrase, count) for phrase, count in counted.items() if count >= minimum]
    return dict(sorted(frequent, key=lambda item: (-item[1], item[0])))


def iter_phrases(doc: "Doc") -> Iterator[str]:
    """Yield the concepts in one text: nouns, verbs (as lemmas, if the parser has them), adjectives and noun phrases."""
    for token in doc:
        if token.pos_ in CONTENT_TAGS:
            yield from _clean_phrase(token.lemma_ if token.pos_ == "VERB" and token.lemma_ else token.text)
    for chunk in _find_noun_chunks(doc):
        words = list(chunk)
        while words and words[0].pos_ in SKIPPED_TAGS:
            words.pop(0)
        if len(words) > 1:
            yield from _clean_phrase(" ".join(word.text for word in words if word.pos_ != "PUNCT"))


def load_tagger(spec: str = LEXICON) -> "Language":
    """Load a spaCy pipeline that finds parts of speech, and noun phrases if it has a parser.

    Args:
        spec: the name of an installed pipeline (``en_core_web_sm``, the published way) or the folder of one;
            ``lexicon``, which needs no download: spaCy's tokenizer and a list of the words of Diorama's sentences with
            their parts of speech, no model, so that it knows no other words; ``ours``, the pipeline of
            ``milan.language``; or ``treebank:FOLDER``, a tagger that spaCy trains on the CoNLL-U files there, once, and
            keeps in the cache. Lexicon and treebank do not parse: a noun phrase is then a run of adjectives and nouns
            that ends in a noun.

    Raises:
        UnknownName: the pipeline is neither installed nor a folder.
        BadInput: the pipeline finds no parts of speech, or the treebank cannot be read.
    """
    if spec == LEXICON:
        return _build_lexicon()
    if spec.startswith(TREEBANK_PREFIX):
        return _load_trained_tagger(Path(spec.removeprefix(TREEBANK_PREFIX)).expanduser())
    if spec == PACKAGED_PIPELINE:
        return load_pipeline(PACKAGED_PIPELINE)
    import spacy

    try:
        parser = spacy.load(spec, exclude=["ner"])
    except (OSError, ValueError, ImportError) as error:
        if Path(spec).is_dir():
            raise BadInput(f"no spaCy pipeline in {spec}: {' '.join(str(error).split())[:200]}") from None
        taggers = [LEXICON, PACKAGED_PIPELINE, "treebank:FOLDER", *spacy.util.get_installed_models()]
        raise UnknownName(
            "spaCy pipeline",
            spec,
            taggers,
            f"install it with `python -m spacy download {spec}`, or give {PACKAGED_PIPELINE} or {LEXICON}",
        ) from None
    if not {"tagger", "morphologizer", "attribute_ruler"} & set(parser.pipe_names):
        raise BadInput(
            f"the spaCy pipeline {spec} finds no parts of speech (it has {', '.join(parser.pipe_names) or 'no parts'})"
        )
    return parser


def train_tagger(treebank: Path, *, epochs: int = EPOCHS, seed: int = 0) -> "Language":
    """Train a tagger of universal parts of speech on a treebank with spaCy.

    Args:
        treebank: folder of CoNLL-U files, as Universal Dependencies publishes them; those with ``train`` in their name
            are used, or all if there are none.
        epochs: number of passes over the sentences.
        seed: random seed of their order and of the initial weights.

    Raises:
        BadInput: there is no CoNLL-U file, or it cannot be read.
    """
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example
    from spacy.util import fix_random_seed, minibatch

    tagger = spacy.blank("en")
    tagger.add_pipe("morphologizer")  # of which only the parts of speech are used
    sentences = _read_treebank(treebank)
    examples = [
        Example(Doc(tagger.vocab, words=[token.text for token in doc]), _keep_tags(doc, tagger)) for doc in sentences
    ]
    with preserve_rng_state():
        fix_random_seed(seed)
        optimizer = tagger.initialize(lambda: examples[:2000])
        for _ in track_progress(range(epochs), description=f"training a tagger on {len(examples)} sentences"):
            random.shuffle(examples)
            for batch in minibatch(examples, BATCH_SIZE):
                tagger.update(batch, sgd=optimizer, drop=0.1)
    return tagger


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts in a file of captions or products.

    A text file has one in each line; ``.json`` is COCO's (``annotations`` with a ``caption`` each); ``.jsonl``,
    ``.json.gz`` and ``.jsonl.gz`` hold a product in each line, as Amazon-Berkeley Objects' listings do, of which the
    English names, descriptions, keywords, colours, patterns, materials and styles are taken, or an object with
    ``caption`` or ``text``.

    Raises:
        BadInput: the file cannot be read as such.
    """
    try:
        if path.suffix == ".json":
            yield from (str(each["caption"]) for each in json.loads(path.read_text(encoding="utf-8"))["annotations"])
            return
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")
        ) as lines:
            listed = ".json" in path.suffixes or ".jsonl" in path.suffixes
            for line in lines:
                if line.strip():
                    yield from _product_texts(json.loads(line)) if listed else [line.strip()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"no captions or product texts in {path}: {type(error).__name__} {error}") from None


def generate_diorama_sentences(scenes: int = HARVESTED_SCENES) -> list[str]:
    """Return two sentences about each of Diorama's first scenes, which replace captions by people."""
    return [sentence for index in range(scenes) for sentence in generate_sentences(draw_scene(index), 2)]


def _product_texts(entry: Any) -> Iterator[str]:
    """Yield the English texts of one product, or the text of one caption."""
    yield from (entry[name] for name in ("caption", "text") if isinstance(entry.get(name), str))
    for name in PRODUCT_FIELDS:
        for each in entry.get(name) or ():
            if isinstance(each, dict) and str(each.get("language_tag", "en")).startswith("en") and each.get("value"):
                yield str(each["value"])


def _clean_phrase(text: str) -> Iterator[str]:
    """Yield the phrase in lower case with letters, digits, hyphens and apostrophes only; nothing without a letter."""
    words = [word.strip("-'") for word in re.findall(r"[^\W_][\w'-]*", text.lower().replace("’", "'"))]
    cleaned = [word for word in words if any(sign.isalpha() for sign in word)]
    if cleaned and any(len(word) > 1 for word in cleaned):
        yield " ".join(cleaned)


def _find_noun_chunks(doc: "Doc") -> "Iterable[Span]":
    """Return noun phrases: the parser's, else the longest runs of adjectives and nouns that end in a noun."""
    if doc.has_annotation("DEP"):
        return doc.noun_chunks
    from spacy.util import filter_spans

    return filter_spans(_build_matcher(doc.vocab)(doc, as_spans=True))


@cache
def _build_matcher(vocab: Any) -> Any:
    from spacy.matcher import Matcher

    matcher = Matcher(vocab)
    before = {"POS": {"IN": ["ADJ", *sorted(NOUN_TAGS)]}, "OP": "+"}
    matcher.add("phrase", [[{"POS": "ADV", "OP": "?"}, before, {"POS": {"IN": sorted(NOUN_TAGS)}}]], greedy="LONGEST")
    return matcher


@cache
def _build_lexicon() -> "Language":
    """Build spaCy's English tokenizer with the part of speech of every word in Diorama's sentences."""
    import spacy

    parser = spacy.blank("en")
    ruler = parser.add_pipe("attribute_ruler")
    for word, part in _word_tags().items():
        ruler.add([[{"LOWER": word}]], {"POS": part})
    return parser


def _word_tags() -> dict[str, str]:
    nouns = {name for kind in ("object", "part") for name in KINDS[kind]} | set(SETTINGS)
    nouns |= {form for name in nouns for word in (name, *SYNONYMS.get(name, ())) for form in (word, pluralize(word))}
    looks = [*COLOURS, *ADJECTIVES.values(), *(word for name in COLOURS for word in SYNONYMS.get(name, ()))]
    parts = dict.fromkeys(_split_words(nouns), "NOUN") | dict.fromkeys(_split_words(looks), "ADJ")
    parts |= dict.fromkeys(("horizontally", "vertically", "diagonally"), "ADV")
    parts |= dict.fromkeys(
        _split_words([*(word for words in RELATION_PHRASES.values() for word in words), "at in with of"]), "ADP"
    ) | dict.fromkeys(("a", "an", "the"), "DET")
    return parts | {"orange": "ADJ", "says": "VERB", "is": "AUX", "there": "PRON", "that": "PRON", "and": "CCONJ"}


def _split_words(phrases: Iterable[str]) -> set[str]:
    return {word for phrase in phrases for word in re.split(r"[ -]", phrase) if word}


def _load_trained_tagger(treebank: Path) -> "Language":
    """Return the tagger of a treebank, from the cache if it was trained before."""
    import spacy

    files = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(treebank.glob("*.conllu"))}
    place = cache_folder() / "taggers" / content_key(files=files, epochs=EPOCHS, spacy=spacy.__version__)
    if not place.is_dir():
        tagger = train_tagger(treebank)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            tagger.to_disk(Path(folder) / "tagger")
            with suppress(OSError):  # another process has put the same there meanwhile
                (Path(folder) / "tagger").rename(place)
    return spacy.load(place)


def _read_treebank(folder: Path) -> "list[Doc]":
    """Return the sentences of the training files."""
    files = sorted(folder.glob("*.conllu"))
    files = [file for file in files if "train" in file.name] or files
    if not files:
        raise BadInput(f"no treebank in {folder} (looked for *.conllu); give a folder of Universal Dependencies")
    return read_treebank_files(files)


def _keep_tags(doc: "Doc", tagger: "Language") -> "Doc":
    from spacy.tokens import Doc

    return Doc(tagger.vocab, words=[token.text for token in doc], pos=[token.pos_ for token in doc])
