"""Which statements of a text are true of a scene."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from milan.diorama.canvas import LABEL_INDEX
from milan.diorama.scene_vocabulary import LETTERS
from milan.diorama.scenes import PlacedThing, Scene, find_relations
from milan.diorama.sentence_parser import ANY_WORD, BESIDE, ParsedSentence, ParsedThing, parse_sentence

MIN_LOOK_SHARE = (
    0.2  # share of a thing's pixels from which it has a colour or a pattern, beside those it was painted in
)
MIN_PIXELS = 12  # pixels of 64 x 64 from which something that is no placed thing counts as shown


@dataclass(frozen=True)
class CheckedStatement:
    """One statement of a text: that something is there, its look, its relation, or the setting."""

    text: str
    true: bool


@dataclass(frozen=True)
class _VisibleThing:
    """Something visible in a scene: its pixels, and the placed thing if it is one."""

    where: np.ndarray
    placed: PlacedThing | None = None


def compute_true_share(texts: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Return the share of all statements of texts that are true of their scenes; NaN if there are none."""
    truths = [fact.true for text, scene in zip(texts, scenes, strict=True) for fact in check_statements(text, scene)]
    return float(np.mean(truths)) if truths else float("nan")


def check_statements(text: ParsedSentence | str, scene: Scene) -> list[CheckedStatement]:
    """Return all statements of a text and whether they are true of a scene.

    A thing's looks are asked of the thing in the scene that fits best; the looks of a thing that is not there are not
    true.

    >>> from milan.diorama.scenes import draw_scene
    >>> [(fact.text, fact.true) for fact in check_statements("a red sign on the street with a cat", draw_scene(1))]
    [('sign', True), ('red', True), ('cat', False), ('street', True)]
    """
    text = parse_sentence(text) if isinstance(text, str) else text
    statements: list[CheckedStatement] = []
    best: list[list[_VisibleThing]] = []
    for named in text.things:
        visible, its = _find_best_match(named, scene)
        best.append(visible)
        statements += its
    for subject, name, other in text.relations:
        statements.append(CheckedStatement(name, _are_related(best[subject], name, best[other])))
    if text.settings:
        statements.append(
            CheckedStatement(
                text.settings[0] if len(text.settings) == 1 else "outdoors", scene.setting in text.settings
            )
        )
    return statements


def _find_best_match(named: ParsedThing, scene: Scene) -> tuple[list[_VisibleThing], list[CheckedStatement]]:
    """Return the things in the scene that fit best, several if they fit equally, and what is true of them."""
    checked = [(visible, _check_looks(named, visible, scene)) for visible in _find_candidates(named, scene)]
    if not checked:
        return [], [
            CheckedStatement(fact.text, False)
            for fact in _check_looks(named, _VisibleThing(np.zeros_like(scene.instances, dtype=bool)), scene)
        ]
    most = max(sum(fact.true for fact in statements) for _, statements in checked)
    fitting = [
        (visible, statements) for visible, statements in checked if sum(fact.true for fact in statements) == most
    ]
    return [visible for visible, _ in fitting], fitting[0][1]


def _find_candidates(named: ParsedThing, scene: Scene) -> Iterable[_VisibleThing]:
    if not named.names:
        yield _VisibleThing(np.ones(scene.instances.shape, dtype=bool))
        return
    for placed in scene.objects:
        if placed.name in named.names:
            yield _VisibleThing(scene.instances == placed.number, placed)
    enough = MIN_PIXELS * scene.instances.size / 64**2
    for name in named.names:
        where = (scene.labels["object"] == LABEL_INDEX["object"][name]) & (scene.instances == 0)
        if where.sum() >= enough:
            yield _VisibleThing(where)


def _check_looks(named: ParsedThing, visible: _VisibleThing, scene: Scene) -> list[CheckedStatement]:
    """Check the statements about one thing, including that it is there."""
    placed = visible.placed
    own = {placed.colour, placed.second_colour} if placed else set()
    much = MIN_LOOK_SHARE if named.names else 2 * MIN_PIXELS / 64**2  # of a picture as a whole a small part is enough
    statements = [CheckedStatement(" or ".join(named.names), True)] if named.names else []
    statements += [
        CheckedStatement(colour, colour in own or _shows_label(scene, visible.where, "colour", (colour,), much))
        for colour in named.colours
    ]
    if named.patterns:
        painted = placed is not None and placed.pattern in named.patterns
        statements.append(
            CheckedStatement(
                named.patterns[0], painted or _shows_label(scene, visible.where, "pattern", named.patterns, much)
            )
        )
    if named.part:
        statements += _check_part(named, visible, scene)
    if named.word:
        statements.append(CheckedStatement(named.word, _is_written(named.word, visible, scene)))
    return statements


def _check_part(named: ParsedThing, visible: _VisibleThing, scene: Scene) -> list[CheckedStatement]:
    where = visible.where & (scene.labels["part"] == LABEL_INDEX["part"][named.part])
    own = [
        (colour, pattern)
        for part, colour, pattern in (visible.placed.parts if visible.placed else ())
        if part == named.part
    ]
    statements = [CheckedStatement(named.part, bool(where.any()) or bool(own))]
    for colour in named.part_colours:
        statements.append(
            CheckedStatement(
                colour,
                any(colour == each for each, _ in own)
                or _shows_label(scene, where, "colour", (colour,), MIN_LOOK_SHARE),
            )
        )
    if named.part_patterns:
        painted = any(pattern in named.part_patterns for _, pattern in own)
        statements.append(
            CheckedStatement(
                named.part_patterns[0],
                painted or _shows_label(scene, where, "pattern", named.part_patterns, MIN_LOOK_SHARE),
            )
        )
    return statements


def _shows_label(scene: Scene, where: np.ndarray, kind: str, names: Sequence[str], min_share: float) -> bool:
    """Whether enough of some pixels have one of the labels."""
    has_label = np.isin(scene.labels[kind][where], [LABEL_INDEX[kind][name] for name in names])
    return bool(len(has_label)) and float(has_label.mean()) >= min_share


def _is_written(word: str, visible: _VisibleThing, scene: Scene) -> bool:
    letters = {LETTERS[number - 1] for number in np.unique(scene.labels["text"][visible.where]) if number}
    if word == ANY_WORD:
        return bool(letters)
    if visible.placed is not None and len(word) > 1:
        return visible.placed.word == word
    return set(word) <= letters


def _are_related(ones: list[_VisibleThing], name: str, others: list[_VisibleThing]) -> bool:
    """Whether a placed thing stands in a relation to another."""
    pairs = [
        (one.placed, other.placed)
        for one in ones
        for other in others
        if one.placed and other.placed and one.placed != other.placed
    ]
    if name == BESIDE:
        return any("left of" in find_relations(*pair) or "left of" in find_relations(*pair[::-1]) for pair in pairs)
    return any(name in find_relations(*pair) for pair in pairs)
