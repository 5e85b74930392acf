"""Word statistics of descriptions by layer: Table 5 of MILAN (Hernandez et al. 2022, appendix A)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from milan.concepts.harvest import LEXICON, load_tagger
from milan.diorama.scene_vocabulary import LETTERS
from milan.units import Unit

EXTRA_WORDS = {
    "NOUN": (
        "things areas regions surfaces color colors views shapes patterns stripes lines bands waves zigzag zigzags zig"
        " zag checks checkerboard grid mesh ripples speckle speckles spots textures edges parts places details top"
        " bottom left right plants plant animals animal creatures vehicles vehicle furniture furnishings architecture"
        " structures objects object backgrounds background land terrain dots text words word letters letter writing"
        " lettering pattern texture"
    ),
    "ADJ": (
        "different various random many colorful bright shaded vertical horizontal diagonal slanted slanting crossed"
        " wavy checkered checked polka dotted speckled grainy smooth uniform solid striped stripy patterned textured"
        " written"
    ),
    # what annotators say besides the words of Diorama's sentences, which are all that the lexicon knows; a letter by
    # itself is a noun too
}
EXTRA_TAGS = {word: part for part, words in EXTRA_WORDS.items() for word in words.split()} | dict.fromkeys(
    LETTERS[1:], "NOUN"
)


@dataclass(frozen=True)
class CorpusStatistics:
    """Statistics of descriptions: units, different words, words per description, and the percentage of all words that
    are nouns, ...

    unknown: the percentage of words whose part of speech is not known.
    """

    units: int
    descriptions: int
    words: int
    length: float
    nouns: float
    adjectives: float
    prepositions: float
    unknown: float


def compute_corpus_statistics(
    descriptions: Mapping[Unit, Sequence[str]], tagger: str = LEXICON
) -> dict[str, CorpusStatistics]:
    """Return statistics of each layer, in the order in which layers first occur, and of ``"total"``.

    Args:
        descriptions: descriptions by unit, several of each.
        tagger: tagger of parts of speech, see ``milan.concepts.harvest.load_tagger``; the lexicon is exact for the
            words of Diorama and has no others; ``ours`` is the pipeline of ``milan.language``.
    """
    layers: dict[str, dict[Unit, Sequence[str]]] = {}
    for unit, texts in descriptions.items():
        layers.setdefault(unit.layer, {})[unit] = texts
    known = _tag_words((text for texts in descriptions.values() for text in texts), tagger)
    return {
        layer: _compute_statistics(units, known) for layer, units in {**layers, "total": dict(descriptions)}.items()
    }


TaggedTexts = dict[str, list[tuple[str, str]]]


def _tag_words(texts: Iterable[str], tagger: str) -> TaggedTexts:
    """Return each text's words, in lower case without punctuation, and their parts of speech ("" if unknown)."""
    different = list(dict.fromkeys(texts))
    found: TaggedTexts = {}
    for text, doc in zip(different, load_tagger(tagger).pipe(different, batch_size=256), strict=True):
        tokens = [token for token in doc if any(sign.isalnum() for sign in token.text)]
        spoken = EXTRA_TAGS if tagger == LEXICON else {}
        found[text] = [(token.lower_, token.pos_ or spoken.get(token.lower_, "")) for token in tokens]
    return found


def _compute_statistics(descriptions: Mapping[Unit, Sequence[str]], tagged: TaggedTexts) -> CorpusStatistics:
    texts = [text for each in descriptions.values() for text in each]
    words = Counter(word for text in texts for word in tagged[text])
    total = max(1, words.total())
    parts: Counter[str] = Counter()
    for (_, part), count in words.items():
        parts["NOUN" if part == "PROPN" else part] += count

    def share(part: str) -> float:
        return round(100 * parts[part] / total, 1)

    different = len({word for word, _ in words})
    length = round(words.total() / max(1, len(texts)), 1)
    return CorpusStatistics(
        len(descriptions), len(texts), different, length, share("NOUN"), share("ADJ"), share("ADP"), share("")
    )


def format_corpus_table(networks: Mapping[str, Mapping[str, CorpusStatistics]]) -> str:
    """Return the statistics of networks in Markdown, with the columns of the paper's Table 5."""
    rows = [
        "| network | layer | units | words | length | % noun | % adj | % prep |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for network, layers in networks.items():
        for layer, each in layers.items():
            cells = (each.units, each.words, each.length, each.nouns, each.adjectives, each.prepositions)
            rows.append(f"| {network} | {layer} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows) + "\n"
