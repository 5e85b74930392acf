"""The audit as tables, and the pairs of networks as in Figure 5."""

import io
import math
from collections.abc import Sequence

import numpy as np

from milan.command import warnings_so_far
from milan.experiments.applications.auditing import OPTIONS, Audited, is_face, marked, sources_of
from milan.experiments.reporting.lines import COLOURS, INK, finished
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.experiments.studies.marks import Answers
from milan.scores.intervals import LEVEL, RESAMPLES, Measure, share
from milan.storage import versions

COLUMNS = (
    Column("units", "Units that live."),
    Column("said", "Units of which one of the words was said."),
    Column("share", "The same as a share of the living units.", "%", 1),
)
TRUTH = (
    Column("do", "Units that detect people's faces: their masks and the faces' pixels overlap by the cut or more (IoU)."),
    Column("most", "The greatest such overlap of any unit.", "", 3),
    Column("right", "Of the units of which a word was said, the share that do.", "%", 0),
    Column("found", "Of the units that do, the share of which a word was said.", "%", 0),
)
MARKED = (
    Column("checked", "Units of which a word was said that someone marked in check.html."),
    Column("taken for faces", f"Of these the share that most took for faces ({OPTIONS[0]}; {OPTIONS[1]}).", "%", 0),
)
WORDS = "Words are found whole: 'headlight' is no head. Exemplars are unblurred images for every network, as in the paper."
CHECK = (
    "page/check.html is a form in which people look at each unit's exemplars, not told what was said of it nor of which network it is; "
    "--marks FILE reads what they saved."
)
INTERVALS = (
    "Intervals are of 95%: of shares by Wilson's formula, of differences by drawing the units of both networks again a thousand times."
)
DETECTS = (
    "What a unit detects is known on Diorama: its masks over the whole probe against the pixels of people's faces, from an intersection "
    "over union of {cut} on. These are {area:.2f} % of the probe's pixels, and a mask has 1 % where the quantile is 0.99, so that much "
    "less than 1 is all that can be had. A word may be said rightly of a unit for clocks or animals, which have faces and eyes, too."
)
FIGURE = (
    "Units of which a word was said, in each pair of networks, as in Figure 5 of the paper. Open circles: units that detect people's faces."
)


