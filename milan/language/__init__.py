"""Parse English with spaCy: parts of speech and dependencies.

An installed ``en_core_web_*`` pipeline is used if there is one, else the pipeline that comes with the package. It was
trained on the English Web Treebank of Universal Dependencies; ``data/language/README.md`` has its accuracy and
licence.
"""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from milan.errors import BadInput, UnknownName
from milan.storage.packaged_data import locate_packaged_data

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Span

PACKAGED_PIPELINE = "ours"  # the pipeline in data/language
PREFERRED_PIPELINES = ("en_core_web_lg", "en_core_web_trf", "en_core_web_md", "en_core_web_sm")  # the 2022 code took lg
NOUN_TAGS = frozenset({"NOUN", "PROPN"})
# Dependents before a noun that are not part of its phrase.
_LEADING_DEPENDENCIES = frozenset({"case", "cc", "mark", "cop", "aux", "punct", "advmod", "discourse"})
# Nouns that are part of another noun's phrase.
_INNER_DEPENDENCIES = frozenset({"compound", "flat", "fixed", "goeswith", "amod", "nummod"})


@cache
def load_pipeline(name: str = "") -> "Language":
    """Load a pipeline with a tagger and a parser.

    Args:
        name: an installed pipeline, the folder of one, or ``ours`` for the one in ``data/language``. By default the
            first installed of ``en_core_web_lg``, ``_trf``, ``_md`` and ``_sm``, else ``ours``.

    Raises:
        UnknownName: the pipeline is neither installed nor a folder.
        BadInput: the pipeline has no parser.
    """
    import spacy

    name = name or find_default_pipeline()
    try:
        language = spacy.load(
            locate_packaged_data("data/language") if name == PACKAGED_PIPELINE else name, exclude=["ner"]
        )
    except OSError:
        raise UnknownName(
            "spaCy pipeline",
            name,
            [PACKAGED_PIPELINE, *spacy.util.get_installed_models()],
            f"install it with `python -m spacy download {name}`, or give {PACKAGED_PIPELINE}",
        ) from None
    if "parser" not in language.pipe_names:
        raise BadInput(
            f"the spaCy pipeline {name} has no parser (it has {', '.join(language.pipe_names) or 'no parts'}); give"
            f" {PACKAGED_PIPELINE}"
        )
    if _uses_universal_dependencies(language):
        language.vocab.get_noun_chunks = find_noun_chunks
    return language


def find_default_pipeline() -> str:
    """Return the first installed of ``PREFERRED_PIPELINES``, else ``ours``."""
    from spacy.util import get_installed_models

    return next((each for each in PREFERRED_PIPELINES if each in get_installed_models()), PACKAGED_PIPELINE)


def format_pipeline_name(language: "Language") -> str:
    """Return name and version of a pipeline for reports, such as ``en_milan_ewt 1``."""
    return f"{language.meta['lang']}_{language.meta['name']} {language.meta['version']}"


def find_noun_chunks(doc: "Doc | Span") -> "Iterator[tuple[int, int, int]]":
    """Yield noun phrases by Universal Dependencies as start, end and label.

    spaCy's own function expects the dependency labels of its own pipelines.
    """
    label = doc.vocab.strings.add("NP")
    for token in doc:
        if token.pos_ not in NOUN_TAGS or token.dep_.partition(":")[0] in _INNER_DEPENDENCIES:
            continue
        start = token.i
        lefts = [left for left in token.lefts if left.dep_.partition(":")[0] not in _LEADING_DEPENDENCIES]
        while lefts and lefts[-1].right_edge.i == start - 1:
            start = lefts.pop().left_edge.i
        yield start, token.i + 1, label


def _uses_universal_dependencies(language: "Language") -> bool:
    return "obl" in language.get_pipe("parser").labels
