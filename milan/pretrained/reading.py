"""What an answer in words says, or that it is none: refusals, errors, tables of data, other languages and talk are not descriptions."""

import json
import re
from collections.abc import Callable, Sequence

from milan.command import clean
from milan.pretrained.asking import Unreadable

REFUSES = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry\b|i (can ?not|can'?t|am unable|am not able|won'?t|do not have|don'?t have)|as an ai\b"
    r"|unfortunately\b|my apologies|error\b|internal server error|bad gateway|too many requests|rate limit)",
    re.IGNORECASE,
)
LEAD = re.compile(
    r"^(the main thing (that )?)?(this|the)? ?(neuron|unit)?( \d+)?( does)?( is)?( (finds?|looks? for|detects?|responds? to|to find))+"
    r"(:| that)?\s+",
    re.IGNORECASE,
)
LATIN = re.compile(r"[a-zA-Z]")


def a_label(most: int) -> Callable[[str], str]:
    """Reads a short name of at most ``most`` words: one line, without number, quotation marks, label and full stop.

    >>> a_label(8)('```\\n1. Label: "Red cars."\\n```')
    'Red cars'
    """

    def read(reply: str) -> str:
        text = _line(reply)
        text = re.sub(r"^(\(?\d+[.)]|[-*•])\s+", "", text)
        text = text.partition(":")[2].strip() or text.rstrip(":")  # "Label: red cars" (Describe-and-Dissect's code, notes 1.3)
        return _sane(text.strip(" \"'`*“”‘’").rstrip(".").strip(" \"'`“”‘’"), most)

    return read


def an_explanation(most: int) -> Callable[[str], str]:
    """Reads what a unit looks for, in at most ``most`` words; what it goes on from ("this neuron looks for") is taken off.

    >>> an_explanation(60)("The main thing this neuron does is find red cars.")
    'red cars'
    """

    def read(reply: str) -> str:
        text = _line(reply).strip(" \"'`*“”‘’")
        return _sane(LEAD.sub("", text).strip().removesuffix(".") if text.count(".") <= 1 else LEAD.sub("", text).strip(), most)

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
    found = re.search(r"^(.*?)[\s:=]+\**([-+−]?\d+)\**$", line)
    if found is None or text not in found[1]:
        raise Unreadable(f"{clean(line)[:60]!r} is not {text[:60]!r} and an integer")
    value = int(found[2].replace("−", "-"))
    if not low <= value <= high:
        raise Unreadable(f"{value} for {text[:60]!r} is not within {low} and {high}")
    return value


def _unfenced(reply: str) -> str:
    """Without the fence of a code block, and out of a JSON object of one text."""
    text = reply.strip()
    if fenced := re.fullmatch(r"```[\w-]*\n?(.*?)\n?```", text, re.DOTALL):
        text = fenced[1].strip()
    if text[:1] in "{[" and text:
        try:
            found = json.loads(text)
        except ValueError:
            raise Unreadable("broken JSON") from None
        if isinstance(found, dict) and len(found) == 1 and isinstance(value := next(iter(found.values())), str):
            return value.strip()
        raise Unreadable("JSON that is not one text")
    return text


def _line(reply: str) -> str:
    """The only line, as it is kept."""
    lines = [line.strip() for line in _unfenced(reply).splitlines() if line.strip()]
    if len(lines) != 1:
        raise Unreadable(f"{len(lines)} lines, where one was asked for")
    return clean(lines[0])


def _sane(text: str, most: int) -> str:
    """The text, if it is one that can stand as a description."""
    words = text.split()
    if not words:
        raise Unreadable("nothing")
    if len(words) > most or len(text) > 12 * most:
        raise Unreadable(f"{len(words)} words, where at most {most} were asked for")
    if REFUSES.match(text):
        raise Unreadable("a refusal or an error")
    if re.search(r"<[/!]?\w+[^>]*>|^\s*<|[{}\t]", text):
        raise Unreadable("markup")
    letters = [sign for sign in text if sign.isalpha()]
    if not letters or sum(bool(LATIN.match(sign)) for sign in letters) < 0.8 * len(letters):
        raise Unreadable("another language than English")
    return text
