"""What an answer in words says, or that it is none: refusals, errors, tables of data, other languages and talk are not descriptions."""

import json
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus

from milan.command import clean
from milan.pretrained.asking import ENGLISH, Unreadable
from milan.pretrained.chat_markup import final_answer

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
LEAD = re.compile(
    r"^(the main thing (that )?)?(this|the)? ?(neuron|unit)?( \d+)?( does)?( is)?( (finds?|looks? for|detects?|responds? to|to find))+"
    r"(:| that)?\s+",
    re.IGNORECASE,
)
LETTERS = 12  # of a word at most, in the mean
SHOWN = 60  # signs of a line that an error shows


def a_label(most: int, language: str = ENGLISH) -> Callable[[str], str]:
    """Read a short name of at most ``most`` words: one line, without number, quotation marks, label and full stop.

    >>> a_label(8)('```\\n1. Label: "Red cars."\\n```')
    'Red cars'

    Args:
        most: words.
        language: that was asked for; where it is English, an answer in letters that are not Latin is refused.
    """

    def read(reply: str) -> str:
        text = _line(reply, most)
        text = re.sub(r"^(\(?\d+[.)]|[-*•])\s+", "", text)
        # "Label: red cars" (Describe-and-Dissect's code, notes 1.3), also with the wide colon of Chinese and Japanese.
        named = re.split("[:：]", text, maxsplit=1)
        text = named[-1].strip() or named[0]
        return _sane(text.strip(" \"'`*“”‘’").rstrip(".。").strip(" \"'`“”‘’"), most, language)

    return read


def an_explanation(most: int, language: str = ENGLISH) -> Callable[[str], str]:
    """Read what a unit looks for, in at most ``most`` words, without what it goes on from ("this neuron looks for").

    >>> an_explanation(60)("The main thing this neuron does is find red cars.")
    'red cars'

    Args:
        most: words.
        language: as of ``a_label``.
    """

    def read(reply: str) -> str:
        text = LEAD.sub("", _line(reply, most).strip(" \"'`*“”‘’")).strip()
        return _sane(re.sub(r"^([^.。]*)[.。]$", r"\1", text), most, language)

    return read


def integers(texts: Sequence[str], low: int = 0, high: int = 10) -> Callable[[str], list[int]]:
    """Reads one integer for each text from lines of text, tab, integer; the lines may be numbered, but must be all there and in order.

    >>> integers(["a cat", "a dog"])("<start>\\na cat\\t3\\na dog\\t0\\n<end>")
    [3, 0]
    """

    def read(reply: str) -> list[int]:
        lines = [line.strip() for line in _unfenced(reply).splitlines()]
        lines = [line for line in lines if line and line not in ("<start>", "<end>", "Activations:", "Weights:")]
        if len(lines) != len(texts):
            raise Unreadable(f"{len(lines)} lines for {len(texts)} texts")
        return [_integer(line, text, low, high) for line, text in zip(lines, texts, strict=True)]

    return read


def _integer(line: str, text: str, low: int, high: int) -> int:
    found = re.search(r"[\s:=]\**([-+−]?\d{1,9})\**$", line)
    if found is None or text not in line[: found.start()]:
        raise Unreadable(f"{clean(line[:SHOWN])!r} is not {text[:SHOWN]!r} and an integer")
    value = int(found[1].replace("−", "-"))
    if not low <= value <= high:
        raise Unreadable(f"{value} for {text[:SHOWN]!r} is not within {low} and {high}")
    return value


def _unfenced(reply: str) -> str:
    """The answer itself, without the fence of a code block, and out of a JSON object of one text."""
    text = final_answer(reply)
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):
        language, _, code = text[3:-3].partition("\n")
        text = (code if re.fullmatch(r"[\w-]*", language.strip()) and code else text[3:-3]).strip()
    if text[:1] in ("{", "["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise Unreadable("broken JSON") from None
        if isinstance(found, dict) and len(found) == 1 and isinstance(value := next(iter(found.values())), str):
            return value.strip()
        raise Unreadable("JSON that is not one text")
    return text


def _line(reply: str, most: int) -> str:
    """The only line, as it is kept."""
    lines = [line.strip() for line in _unfenced(reply).splitlines() if line.strip()]
    if not lines:
        raise Unreadable("nothing")
    if len(lines) > 1:
        raise Unreadable(f"{len(lines)} lines, where one was asked for")
    if len(lines[0]) > 2 * LETTERS * most:
        raise Unreadable(f"{len(lines[0])} letters, where at most {most} words were asked for")
    return clean(lines[0])


def _sane(text: str, most: int, language: str) -> str:
    """The text, if it is one that can stand as a description."""
    words = text.split()
    if not words:
        raise Unreadable("nothing")
    if len(words) > most or len(text) > LETTERS * most:
        raise Unreadable(f"{len(words)} words, where at most {most} were asked for")
    if REFUSAL.match(text) or FAILURE.search(text):
        raise Unreadable("a refusal or an error")
    if re.search(r"<[/!]?\w+[^>]*>|^\s*<|[{}\t]", text):
        raise Unreadable("markup")
    letters = [sign for sign in text if sign.isalpha()]
    if not letters or (language == ENGLISH and sum(sign.isascii() for sign in letters) < 0.8 * len(letters)):
        raise Unreadable(f"another language than {language}")
    return text
