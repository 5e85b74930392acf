"""The audit as tables, and the pairs of networks as in Figure 5."""

import io
import math
from collections.abc import Sequence

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.experiments.audit.audited_networks import OPTIONS, AuditedNetwork, collect_marks, is_marked_face, sources_of
from milan.experiments.core.form_answers import RaterAnswers
from milan.experiments.core.line_plots import INK_COLOUR, LINE_COLOURS, style_axis
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure, estimate_share
from milan.storage.files import collect_versions

COLUMNS = (
    Column("units", "Units that live."),
    Column("said", "Units of which one of the words was said."),
    Column("share", "The same as a share of the living units.", "%", 1),
)
TRUTH_COLUMNS = (
    Column(
        "do", "Units that detect people's faces: their masks and the faces' pixels overlap by the cut or more (IoU)."
    ),
    Column("most", "The greatest such overlap of any unit.", "", 3),
    Column("right", "Of the units of which a word was said, the share that do.", "%", 0),
    Column("found", "Of the units that do, the share of which a word was said.", "%", 0),
)
MARK_COLUMNS = (
    Column("checked", "Units of which a word was said that someone marked in check.html."),
    Column("taken for faces", f"Of these the share that most took for faces ({OPTIONS[0]}; {OPTIONS[1]}).", "%", 0),
)
WORDS_NOTE = (
    "Words are found whole: 'headlight' is no head. Exemplars are unblurred images for every network, as in the paper."
)
CHECK_NOTE = (
    "page/check.html is a form in which people look at each unit's exemplars, not told what was said of it nor of which"
    " network it is; --marks FILE reads what they saved."
)
INTERVALS_NOTE = (
    "Intervals are of 95%: of shares by Wilson's formula, of differences by drawing the units of both networks again a"
    " thousand times."
)
DETECTS_NOTE = (
    "What a unit detects is known on Diorama: its masks over the whole probe against the pixels of people's faces, from"
    " an intersection over union of {cut} on. These are {area:.2f} % of the probe's pixels, and a mask has 1 % where"
    " the quantile is 0.99, so that much less than 1 is all that can be had. A word may be said rightly of a unit for"
    " clocks or animals, which have faces and eyes, too."
)
FIGURE_CAPTION = (
    "Units of which a word was said, in each pair of networks, as in Figure 5 of the paper. Open circles: units that"
    " detect people's faces."
)


