"""Formulas in words, as Compositional Explanations writes them: "red and (car or boat)", "water but not blue", "both red and car".

In people's words "and" joins things of which any may be meant ("cars and boats"), in a formula what must hold together; so only a text
with brackets, "both", "but not", "neither" or "not" is read as a formula, and only if all of it is one.
"""

import re

Literal = tuple[bool, str]  # whether it holds, and what
Conjunction = frozenset[Literal]
Alternatives = list[Conjunction]

WORDS = ("and", "or", "but", "not", "neither", "nor", "both")
MARKS = re.compile(r"[()]|\b(?:both|neither|not)\b")
TOKENS = re.compile(r"[()]|[^\s(),;]+")


def alternatives(text: str) -> Alternatives | None:
    """What a formula says: sets of names that hold together, or do not hold, of which any may be meant; None if it is no formula.

    >>> [sorted(each) for each in alternatives("red and (car or boat)")]
    [[(True, 'car'), (True, 'red')], [(True, 'boat'), (True, 'red')]]
    >>> [sorted(each) for each in alternatives("water but neither blue nor sea")]
    [[(False, 'blue'), (False, 'sea'), (True, 'water')]]
    >>> alternatives("red and cars (or boats") is alternatives("cars and boats") is None
    True
    """
    if not MARKS.search(text):
        return None
    parser = _Parser(TOKENS.findall(text))
    try:
        found = parser.either()
    except _NoFormula:
        return None
    return None if parser.left else found


class _NoFormula(Exception):
    pass


class _Parser:
    """Takes tokens from the left; each method takes what it is named for."""

    def __init__(self, tokens: list[str]):
        self.left = tokens

    def either(self) -> Alternatives:
        found = self.all()
        while self._takes("or"):
            found = found + self.all()
        return found

    def all(self) -> Alternatives:
        self._takes("both")
        found = self.part()
        while self._takes("and"):
            found = _together(found, self.part())
        return _together(found, self.barred()) if self._takes("but") else found

    def part(self) -> Alternatives:
        if self._takes("("):
            found = self.either()
            self._needs(")")
            return found
        return self.barred() if self.left[:1] in (["not"], ["neither"]) else [frozenset({(True, self.name())})]

    def barred(self) -> Alternatives:
        if self._takes("not"):
            return [frozenset({(False, self.name())})]
        self._needs("neither")
        names = [self.name()]
        while self._takes("nor"):
            names.append(self.name())
        return [frozenset((False, name) for name in names)]

    def name(self) -> str:
        """Words up to the next one that joins."""
        words: list[str] = []
        while self.left and self.left[0] not in (*WORDS, "(", ")"):
            words.append(self.left.pop(0))
        if not words:
            raise _NoFormula
        return " ".join(words)

    def _takes(self, token: str) -> bool:
        if self.left[:1] != [token]:
            return False
        self.left.pop(0)
        return True

    def _needs(self, token: str) -> None:
        if not self._takes(token):
            raise _NoFormula


def _together(one: Alternatives, other: Alternatives) -> Alternatives:
    return [first | second for first in one for second in other]