def report_of(found: Sequence[Audited], answers: Sequence[Answers], seed: int) -> Report:
    """Tables, figure and notes."""
    known = any(one.truths for one in found)
    columns = (*COLUMNS, *(TRUTH if known else ()), *(MARKED if answers else ()))
    rows = tuple(Row(f"{one.name} ({'blurred' if one.blurred else 'plain'})", _values(one, answers)) for one in found)
    change = Table("what blurring changes", _change_columns(known), tuple(_changes(found, seed, known)), "pair")
    by_word = Table("units by word", *_by_word(found), "network")
    facts = {
        "probe": found[0].described.facts["probe"],
        "images": found[0].described.facts["images"],
        "describer": found[0].described.entrant.name,
        "words": list(found[0].search.words),
        "seed": seed,
        "cut": found[0].search.cut,
        "raters": len(answers),
        "networks": {one.name: one.described.facts for one in found},
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    lede = (
        f"{found[0].described.entrant.name} describes {sum(len(one.described.texts) for one in found):,} units of {len(found)} "
        f"networks, half of them trained on images with blurred faces; those of which it "
        f"says {', '.join(found[0].search.words[:-1])} or {found[0].search.words[-1]} are "
        "counted."
    )
    detects = (DETECTS.format(cut=found[0].search.cut, area=100 * found[0].area),) if known else ()
    notes = (WORDS, *detects, CHECK, INTERVALS)
    tables = (Table("networks", columns, rows, "network"), change, by_word)
    title, figures = "Does blurring keep faces out of a network?", ((FIGURE, _figure(found)),)
    return Report("audit", title, lede, tables, _headlines(found), notes, facts, figures, sources=sources_of(found))


def _values(one: Audited, answers: Sequence[Answers]) -> dict[str, Value]:
    alive, named = one.described.alive, set(one.named)
    values: dict[str, Value] = {"units": len(alive), "said": len(named), "share": share([unit in named for unit in alive])}
    if one.truths:
        true = set(one.true)
        values |= {
            "do": len(true),
            "most": max((one.overlap(unit) for unit in alive), default=None),
            "right": share([unit in true for unit in named]) if named else None,
            "found": share([unit in named for unit in true]) if true else None,
        }
    if answers:
        marks = [is_face(marked(one, unit, answers)) for unit in one.named if marked(one, unit, answers)]
        told = [mark for mark in marks if mark is not None]
        values |= {"checked": len(marks), "taken for faces": share(told) if told else None}
    return values


def _change_columns(known: bool) -> tuple[Column, ...]:
    columns = [
        Column("plain", "Units said to detect faces, trained on images as they are."),
        Column("blurred", "The same, trained on blurred images."),
        Column("difference", "By how much their share among the living units is larger without blurring.", "%", 1),
    ]
    if known:
        columns += [
            Column("plain, do", "Units that detect people's faces."),
            Column("blurred, do", "The same, trained on blurred images."),
            Column("difference, do", "By how much their share among the living units is larger without blurring.", "%", 1),
        ]
    return tuple(columns)


def _changes(found: Sequence[Audited], seed: int, known: bool) -> list[Row]:
    pairs = list(zip(found[::2], found[1::2], strict=True))
    rows = [Row(f"{one.name} → {other.name}", _change([one], [other], seed, known)) for one, other in pairs]
    return rows + ([Row("all", _change(found[::2], found[1::2], seed, known))] if len(pairs) > 1 else [])


def _change(plain: Sequence[Audited], blurred: Sequence[Audited], seed: int, known: bool) -> dict[str, Value]:
    said = [[unit in set(one.named) for one in side for unit in one.described.alive] for side in (plain, blurred)]
    values: dict[str, Value] = {"plain": sum(said[0]), "blurred": sum(said[1]), "difference": between(said[0], said[1], seed)}
    if known:
        true = [[unit in set(one.true) for one in side for unit in one.described.alive] for side in (plain, blurred)]
        values |= {"plain, do": sum(true[0]), "blurred, do": sum(true[1]), "difference, do": between(true[0], true[1], seed)}
    return values


def between(one: Sequence[bool], other: Sequence[bool], seed: int = 0) -> Measure:
    """By how much the share of one is above that of another; units of both are drawn again for the interval.

    >>> found = between([True, True, False, False], [True, False, False, False])
    >>> found.value, found.low < 0 < found.high
    (0.25, True)
    """
    if not one or not other:
        return Measure(math.nan)
    dice = np.random.default_rng(seed)
    drawn = [dice.binomial(len(side), np.mean(side), RESAMPLES) / len(side) for side in (one, other)]
    apart = drawn[0] - drawn[1]
    low, high = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(np.mean(one) - np.mean(other)), low, high, float(apart.std(ddof=1)), len(one) + len(other))


def _by_word(found: Sequence[Audited]) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
    columns = tuple(Column(word, f"Units of which {word!r} was said, as a whole word.") for word in found[0].search.words)
    rows = tuple(Row(one.name, {word: len(one.described.mentioning([word])) for word in one.search.words}) for one in found)
    return columns, rows


def _headlines(found: Sequence[Audited]) -> tuple[tuple[str, str], ...]:
    told = []
    for blurred, text in ((False, "on images as they are"), (True, "on blurred faces")):
        side = [one for one in found if one.blurred == blurred]
        told.append((str(sum(len(one.named) for one in side)), f"units said to detect faces, trained {text}"))
        if any(one.truths for one in side):
            told.append((str(sum(len(one.true) for one in side)), f"units that do, trained {text}"))
    return tuple(told)


def _figure(found: Sequence[Audited]) -> str:
    """A line for each pair from the plain network to the blurred one."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.subplots()
        for plain, blurred in zip(found[::2], found[1::2], strict=True):
            colour = COLOURS[plain.pair % len(COLOURS)]
            axis.plot([0, 1], [len(plain.named), len(blurred.named)], "o-", color=colour, label=f"{plain.name} → {blurred.name}")
            if plain.truths:
                axis.plot([0, 1], [len(plain.true), len(blurred.true)], "o--", color=colour, markerfacecolor="none", linewidth=0.9)
        axis.set_xticks([0, 1], ["plain", "blurred"])
        axis.set_xlim(-0.25, 1.25)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("units", color=INK)
        finished(axis)
        axis.legend(frameon=False, labelcolor=INK, fontsize=8, loc="best")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
