"""Formulas in words, as Compositional Explanations writes them: "red and (car or boat)", "water but not blue", "both
red and car".

In people's words "and" joins things of which any may be meant ("cars and boats"), in a formula what must hold together;
so only a text with brackets, "both", "but not", "neither" or "not" is read as a formula, and only if all of it is one.
"""

import re

FormulaLiteral = tuple[bool, str]  # whether it holds, and what
Conjunction = frozenset[FormulaLiteral]
Disjunction = list[Conjunction]

KEYWORDS = ("and", "or", "but", "not", "neither", "nor", "both")
FORMULA_MARKS = re.compile(r"[()]|\b(?:both|neither|not)\b")
TOKEN_PATTERN = re.compile(r"[()]|[^\s(),;]+")


def parse_formula(text: str) -> Disjunction | None:
    """What a formula says: sets of names that hold together, or do not hold, of which any may be meant; None if it is
    no formula.

    >>> [sorted(each) for each in parse_formula("red and (car or boat)")]
    [[(True, 'car'), (True, 'red')], [(True, 'boat'), (True, 'red')]]
    >>> [sorted(each) for each in parse_formula("water but neither blue nor sea")]
    [[(False, 'blue'), (False, 'sea'), (True, 'water')]]
    >>> parse_formula("red and cars (or boats") is parse_formula("cars and boats") is None
    True
    """
    if not FORMULA_MARKS.search(text):
        return None
    parser = _FormulaParser(TOKEN_PATTERN.findall(text))
    try:
        found = parser.parse_disjunction()
    except _NotAFormula:
        return None
    return None if parser.remaining else found


class _NotAFormula(Exception):
    pass


class _FormulaParser:
    """Takes tokens from the left; each method takes what it is named for."""

    def __init__(self, tokens: list[str]):
        self.remaining = tokens

    def parse_disjunction(self) -> Disjunction:
        found = self.parse_conjunction()
        while self._accept("or"):
            found = found + self.parse_conjunction()
        return found

    def parse_conjunction(self) -> Disjunction:
        self._accept("both")
        found = self.parse_term()
        while self._accept("and"):
            found = _conjoin(found, self.parse_term())
        return _conjoin(found, self.parse_negation()) if self._accept("but") else found

    def parse_term(self) -> Disjunction:
        if self._accept("("):
            found = self.parse_disjunction()
            self._expect(")")
            return found
        return (
            self.parse_negation()
            if self.remaining[:1] in (["not"], ["neither"])
            else [frozenset({(True, self.parse_name())})]
        )

    def parse_negation(self) -> Disjunction:
        if self._accept("not"):
            return [frozenset({(False, self.parse_name())})]
        self._expect("neither")
        names = [self.parse_name()]
        while self._accept("nor"):
            names.append(self.parse_name())
        return [frozenset((False, name) for name in names)]

    def parse_name(self) -> str:
        """Words up to the next one that joins."""
        words: list[str] = []
        while self.remaining and self.remaining[0] not in (*KEYWORDS, "(", ")"):
            words.append(self.remaining.pop(0))
        if not words:
            raise _NotAFormula
        return " ".join(words)

    def _accept(self, token: str) -> bool:
        if self.remaining[:1] != [token]:
            return False
        self.remaining.pop(0)
        return True

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise _NotAFormula


def _conjoin(one: Disjunction, other: Disjunction) -> Disjunction:
    return [first | second for first in one for second in other]
