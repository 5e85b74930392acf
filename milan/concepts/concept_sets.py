"""Concept sets: the words and phrases that a describer chooses from."""

import json
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from milan.concepts.harvest import (
    LEXICON,
    MIN_OCCURRENCES,
    generate_diorama_sentences,
    harvest_phrases,
    load_tagger,
    read_texts,
)
from milan.console.progress import track_progress
from milan.diorama.concept_texts import list_concept_texts, list_part_texts
from milan.errors import BadInput, MilanWarning, UnknownName
from milan.pretrained.published_models import MissingModel, ModelFacts
from milan.storage.downloads import RemoteFile, fetch, is_downloaded
from milan.storage.files import cache_folder, content_key, is_file
from milan.storage.hub_access import is_reachable
from milan.storage.integrity import made_once
from milan.storage.text_files import parse_json, read_lines

HARVEST_PREFIX = "harvest:"
_GITHUB = "https://raw.githubusercontent.com/Trustworthy-ML-Lab"
# Sets that papers have published, by name: the 20,000 most frequent English words (CLIP-Dissect), and ImageNet's labels
# and superclasses, Broden's labels and 6,800 nouns (Linear Explanations).
PUBLISHED_SETS = {
    "20k": RemoteFile(
        f"{_GITHUB}/CLIP-dissect/21e7697feaea3bf7d7bc2d2cc8e4047d5f5fd502/data/20k.txt", "concepts/20k.txt"
    ),
    "combined_imagenet": RemoteFile(
        f"{_GITHUB}/Linear-Explanations/ff97d8a6f01ff92a8409199365bf975e03b896da"
        "/data/concept_sets/combined_concepts_imagenet.txt",
        "concepts/combined_concepts_imagenet.txt",
        "8d3e69401ce0688b292086330fdba7f156ecdf33decc48fd92a182f24e95aea9",
    ),
}
# Published texts that a set can be harvested from: address, size and licence of the archive that holds each file.
PUBLISHED_TEXTS = {
    "captions_train2017.json": (
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        ModelFacts("about 250 MB", "CC BY 4.0"),
    ),
    "listings_0.json.gz": (
        "https://amazon-berkeley-objects.s3.amazonaws.com/archives/abo-listings.tar",
        ModelFacts("about 83 MB", "CC BY 4.0"),
    ),
}
PUBLISHED_SET_SIZE = "less than 0.2 MB"


def load_concept_set(
    spec: str | Sequence[str], *, spacy_model: str = LEXICON, minimum: int = MIN_OCCURRENCES
) -> list[str]:
    """Load the concepts that ``spec`` names, in order, without empty lines and duplicates, which a warning counts.

    Args:
        spec: ``20k`` or ``combined_imagenet`` (``PUBLISHED_SETS``, downloaded the first time), ``diorama`` (all that
            Diorama shows: single concepts, colour or pattern with object, colour with pattern), ``diorama-parts``
            (colour or pattern with part), the path of a text file with one concept in each line, ``harvest:diorama``
            (phrases of the sentences that describe Diorama's scenes), or ``harvest:FILE`` (phrases of the captions or
            product texts in it, see ``milan.concepts.harvest.read_texts``); several as a list or joined by commas.
        spacy_model: spaCy pipeline that finds the phrases of a harvest, see ``milan.concepts.harvest.load_tagger``.
        minimum: minimum number of occurrences of a harvested phrase.

    Raises:
        UnknownName: there is no such set or file; the text lists the nearest names.
        BadInput: a file cannot be read or downloaded, or no concept is left.
    """
    names = _split_spec(spec)
    texts = [text for name in names for text in _load_one(name, spacy_model, minimum)]
    filled = [clean for text in texts if (clean := " ".join(text.split()))]
    distinct = list(dict.fromkeys(filled))
    empty, repeated = len(texts) - len(filled), len(filled) - len(distinct)
    if empty or repeated:
        warnings.warn(
            f"concept set {', '.join(names)}: dropped {empty} empty lines and {repeated} repeated ones",
            MilanWarning,
            stacklevel=2,
        )
    if not distinct:
        raise BadInput(
            f"concept set {', '.join(names) or repr(spec)} holds no concept; give a file with one in each line"
        )
    return distinct


def find_missing_sets(spec: str | Sequence[str]) -> list[MissingModel]:
    """Return the concept sets and files of ``spec`` that can be neither found nor downloaded."""
    missing = [_find_missing_set(name) for name in _split_spec(spec)]
    return [each for each in missing if each is not None]


