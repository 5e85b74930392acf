"""Text that is safe to print: on one line, without control characters, and literal for rich."""

import re
import unicodedata

_BREAK = re.compile(r"[\r\n\t\v\f\x85\u2028\u2029]")
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_text(text: str) -> str:
    """Return ``text`` on one line without control characters, direction marks and lone surrogates.

    >>> clean_text("a\\x1b[31mred\\u202e\\nb")
    'a[31mred b'
    """
    # Nearly all texts are clean, and a run cleans each candidate of each unit.
    if text.isascii() and text.isprintable():
        return text
    spaced = re.sub(r"\s+", lambda run: " " if _BREAK.search(run[0]) else run[0], text)
    without_surrogates = "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in spaced)
    return "".join(
        sign for sign in without_surrogates if unicodedata.category(sign) != "Cc" and sign not in _BIDI_CONTROLS
    )


def escape_markup(text: str) -> str:
    """Return cleaned text escaped so that rich prints its brackets literally.

    >>> escape_markup("[red]a[/]")
    '\\\\[red]a\\\\[/]'
    """
    return re.sub(r"(\\*)\[(?=([a-z#/@][^\[]*?\])?)", _escape_bracket, clean_text(text))


def _escape_bracket(match: re.Match) -> str:
    """Escape one bracket; rich's own ``escape`` loses or adds a backslash beside some brackets and at the end."""
    slashes = match[1]
    return f"{slashes * 2}\\[" if match[2] else f"{slashes}\\[" if slashes else "["
