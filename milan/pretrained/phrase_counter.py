"""A program that counts phrases, in place of a language model. It understands nothing."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from milan.pretrained.llm import Llm, Question
from milan.storage.files import content_key

NOTE = (
    "no language model, but a program that counts phrases in what one would have been given (llm: phrases); it reads"
    " nothing, so that it names only words that are there, and never what they have in common"
)
FUNCTION_WORD_LIST = """a an the this that these those some any each every all both several many few two three four
five six seven eight nine ten
of in on at by with without from to into onto over under above below behind before beside between near next for
against as and or
but not no nor is are was were be been being has have having had do does did there here it its they them their he she
his her him
who which what where when while very quite other another one out up down off front top side left right middle
background foreground says say word letter photo photograph image view close closeup shot sitting standing laying
lying looking
showing shown seen using wearing holding made"""
FUNCTION_WORDS = frozenset(FUNCTION_WORD_LIST.split())
OPENING_PATTERN = re.compile(
    r"^(there (is|are)|this is|(an?|the)? ?(close ?-?up |black and white )?(photo(graph)?|picture|image|view|shot)"
    r" of)\b",
    re.I,
)
MAX_PHRASE_WORDS = 4  # words of a phrase, as of SAND's concepts
MAX_PHRASES = 3  # phrases of an explanation at most
MIN_WEIGHT_SHARE = 0.15  # share of the weight that each of them must account for
AGAINST = "against"


@dataclass(frozen=True)
class Phrase:
    """Words that occur together in texts."""

    words: tuple[str, ...]  # as they are compared: without the s of a plural
    text: str
    texts: frozenset[int]  # which texts have them


class PhraseCounter(Llm):
    """Answers every question by counting: which words, and words with the last of their phrase, occur in how many
    texts.

    To simplify, it leaves out function words. To summarize, it gives the phrases that most texts share, longer ones
    preferred (share of the texts times log2 of one more than the words), a further one for each draw, one of which is
    of two phrases that share few texts. To explain, it gives up to three phrases that account for most of the weights.
    To simulate, it gives the share of a text's words that the explanation has.
    """

    name = "phrases"
    is_cacheable = False
    note = NOTE

    def __init__(self) -> None:
        self.key = content_key(llm="phrases", version=2)

    def answer(self, question: Question, attempt: int = 0) -> str:
        """Return the answer that counting gives, by the question's task; ``attempt`` changes nothing."""
        texts = [text for text, _ in question.items]
        if question.task == "simplify":
            return simplify_caption(" ".join(texts))
        if question.task == "summarize":
            return summarize(texts, question.sample_index)
        if question.task == "explain":
            return explain(question.items)
        return "\n".join(
            f"{text}\t{simulate(question.explanation, text, signed=_is_signed(question))}" for text in texts
        )


def simplify_caption(text: str) -> str:
    """Return a caption's phrases without the words between them.

    >>> simplify_caption("a picture of a red striped car in front of the house")
    'red striped car and house'
    """
    simplified = " and ".join(" ".join(run) for run in _split_runs(text))
    return simplified or text.strip() or "nothing"


def summarize(texts: Sequence[str], sample_index: int = 0) -> str:
    """Return a phrase that most texts share, another one for each sample.

    >>> [summarize(["red car and house", "red bus", "a blue car"], draw) for draw in range(3)]
    ['red', 'car', 'red and car']
    """
    ranked = _rank_phrases(find_phrases(texts), dict.fromkeys(range(len(texts)), 1.0))
    if not ranked:
        return texts[sample_index % len(texts)] if texts else "nothing"
    choices = [phrase.text for phrase in ranked]
    if pair := _join_best_pair(ranked):
        choices.insert(2, pair)
    return choices[min(sample_index, len(choices) - 1)]


def explain(items: Sequence[tuple[str, int]]) -> str:
    """Return the phrases that explain most of the integers above 0 and, after "against", of those below 0.

    >>> explain([("red car", 9), ("red bus", 8), ("blue dog", 1), ("green dog", 1)])
    'red'
    """
    texts = [text for text, _ in items]
    phrases = find_phrases(texts)
    sides = []
    for sign in (1, -1):
        weights = {place: float(sign * value) for place, (_, value) in enumerate(items) if sign * value > 0}
        sides.append(
            _join_list(
                _select_explaining(phrases, weights)
                or [texts[place] for place in sorted(weights, key=lambda at: -weights[at])[:MAX_PHRASES]]
            )
        )
    supporting, against = sides
    return f"{supporting}, {AGAINST} {against}".removeprefix(", ") if against else supporting or "nothing"


