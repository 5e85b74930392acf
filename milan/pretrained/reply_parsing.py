"""What an answer in words says, or that it is none: refusals, errors, tables of data, other languages and talk are not
descriptions.
"""

import json
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus

from milan.console.command_line import clean_text
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
LETTERS = 12  # of a word at most, in the mean
SHOWN = 60  # signs of a line that an error shows


def make_label_parser(max_words: int, language: str = ENGLISH) -> Callable[[str], str]:
    """Read a short name of at most ``max_words`` words: one line, without number, quotation marks, label and full stop.

    >>> make_label_parser(8)('```\\n1. Label: "Red cars."\\n```')
    'Red cars'

    Args:
        max_words: words.
        language: that was asked for; where it is English, an answer in letters that are not Latin is refused.
    """

    def read(reply: str) -> str:
        text = _extract_line(reply, max_words)
        text = re.sub(r"^(\(?\d+[.)]|[-*•])\s+", "", text)
        # "Label: red cars" (Describe-and-Dissect's code, notes 1.3), also with the wide colon of Chinese and Japanese.
        named = re.split("[:：]", text, maxsplit=1)
        text = named[-1].strip() or named[0]
        return _check_description(text.strip(" \"'`*“”‘’").rstrip(".。").strip(" \"'`“”‘’"), max_words, language)

    return read


def make_explanation_parser(max_words: int, language: str = ENGLISH) -> Callable[[str], str]:
    """Read what a unit looks for, in at most ``max_words`` words, without what it goes on from ("this neuron looks
    for").

    >>> make_explanation_parser(60)("The main thing this neuron does is find red cars.")
    'red cars'

    Args:
        max_words: words.
        language: as of ``make_label_parser``.
    """

    def read(reply: str) -> str:
        text = LEAD_IN_PATTERN.sub("", _extract_line(reply, max_words).strip(" \"'`*“”‘’")).strip()
        return _check_description(re.sub(r"^([^.。]*)[.。]$", r"\1", text), max_words, language)

    return read


def make_integer_parser(texts: Sequence[str], low: int = 0, high: int = 10) -> Callable[[str], list[int]]:
    """Reads one integer for each text from lines of text, tab, integer; the lines may be numbered, but must be all
    there and in order.

    >>> make_integer_parser(["a cat", "a dog"])("<start>\\na cat\\t3\\na dog\\t0\\n<end>")
    [3, 0]
    """

    def read(reply: str) -> list[int]:
        lines = [line.strip() for line in _strip_fence(reply).splitlines()]
        lines = [line for line in lines if line and line not in ("<start>", "<end>", "Activations:", "Weights:")]
        if len(lines) != len(texts):
            raise UnparsableReply(f"{len(lines)} lines for {len(texts)} texts")
        return [_parse_integer(line, text, low, high) for line, text in zip(lines, texts, strict=True)]

    return read


def _parse_integer(line: str, text: str, low: int, high: int) -> int:
    found = re.search(r"[\s:=]\**([-+−]?\d{1,9})\**$", line)
    if found is None or text not in line[: found.start()]:
        raise UnparsableReply(f"{clean_text(line[:SHOWN])!r} is not {text[:SHOWN]!r} and an integer")
    value = int(found[1].replace("−", "-"))
    if not low <= value <= high:
        raise UnparsableReply(f"{value} for {text[:SHOWN]!r} is not within {low} and {high}")
    return value


def _strip_fence(reply: str) -> str:
    """The answer itself, without the fence of a code block, and out of a JSON object of one text."""
    text = final_answer(reply)
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        language, _, code = text[3:-3].partition("\n")
        text = (code if re.fullmatch(r"[\w-]*", language.strip()) and code else text[3:-3]).strip()
    if text[:1] in ("{", "["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise UnparsableReply("broken JSON") from None
        if isinstance(found, dict) and len(found) == 1 and isinstance(value := next(iter(found.values())), str):
            return value.strip()
        raise UnparsableReply("JSON that is not one text")
    return text


def _extract_line(reply: str, most: int) -> str:
    """The only line, as it is kept."""
    lines = [line.strip() for line in _strip_fence(reply).splitlines() if line.strip()]
    if not lines:
        raise UnparsableReply("nothing")
    if len(lines) > 1:
        raise UnparsableReply(f"{len(lines)} lines, where one was asked for")
    if len(lines[0]) > 2 * LETTERS * most:
        raise UnparsableReply(f"{len(lines[0])} letters, where at most {most} words were asked for")
    return clean_text(lines[0])


def _check_description(text: str, max_words: int, language: str) -> str:
    """The text, if it is one that can stand as a description."""
    words = text.split()
    if not words:
        raise UnparsableReply("nothing")
    if len(words) > max_words or len(text) > LETTERS * max_words:
        raise UnparsableReply(f"{len(words)} words, where at most {max_words} were asked for")
    if REFUSAL.match(text) or FAILURE.search(text):
        raise UnparsableReply("a refusal or an error")
    if re.search(r"<[/!]?\w+[^>]*>|^\s*<|[{}\t]", text):
        raise UnparsableReply("markup")
    letters = [sign for sign in text if sign.isalpha()]
    if not letters or (language == ENGLISH and sum(sign.isascii() for sign in letters) < 0.8 * len(letters)):
        raise UnparsableReply(f"another language than {language}")
    return text