def _find_missing_set(name: str) -> MissingModel | None:
    if name in PUBLISHED_SETS:
        remote = PUBLISHED_SETS[name]
        if is_downloaded(remote) or is_reachable(remote.url):
            return None
        facts = ModelFacts(PUBLISHED_SET_SIZE, "not stated by its authors")
        hint = "give a text file with one concept in each line"
        return MissingModel("concept set", name, remote.url, str(remote.path), facts, hint)
    path = Path(name.removeprefix(HARVEST_PREFIX)).expanduser()
    if path.name not in PUBLISHED_TEXTS or path.is_file():
        return None
    url, facts = PUBLISHED_TEXTS[path.name]
    return MissingModel("concept texts", name, url, "", facts, f"download and unpack it, and give {HARVEST_PREFIX}FILE")


def drop_long_texts(texts: Sequence[str], max_words: int = 4) -> list[str]:
    """Return the texts of at most ``max_words`` words.

    >>> drop_long_texts(["red car", "a long tale of a car"])
    ['red car']
    """
    return [text for text in texts if len(text.split()) <= max_words]


def drop_near_duplicates(
    texts: Sequence[str], vectors: Float[Tensor, "texts features"], max_similarity: float = 0.95
) -> list[str]:
    """Return the texts whose unit vectors have at most this cosine with each text kept before them.

    >>> import torch
    >>> drop_near_duplicates(["car", "auto", "dog"], torch.tensor([[1.0, 0.0], [0.99, 0.14], [0.0, 1.0]]))
    ['car', 'dog']
    """
    if len(texts) != len(vectors):
        raise BadInput(f"{len(vectors)} vectors for {len(texts)} texts; give one for each")
    kept_rows: list[int] = []
    for row, vector in enumerate(vectors):
        if not kept_rows or float((vectors[kept_rows] @ vector).max()) <= max_similarity:
            kept_rows.append(row)
    return [texts[row] for row in kept_rows]


def _split_spec(spec: str | Sequence[str]) -> list[str]:
    if not isinstance(spec, str):
        return [name for each in spec for name in _split_spec(each)]
    if is_file(Path(spec.removeprefix(HARVEST_PREFIX)).expanduser()):  # a file may have a comma in its name
        return [spec]
    return [name.strip() for name in spec.split(",") if name.strip()]


def _load_one(name: str, spacy_model: str, minimum: int) -> list[str]:
    if name in NAMED_SETS:
        return NAMED_SETS[name]()
    if name in PUBLISHED_SETS:
        return _listed(fetch(PUBLISHED_SETS[name]))
    if name == f"{HARVEST_PREFIX}diorama":
        return list(_harvest_diorama(spacy_model, minimum))
    path = Path(name.removeprefix(HARVEST_PREFIX)).expanduser()
    if not path.is_file():
        near = (
            [str(path.parent / each.name) for each in sorted(path.parent.glob("*.txt"))] if path.parent.is_dir() else []
        )
        raise UnknownName(
            "concept set",
            name,
            [*NAMED_SETS, *PUBLISHED_SETS, f"{HARVEST_PREFIX}diorama", *near],
            "give one of these, or a text file with a concept per line",
        )
    if name.startswith(HARVEST_PREFIX):
        return _load_cached_harvest(path, spacy_model, minimum)
    return _listed(path)


def _listed(path: Path) -> list[str]:
    """Return the lines of a concept file.

    Raises:
        BadInput: it cannot be read as text, or a line looks like a row of a table or like JSON.
    """
    lines = read_lines(path)
    separators = "\t,;" if path.suffix.lower() in (".csv", ".tsv") else "\t"
    for number, line in enumerate(lines, start=1):
        if any(sign in line for sign in separators) or line.startswith(("[", "{")):
            hint = "give a text file with one concept in each line"
            raise BadInput(f"{path}, line {number}: {line[:60]!r} is not one concept; {hint}")
    return lines


def _load_cached_harvest(path: Path, spacy_model: str, minimum: int) -> list[str]:
    """Return the harvest of a file, from the cache if possible: parsing millions of words takes minutes."""
    about, file = load_tagger(spacy_model).meta, path.stat()
    parser = [spacy_model, *(str(about.get(name)) for name in ("lang", "name", "version", "spacy_version"))]
    key = content_key(path=path.resolve(), size=file.st_size, time=file.st_mtime_ns, parser=parser, minimum=minimum)
    cached_file = cache_folder() / "concepts" / f"{key}.json"

    def make(file: Path) -> None:
        texts = track_progress(read_texts(path), description=f"harvesting {path.name}")
        file.write_text(json.dumps(list(harvest_phrases(texts, spacy_model=spacy_model, minimum=minimum))))

    return made_once(cached_file, make, lambda file: parse_json(file.read_text()))


@cache
def _harvest_diorama(spacy_model: str, minimum: int) -> tuple[str, ...]:
    return tuple(harvest_phrases(generate_diorama_sentences(), spacy_model=spacy_model, minimum=minimum))


NAMED_SETS: dict[str, Callable[[], list[str]]] = {
    "diorama": lambda: list(list_concept_texts()),
    "diorama-parts": lambda: list(list_part_texts()),
}
