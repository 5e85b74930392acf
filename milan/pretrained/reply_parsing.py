"""Parsers of a language model's replies: names, sentences, integers and structured descriptions.

A reply that is a refusal, an error, markup, another language or chat around the answer is no description: the parsers
raise ``UnparsableReply``.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.pretrained.chat_markup import final_answer
from milan.pretrained.llm_client import ENGLISH, UnparsableReply

REFUSAL = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry\b|i (can ?not|can'?t|am unable|am not able|won'?t|do not have|don'?t have)"
    r"|as an? (ai|language model)\b|unfortunately\b|my apologies)",
    re.IGNORECASE,
)
# What servers and proxies answer in place of a model: "Bad Gateway" alone, or "503 Service Unavailable" anywhere.
_STATUS = "|".join(re.escape(each.phrase) for each in HTTPStatus if each >= 400 and " " in each.phrase)
FAILURE = re.compile(
    "|".join(
        (
            rf"^\W*(null|none|nan|n/?a|undefined|error|{_STATUS})\W*$",
            rf"\b[45]\d\d\W{{1,3}}({_STATUS})",
            r"^\W*error\s*([:!(#\d]|code\b)",
            r"\berror (occurred|while|code|\d)",
            r"\b(had|hit|encountered|returned|raised) an? (\w+ )?error\b",
            r"\b(server|service|model|endpoint)( is)?( currently| temporarily)? (overloaded|unavailable|not ready)\b",
            r"\bmodel\b.{0,60} is (currently )?loading\b",
            r"\b(request|connection|gateway) (timed? ?-?out|refused|reset|aborted|error)\b",
            r"\b(too many requests|rate limit|quota exceeded|exceeded (\w+ ){0,3}quota)",
            r"\b(no healthy upstream|upstream connect|something went wrong|try again|out of memory)\b",
            r"\b(invalid|incorrect) api key\b",
        )
    ),
    re.IGNORECASE,
)
LEAD_IN_PATTERN = re.compile(
    r"^(the main thing (that )?)?(this|the)? ?(neuron|unit)?( \d+)?( does)?( is)?( (finds?|looks?"
    r" for|detects?|responds? to|to find))+"
    r"(:| that)?\s+",
    re.IGNORECASE,
)
MAX_WORD_LETTERS = 12  # mean letters of a word
SHOWN_CHARACTERS = 60  # of a line that an error message quotes
MAX_ALTERNATIVES = 5  # kept of a structured reply
NOTHING = re.compile(r"^\W*(nothing|no)( obvious| clear)? (in )?common\b", re.IGNORECASE)
_CANDIDATE = {
    "type": "object",
    "properties": {"description": {"type": "string"}, "confidence": {"type": "number"}},
    "required": ["description", "confidence"],
    "additionalProperties": False,
}
# JSON schema of what ``make_structured_parser`` reads, for endpoints that constrain replies.
STRUCTURED_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "nothing_in_common": {"type": "boolean"},
            **_CANDIDATE["properties"],  # type: ignore[dict-item]
            "alternatives": {"type": "array", "items": _CANDIDATE},
        },
        "required": ["nothing_in_common", "description", "confidence", "alternatives"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class StructuredDescription:
    """What a structured reply says.

    Attributes:
        candidates: descriptions with confidences of 0..1, most confident first; empty if the reply says that there is
            nothing to describe.
    """

    candidates: tuple[tuple[str, float], ...] = ()


def make_label_parser(max_words: int, language: str = ENGLISH) -> Callable[[str], str]:
    """Return a parser of short names: one line, without its number, quotation marks, label and full stop.

    >>> make_label_parser(8)('```\\n1. Label: "Red cars."\\n```')
    'Red cars'

    Args:
        max_words: maximal number of words.
        language: language that was asked for; if it is English, replies in other than Latin letters are refused.
    """

    def parse(reply: str) -> str:
        text = _extract_line(reply, max_words)
        text = re.sub(r"^(\(?\d+[.)]|[-*•])\s+", "", text)
        # "Label: red cars" (Describe-and-Dissect's code), also with the wide colon of Chinese and Japanese.
        named = re.split("[:：]", text, maxsplit=1)
        text = named[-1].strip() or named[0]
        return _check_description(text.strip(" \"'`*“”‘’").rstrip(".。").strip(" \"'`“”‘’"), max_words, language)

    return parse


def make_explanation_parser(max_words: int, language: str = ENGLISH) -> Callable[[str], str]:
    """Return a parser of explanations: one line, without a lead-in such as "this neuron looks for".

    >>> make_explanation_parser(60)("The main thing this neuron does is find red cars.")
    'red cars'

    Args:
        max_words: maximal number of words.
        language: as in ``make_label_parser``.
    """

    def parse(reply: str) -> str:
        return _check_description(_strip_lead_in(_extract_line(reply, max_words)), max_words, language)

    return parse


def make_structured_parser(max_words: int, language: str = ENGLISH) -> Callable[[str], StructuredDescription]:
    """Return a parser of JSON objects of ``STRUCTURED_SCHEMA``, whatever text stands around the object.

    Alternatives that are no descriptions are dropped.

    >>> reply = '{"description": "Red cars.", "confidence": 0.5, "alternatives": []}'
    >>> make_structured_parser(30)(f"Here you are: ```json {reply} ```").candidates
    (('Red cars', 0.5),)

    Args:
        max_words: maximal number of words of a description.
        language: as in ``make_label_parser``.
    """

    def parse(reply: str) -> StructuredDescription:
        fields = _extract_object(reply)
        text = fields.get("description")
        if fields.get("nothing_in_common") is True or (isinstance(text, str) and NOTHING.match(text)):
            return StructuredDescription()
        candidates = [_parse_candidate(fields, max_words, language)]
        others = fields.get("alternatives") or []
        if not isinstance(others, list):
            raise UnparsableReply("its alternatives are no list")
        for other in others[:MAX_ALTERNATIVES]:
            try:
                candidates.append(_parse_candidate(other, max_words, language))
            except UnparsableReply:
                continue
        once: dict[str, tuple[str, float]] = {}
        for text, confidence in candidates:
            once.setdefault(text.lower(), (text, confidence))
        # The sort is stable: the description stays before alternatives of the same confidence.
        ranked = sorted(once.values(), key=lambda candidate: -candidate[1])
        return StructuredDescription(tuple(ranked))

    return parse


def make_integer_parser(texts: Sequence[str], low: int = 0, high: int = 10) -> Callable[[str], list[int]]:
    """Return a parser of one line for each text: the text, a tab and an integer, all of them and in order.

    >>> make_integer_parser(["a cat", "a dog"])("<start>\\na cat\\t3\\na dog\\t0\\n<end>")
    [3, 0]

    Args:
        texts: the texts; lines may be numbered.
        low: smallest integer that is accepted.
        high: largest integer that is accepted.
    """

    def parse(reply: str) -> list[int]:
        lines = [line.strip() for line in _strip_fence(reply).splitlines()]
        lines = [line for line in lines if line and line not in ("<start>", "<end>", "Activations:", "Weights:")]
        if len(lines) != len(texts):
            raise UnparsableReply(f"{len(lines)} lines for {len(texts)} texts")
        return [_parse_integer(line, text, low, high) for line, text in zip(lines, texts, strict=True)]

    return parse


def _parse_integer(line: str, text: str, low: int, high: int) -> int:
    match = re.search(r"[\s:=]\**([-+−]?\d{1,9})\**$", line)
    if match is None or text not in line[: match.start()]:
        raise UnparsableReply(
            f"{clean_text(line[:SHOWN_CHARACTERS])!r} is not {text[:SHOWN_CHARACTERS]!r} and an integer"
        )
    value = int(match[1].replace("−", "-"))
    if not low <= value <= high:
        raise UnparsableReply(f"{value} for {text[:SHOWN_CHARACTERS]!r} is not within {low} and {high}")
    return value


def _parse_candidate(fields: Any, max_words: int, language: str) -> tuple[str, float]:
    """Return description and confidence of an object of a structured reply."""
    text, confidence = (
        (fields.get("description"), fields.get("confidence")) if isinstance(fields, dict) else (None, None)
    )
    if not isinstance(text, str):
        raise UnparsableReply("it has no text as description")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        raise UnparsableReply(f"its confidence {str(confidence)[:SHOWN_CHARACTERS]} is no number from 0 to 1")
    if len(text) > 2 * MAX_WORD_LETTERS * max_words:
        raise UnparsableReply(f"{len(text)} letters, where at most {max_words} words were asked for")
    return _check_description(_strip_lead_in(clean_text(text)), max_words, language), float(confidence)


def _extract_object(reply: str) -> dict[str, Any]:
    """Return the JSON object that begins at the first brace of the reply; what follows it is ignored."""
    text = final_answer(reply)
    start = text.find("{")
    if start < 0:
        raise UnparsableReply("there is no JSON object in it")
    try:
        parsed, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        raise UnparsableReply("broken JSON") from None
    return dict(parsed)


def _strip_fence(reply: str) -> str:
    """Return the answer itself, without the fence of a code block, and out of a JSON object of one text."""
    text = final_answer(reply)
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        language, _, code = text[3:-3].partition("\n")
        text = (code if re.fullmatch(r"[\w-]*", language.strip()) and code else text[3:-3]).strip()
    if text[:1] in ("{", "["):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            raise UnparsableReply("broken JSON") from None
        if isinstance(parsed, dict) and len(parsed) == 1 and isinstance(value := next(iter(parsed.values())), str):
            return value.strip()
        raise UnparsableReply("JSON that is not one text")
    return text


def _strip_lead_in(line: str) -> str:
    """Return the line without a lead-in, quotation marks, and the full stop of its only sentence."""
    text = LEAD_IN_PATTERN.sub("", line.strip(" \"'`*“”‘’")).strip()
    return re.sub(r"^([^.。]*)[.。]$", r"\1", text)


def _extract_line(reply: str, max_words: int) -> str:
    """Return the only line of the reply, without control characters."""
    lines = [line.strip() for line in _strip_fence(reply).splitlines() if line.strip()]
    if not lines:
        raise UnparsableReply("it is empty")
    if len(lines) > 1:
        raise UnparsableReply(f"{len(lines)} lines, where one was asked for")
    if len(lines[0]) > 2 * MAX_WORD_LETTERS * max_words:
        raise UnparsableReply(f"{len(lines[0])} letters, where at most {max_words} words were asked for")
    return clean_text(lines[0])


def _check_description(text: str, max_words: int, language: str) -> str:
    """Return the text if it can stand as a description; raise ``UnparsableReply`` otherwise."""
    words = text.split()
    if not words:
        raise UnparsableReply("it is empty")
    if len(words) > max_words or len(text) > MAX_WORD_LETTERS * max_words:
        raise UnparsableReply(f"{len(words)} words, where at most {max_words} were asked for")
    if REFUSAL.match(text) or FAILURE.search(text):
        raise UnparsableReply("it is a refusal or an error")
    if re.search(r"<[/!]?\w+[^>]*>|^\s*<|[{}\t]", text):
        raise UnparsableReply("it is markup")
    letters = [sign for sign in text if sign.isalpha()]
    if not letters or (language == ENGLISH and sum(sign.isascii() for sign in letters) < 0.8 * len(letters)):
        raise UnparsableReply(f"it is not in {language}")
    return text
