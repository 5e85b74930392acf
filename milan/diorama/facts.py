"""Which of the things that a text says are true of a scene."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from milan.diorama.canvas import INDEX
from milan.diorama.names import LETTERS
from milan.diorama.parsing import ANY_WORD, BESIDE, Named, Said, parse
from milan.diorama.scenes import Placed, Scene, relate

MUCH = 0.2  # share of a thing's pixels from which it has a colour or a pattern, beside those it was painted in
SOME = 12  # pixels of 64 x 64 from which something that is no placed thing counts as shown


@dataclass(frozen=True)
class Fact:
    """One thing that a text says: that something is there, that it has a look, how it stands to another, or the setting."""

    text: str
    true: bool


@dataclass(frozen=True)
class _Shown:
    """Something a scene shows: where, and what is known of it if it was placed."""

    where: np.ndarray
    placed: Placed | None = None


def share_true(texts: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Of all that texts say of their scenes, the share that is true; NaN if they say nothing."""
    found = [fact.true for text, scene in zip(texts, scenes, strict=True) for fact in facts(text, scene)]
    return float(np.mean(found)) if found else float("nan")


def facts(said: Said | str, scene: Scene) -> list[Fact]:
    """All that a text says, and whether it is true of a scene.

    A thing's looks are asked of the thing in the scene that fits best; the looks of a thing that is not there are not true.

    >>> from milan.diorama.scenes import draw
    >>> [(fact.text, fact.true) for fact in facts("a red sign on the street with a cat", draw(1))]
    [('sign', True), ('red', True), ('cat', False), ('street', True)]
    """
    said = parse(said) if isinstance(said, str) else said
    found: list[Fact] = []
    best: list[list[_Shown]] = []
    for named in said.things:
        shown, its = _best(named, scene)
        best.append(shown)
        found += its
    for subject, name, other in said.relations:
        found.append(Fact(name, _related(best[subject], name, best[other])))
    if said.settings:
        found.append(Fact(said.settings[0] if len(said.settings) == 1 else "outdoors", scene.setting in said.settings))
    return found


def _best(named: Named, scene: Scene) -> tuple[list[_Shown], list[Fact]]:
    """What in the scene fits best what is said, more than one thing if they fit alike, and what is true of it."""
    judged = [(shown, _looks(named, shown, scene)) for shown in _candidates(named, scene)]
    if not judged:
        return [], [Fact(fact.text, False) for fact in _looks(named, _Shown(np.zeros_like(scene.instances, dtype=bool)), scene)]
    most = max(sum(fact.true for fact in found) for _, found in judged)
    fitting = [(shown, found) for shown, found in judged if sum(fact.true for fact in found) == most]
    return [shown for shown, _ in fitting], fitting[0][1]


def _candidates(named: Named, scene: Scene) -> Iterable[_Shown]:
    if not named.names:
        yield _Shown(np.ones(scene.instances.shape, dtype=bool))
        return
    for placed in scene.objects:
        if placed.name in named.names:
            yield _Shown(scene.instances == placed.number, placed)
    enough = SOME * scene.instances.size / 64**2
    for name in named.names:
        where = (scene.labels["object"] == INDEX["object"][name]) & (scene.instances == 0)
        if where.sum() >= enough:
            yield _Shown(where)


def _looks(named: Named, shown: _Shown, scene: Scene) -> list[Fact]:
    """What is said of one thing, its being there included."""
    placed = shown.placed
    own = {placed.colour, placed.second} if placed else set()
    much = MUCH if named.names else 2 * SOME / 64**2  # of a picture as a whole a small part is enough
    found = [Fact(" or ".join(named.names), True)] if named.names else []
    found += [Fact(colour, colour in own or _has(scene, shown.where, "colour", (colour,), much)) for colour in named.colours]
    if named.patterns:
        painted = placed is not None and placed.pattern in named.patterns
        found.append(Fact(named.patterns[0], painted or _has(scene, shown.where, "pattern", named.patterns, much)))
    if named.part:
        found += _part(named, shown, scene)
    if named.word:
        found.append(Fact(named.word, _written(named.word, shown, scene)))
    return found


def _part(named: Named, shown: _Shown, scene: Scene) -> list[Fact]:
    where = shown.where & (scene.labels["part"] == INDEX["part"][named.part])
    own = [(colour, pattern) for part, colour, pattern in (shown.placed.parts if shown.placed else ()) if part == named.part]
    found = [Fact(named.part, bool(where.any()) or bool(own))]
    for colour in named.part_colours:
        found.append(Fact(colour, any(colour == each for each, _ in own) or _has(scene, where, "colour", (colour,), MUCH)))
    if named.part_patterns:
        painted = any(pattern in named.part_patterns for _, pattern in own)
        found.append(Fact(named.part_patterns[0], painted or _has(scene, where, "pattern", named.part_patterns, MUCH)))
    return found


def _has(scene: Scene, where: np.ndarray, kind: str, names: Sequence[str], much: float) -> bool:
    """Whether enough of some pixels carry one of the labels."""
    wanted = np.isin(scene.labels[kind][where], [INDEX[kind][name] for name in names])
    return bool(len(wanted)) and float(wanted.mean()) >= much


def _written(word: str, shown: _Shown, scene: Scene) -> bool:
    letters = {LETTERS[number - 1] for number in np.unique(scene.labels["text"][shown.where]) if number}
    if word == ANY_WORD:
        return bool(letters)
    if shown.placed is not None and len(word) > 1:
        return shown.placed.word == word
    return set(word) <= letters


def _related(ones: list[_Shown], name: str, others: list[_Shown]) -> bool:
    """Whether a placed thing stands to another as is said."""
    pairs = [(one.placed, other.placed) for one in ones for other in others if one.placed and other.placed and one.placed != other.placed]
    if name == BESIDE:
        return any("left of" in relate(*pair) or "left of" in relate(*pair[::-1]) for pair in pairs)
    return any(name in relate(*pair) for pair in pairs)
