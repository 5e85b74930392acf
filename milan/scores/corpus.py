"""What the words of a corpus of descriptions are like, layer by layer: Table 5 of MILAN (Hernandez et al. 2022, appendix A)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from milan.diorama.names import LETTERS
from milan.harvest import LEXICON, load_parser
from milan.units import Unit

SPOKEN = {
    "NOUN": "things areas regions surfaces color colors views shapes patterns stripes lines bands waves zigzag zigzags zig zag checks "
    "checkerboard grid mesh ripples speckle speckles spots textures edges parts places details top bottom left right plants plant animals "
    "animal creatures vehicles vehicle furniture furnishings architecture structures objects object backgrounds background land terrain "
    "dots text words word letters letter writing lettering pattern texture",
    "ADJ": "different various random many colorful bright shaded vertical horizontal diagonal slanted slanting crossed wavy checkered "
    "checked polka dotted speckled grainy smooth uniform solid striped stripy patterned textured written",
}  # what annotators say besides the words of Diorama's sentences, which are all that the lexicon knows; a letter by itself is a noun too
PARTS = {word: part for part, words in SPOKEN.items() for word in words.split()} | dict.fromkeys(LETTERS[1:], "NOUN")


@dataclass(frozen=True)
class Corpus:
    """Statistics of descriptions: units, different words, words per description, and the percentage of all words that are nouns, ...

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


def corpus(said: Mapping[Unit, Sequence[str]], parser: str = LEXICON) -> dict[str, Corpus]:
    """Statistics of each layer, in the order in which layers first occur, and of ``"total"``.

    Args:
        said: descriptions by unit, several of each.
        parser: what tells parts of speech, see ``milan.harvest.load_parser``; the lexicon knows the words of Diorama alone, and these
            without error; ``ours`` is the pipeline of ``milan.language``, for any other words.
    """
    layers: dict[str, dict[Unit, Sequence[str]]] = {}
    for unit, texts in said.items():
        layers.setdefault(unit.layer, {})[unit] = texts
    known = _tagged((text for texts in said.values() for text in texts), parser)
    return {layer: _corpus(units, known) for layer, units in {**layers, "total": dict(said)}.items()}


Tagged = dict[str, list[tuple[str, str]]]


def _tagged(texts: Iterable[str], parser: str) -> Tagged:
    """The words of each text, in lower case and without punctuation, with their parts of speech ("" if not known)."""
    different = list(dict.fromkeys(texts))
    found: Tagged = {}
    for text, doc in zip(different, load_parser(parser).pipe(different, batch_size=256), strict=True):
        tokens = [token for token in doc if any(sign.isalnum() for sign in token.text)]
        spoken = PARTS if parser == LEXICON else {}
        found[text] = [(token.lower_, token.pos_ or spoken.get(token.lower_, "")) for token in tokens]
    return found


def _corpus(said: Mapping[Unit, Sequence[str]], known: Tagged) -> Corpus:
    texts = [text for each in said.values() for text in each]
    words = Counter(word for text in texts for word in known[text])
    total = max(1, words.total())
    parts: Counter[str] = Counter()
    for (_, part), count in words.items():
        parts["NOUN" if part == "PROPN" else part] += count

    def share(part: str) -> float:
        return round(100 * parts[part] / total, 1)

    different = len({word for word, _ in words})
    length = round(words.total() / max(1, len(texts)), 1)
    return Corpus(len(said), len(texts), different, length, share("NOUN"), share("ADJ"), share("ADP"), share(""))


def corpus_table(networks: Mapping[str, Mapping[str, Corpus]]) -> str:
    """The statistics of networks in Markdown, with the columns of the paper's Table 5."""
    rows = ["| network | layer | units | words | length | % noun | % adj | % prep |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for network, layers in networks.items():
        for layer, each in layers.items():
            cells = (each.units, each.words, each.length, each.nouns, each.adjectives, each.prepositions)
            rows.append(f"| {network} | {layer} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows) + "\n"