def simulate(explanation: str, text: str, *, signed: bool = False) -> int:
    """Return the predicted activation of a unit with that explanation on a text, 0..10, or -10..10 if signed.

    >>> simulate("red cars and dogs", "a red car at the beach"), simulate("cars, against dogs", "dog", signed=True)
    (7, -10)
    """
    supporting, _, against = explanation.partition(f" {AGAINST} ")
    own = [_stem_word(word) for run in _split_runs(text) for word in run]
    if not own:
        return 0
    towards, away = ({_stem_word(word) for run in _split_runs(part) for word in run} for part in (supporting, against))
    share = (sum(word in towards for word in own) - signed * sum(word in away for word in own)) / len(own)
    return math.floor(10 * max(share, -1.0) + 0.5)


def find_phrases(texts: Sequence[str]) -> list[Phrase]:
    """Return each distinct phrase with the texts that have it: runs of up to four words, and a word with its run's last
    one.
    """
    where: dict[tuple[str, ...], set[int]] = {}
    forms: dict[tuple[str, ...], Counter[str]] = {}
    for place, text in enumerate(texts):
        for words in dict.fromkeys(words for run in _split_runs(text) for words in _subphrases(run)):
            stems = tuple(map(_stem_word, words))
            where.setdefault(stems, set()).add(place)
            forms.setdefault(stems, Counter())[" ".join(words)] += 1
    return [Phrase(stems, _most_common(forms[stems]), frozenset(places)) for stems, places in where.items()]


def _subphrases(run: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the phrases in a run of words."""
    candidates = [
        tuple(run[start:end])
        for start in range(len(run))
        for end in range(start + 1, min(start + MAX_PHRASE_WORDS, len(run)) + 1)
    ]
    return candidates + [(word, run[-1]) for word in run[:-2]]


def _rank_phrases(phrases: Sequence[Phrase], weights: dict[int, float]) -> list[Phrase]:
    """Return phrases of more than one text by descending weight; of similar ones in the same texts only the first."""
    total = sum(weights.values()) or 1.0

    def weight(phrase: Phrase) -> float:
        return sum(weights.get(place, 0.0) for place in phrase.texts) / total * math.log2(1 + len(phrase.words))

    shared = [phrase for phrase in phrases if len(phrase.texts) > 1 and weight(phrase) > 0]
    ranked = sorted(shared, key=lambda phrase: -weight(phrase))
    best: list[Phrase] = []
    for phrase in ranked:
        alike = (other for other in best if other.texts == phrase.texts and set(other.words) & set(phrase.words))
        if not any(alike):
            best.append(phrase)
    return best


def _join_best_pair(ranked: Sequence[Phrase]) -> str:
    """Return the first phrase joined with the one that adds most texts; empty if none adds any."""
    first = ranked[0]
    rest = [phrase for phrase in ranked[1:] if phrase.texts - first.texts and not set(phrase.words) & set(first.words)]
    if not rest:
        return ""
    return f"{first.text} and {max(rest, key=lambda phrase: len(phrase.texts - first.texts)).text}"


def _select_explaining(phrases: Sequence[Phrase], weights: dict[int, float]) -> list[str]:
    """Return phrases chosen greedily, each by the weight of the texts that earlier ones do not cover."""
    selected: list[str] = []
    left, total = dict(weights), sum(weights.values())
    while len(selected) < MAX_PHRASES:
        ranked = [phrase for phrase in _rank_phrases(phrases, left) if len(phrase.texts & left.keys()) > 1]
        if not ranked or sum(left.get(place, 0.0) for place in ranked[0].texts) < MIN_WEIGHT_SHARE * total:
            break
        selected.append(ranked[0].text)
        left = {place: value for place, value in left.items() if place not in ranked[0].texts}
    return selected


def _split_runs(text: str) -> list[list[str]]:
    """Return the runs of words between function words and punctuation, in lower case.

    >>> _split_runs("A red car, and 2 dogs at the beach")
    [['red', 'car'], ['2', 'dogs'], ['beach']]
    """
    runs: list[list[str]] = [[]]
    for token in re.findall(r"[^\W_][\w'’-]*|[^\w\s]", OPENING_PATTERN.sub("", text.strip().lower())):
        if token in FUNCTION_WORDS or not token[0].isalnum():
            runs.append([])
        else:
            runs[-1].append(token)
    return [run for run in runs if run]


def _stem_word(word: str) -> str:
    """
    >>> [_stem_word(word) for word in ("dogs", "buses", "berries", "grass", "bus")]
    ['dog', 'bus', 'berry', 'grass', 'bus']
    """
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _most_common(forms: Counter[str]) -> str:
    return min(forms, key=lambda form: (-forms[form], form))


def _join_list(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _is_signed(question: Question) -> bool:
    """Whether the question asks for negative integers too, as only prompts with both signs do."""
    return f" {AGAINST} " in question.explanation