def make_report(networks: Sequence[AuditedNetwork], answers: Sequence[RaterAnswers], seed: int) -> Report:
    """Tables, figure and notes."""
    known = any(one.truths for one in networks)
    columns = (*COLUMNS, *(TRUTH_COLUMNS if known else ()), *(MARK_COLUMNS if answers else ()))
    rows = tuple(
        Row(f"{one.name} ({'blurred' if one.blurred else 'plain'})", _make_values(one, answers)) for one in networks
    )
    change = Table(
        "what blurring changes", _make_change_columns(known), tuple(_make_change_rows(networks, seed, known)), "pair"
    )
    by_word = Table("units by word", *_count_by_word(networks), "network")
    facts = {
        "probe": networks[0].described.facts["probe"],
        "images": networks[0].described.facts["images"],
        "describer": networks[0].described.evaluated.name,
        "words": list(networks[0].criteria.words),
        "seed": seed,
        "cut": networks[0].criteria.min_overlap,
        "raters": len(answers),
        "networks": {one.name: one.described.facts for one in networks},
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
    lede = (
        f"{networks[0].described.evaluated.name} describes {sum(len(one.described.texts) for one in networks):,} units"
        f" of {len(networks)} networks, half of them trained on images with blurred faces; those of which it says"
        f" {', '.join(networks[0].criteria.words[:-1])} or {networks[0].criteria.words[-1]} are counted."
    )
    detects = (DETECTS_NOTE.format(cut=networks[0].criteria.min_overlap, area=100 * networks[0].area),) if known else ()
    notes = (WORDS_NOTE, *detects, CHECK_NOTE, INTERVALS_NOTE)
    tables = (Table("networks", columns, rows, "network"), change, by_word)
    title, figures = "Does blurring keep faces out of a network?", ((FIGURE_CAPTION, _plot_pairs(networks)),)
    return Report(
        "audit", title, lede, tables, _make_headlines(networks), notes, facts, figures, sources=sources_of(networks)
    )


def _make_values(one: AuditedNetwork, answers: Sequence[RaterAnswers]) -> dict[str, Value]:
    alive, named = one.described.active_units, set(one.named_units)
    values: dict[str, Value] = {
        "units": len(alive),
        "said": len(named),
        "share": estimate_share([unit in named for unit in alive]),
    }
    if one.truths:
        true = set(one.true_units)
        values |= {
            "do": len(true),
            "most": max((one.compute_overlap(unit) for unit in alive), default=None),
            "right": estimate_share([unit in true for unit in named]) if named else None,
            "found": estimate_share([unit in named for unit in true]) if true else None,
        }
    if answers:
        marks = [
            is_marked_face(collect_marks(one, unit, answers))
            for unit in one.named_units
            if collect_marks(one, unit, answers)
        ]
        answered = [mark for mark in marks if mark is not None]
        values |= {"checked": len(marks), "taken for faces": estimate_share(answered) if answered else None}
    return values


def _make_change_columns(known: bool) -> tuple[Column, ...]:
    columns = [
        Column("plain", "Units said to detect faces, trained on images as they are."),
        Column("blurred", "The same, trained on blurred images."),
        Column("difference", "By how much their share among the living units is larger without blurring.", "%", 1),
    ]
    if known:
        columns += [
            Column("plain, do", "Units that detect people's faces."),
            Column("blurred, do", "The same, trained on blurred images."),
            Column(
                "difference, do", "By how much their share among the living units is larger without blurring.", "%", 1
            ),
        ]
    return tuple(columns)


def _make_change_rows(found: Sequence[AuditedNetwork], seed: int, known: bool) -> list[Row]:
    pairs = list(zip(found[::2], found[1::2], strict=True))
    rows = [Row(f"{one.name} → {other.name}", _make_change_values([one], [other], seed, known)) for one, other in pairs]
    return rows + ([Row("all", _make_change_values(found[::2], found[1::2], seed, known))] if len(pairs) > 1 else [])


def _make_change_values(
    plain: Sequence[AuditedNetwork], blurred: Sequence[AuditedNetwork], seed: int, known: bool
) -> dict[str, Value]:
    said = [
        [unit in set(one.named_units) for one in side for unit in one.described.active_units]
        for side in (plain, blurred)
    ]
    values: dict[str, Value] = {
        "plain": sum(said[0]),
        "blurred": sum(said[1]),
        "difference": compute_share_difference(said[0], said[1], seed),
    }
    if known:
        true = [
            [unit in set(one.true_units) for one in side for unit in one.described.active_units]
            for side in (plain, blurred)
        ]
        values |= {
            "plain, do": sum(true[0]),
            "blurred, do": sum(true[1]),
            "difference, do": compute_share_difference(true[0], true[1], seed),
        }
    return values


def compute_share_difference(one: Sequence[bool], other: Sequence[bool], seed: int = 0) -> Measure:
    """By how much the share of one is above that of another; units of both are drawn again for the interval.

    >>> found = compute_share_difference([True, True, False, False], [True, False, False, False])
    >>> found.value, found.low < 0 < found.high
    (0.25, True)
    """
    if not one or not other:
        return Measure(math.nan)
    rng = np.random.default_rng(seed)
    drawn = [rng.binomial(len(side), np.mean(side), RESAMPLES) / len(side) for side in (one, other)]
    apart = drawn[0] - drawn[1]
    low, high = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(np.mean(one) - np.mean(other)), low, high, float(apart.std(ddof=1)), len(one) + len(other))


def _count_by_word(found: Sequence[AuditedNetwork]) -> tuple[tuple[Column, ...], tuple[Row, ...]]:
    columns = tuple(
        Column(word, f"Units of which {word!r} was said, as a whole word.") for word in found[0].criteria.words
    )
    rows = tuple(
        Row(one.name, {word: len(one.described.find_units_mentioning([word])) for word in one.criteria.words})
        for one in found
    )
    return columns, rows


def _make_headlines(found: Sequence[AuditedNetwork]) -> tuple[tuple[str, str], ...]:
    headlines = []
    for blurred, text in ((False, "on images as they are"), (True, "on blurred faces")):
        side = [one for one in found if one.blurred == blurred]
        headlines.append(
            (str(sum(len(one.named_units) for one in side)), f"units said to detect faces, trained {text}")
        )
        if any(one.truths for one in side):
            headlines.append((str(sum(len(one.true_units) for one in side)), f"units that do, trained {text}"))
    return tuple(headlines)


def _plot_pairs(found: Sequence[AuditedNetwork]) -> str:
    """A line for each pair from the plain network to the blurred one."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "milan", "font.size": 10, "text.color": INK_COLOUR}):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.subplots()
        for plain, blurred in zip(found[::2], found[1::2], strict=True):
            colour = LINE_COLOURS[plain.pair % len(LINE_COLOURS)]
            axis.plot(
                [0, 1],
                [len(plain.named_units), len(blurred.named_units)],
                "o-",
                color=colour,
                label=f"{plain.name} → {blurred.name}",
            )
            if plain.truths:
                axis.plot(
                    [0, 1],
                    [len(plain.true_units), len(blurred.true_units)],
                    "o--",
                    color=colour,
                    markerfacecolor="none",
                    linewidth=0.9,
                )
        axis.set_xticks([0, 1], ["plain", "blurred"])
        axis.set_xlim(-0.25, 1.25)
        axis.set_ylim(bottom=0)
        axis.set_ylabel("units", color=INK_COLOUR)
        style_axis(axis)
        axis.legend(frameon=False, labelcolor=INK_COLOUR, fontsize=8, loc="best")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
