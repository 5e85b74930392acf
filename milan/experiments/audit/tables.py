"""The audit as tables, and the pairs of networks as in Figure 5."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from milan.experiments.audit.audited_networks import OPTIONS, AuditedNetwork, collect_marks, is_marked_face, sources_of
from milan.experiments.audit.config import AuditConfig
from milan.experiments.core.figure_style import INK_COLOUR, LINE_COLOURS, draw_svg, style_axis
from milan.experiments.core.form_answers import RaterAnswers
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure, estimate_share
from milan.units import Unit

COLUMNS = (
    Column("units", "Number of active units."),
    Column("named", "Number of units whose description has one of the words, as a whole word."),
    Column("share", "The same as a share of the active units.", "%", 1),
)
FOUND_COLUMN = Column("found only", "Number of units found by meaning whose description has none of the words.")
TRUTH_COLUMNS = (
    Column("detectors", "Number of units that detect people's faces."),
    Column("largest IoU", "Largest intersection over union with people's faces of any unit.", "", 3),
    Column("precision", "Share of the named units that detect people's faces.", "%", 0),
    Column("recall", "Share of the units that detect people's faces that are named.", "%", 0),
    Column("precision, found", "Share of the units found by meaning that detect people's faces.", "%", 0),
    Column("recall, found", "Share of the units that detect people's faces that are found by meaning.", "%", 0),
)
MARK_COLUMNS = (
    Column("checked", "Number of named units that someone marked in check.html."),
    Column("marked as faces", f"Share of these that most marked as faces ({OPTIONS[0]}; {OPTIONS[1]}).", "%", 0),
    Column("found, marked as faces", "The same share of the units found by meaning that someone marked.", "%", 0),
)
WORDS_NOTE = (
    "Words are matched as a whole: 'headlight' does not match head. Exemplars are unblurred images for every"
    " network, as in the paper."
)
FOUND_NOTE = "Units are also found by meaning: the {count} of each network whose {what} closest to {query!r}."
CHECK_NOTE = (
    "page/check.html is a form in which people look at each unit's exemplars, without its description and network;"
    " --answers FILE reads what they saved."
)
INTERVALS_NOTE = "Intervals are 95% intervals: Wilson's of shares, bootstrap intervals over units of differences."
DETECTS_NOTE = (
    "What a unit detects is known on Diorama: its masks over the whole probe are compared with the pixels of people's"
    " faces, and it detects faces from an intersection over union of {min_iou} on. Faces are {area:.2f} % of the"
    " probe's pixels, and a mask has 1 % for the quantile 0.99, so that the largest possible value is much less than"
    " 1. A word may also be right for a unit that detects clocks or animals, which have faces and eyes."
)
FIGURE_CAPTION = (
    "Named units in each pair of networks, as in Figure 5 of the paper. Open circles: units that detect people's faces."
)


def make_report(networks: Sequence[AuditedNetwork], answers: Sequence[RaterAnswers], config: AuditConfig) -> Report:
    """Return a table of networks, one of pairs and one of words, with a figure."""
    first, known = networks[0], any(one.truths for one in networks)
    columns = (*COLUMNS, FOUND_COLUMN, *(TRUTH_COLUMNS if known else ()), *(MARK_COLUMNS if answers else ()))
    rows = tuple(Row(f"{one.name} ({one.kind})", _make_values(one, answers)) for one in networks)
    pair_rows = tuple(_make_change_rows(networks, config.seed, known))
    what = "descriptions and exemplars are" if first.embedder is not None else "descriptions' words are"
    found_note = FOUND_NOTE.format(count=config.found_units, what=what, query=config.query)
    notes = [WORDS_NOTE, found_note, CHECK_NOTE, INTERVALS_NOTE]
    if known:
        notes.insert(1, DETECTS_NOTE.format(min_iou=config.min_iou, area=100 * first.area))
    return Report(
        "audit",
        "Does blurring keep faces out of a network?",
        f"{first.study.evaluated.name} describes {sum(len(one.study.texts) for one in networks):,} units of"
        f" {len(networks)} networks, half of them trained on images with blurred faces; units whose description has one"
        f" of the words {', '.join(first.words)} are counted.",
        (
            Table("networks", columns, rows, "network"),
            Table("effect of blurring", _make_change_columns(known), pair_rows, "pair"),
            _make_word_table(networks),
        ),
        _make_headlines(networks),
        tuple(notes),
        {
            "probe": first.study.probe.spec,
            "images": len(first.study.probe),
            "describer": first.study.evaluated.name,
            "words": list(first.words),
            "query": config.query,
            "seed": config.seed,
            "min_iou": config.min_iou,
            "raters": len(answers),
            "networks": {one.name: one.study.facts for one in networks},
        },
        ((FIGURE_CAPTION, _plot_pairs(networks)),),
        sources=sources_of(networks),
    )


def _make_values(one: AuditedNetwork, answers: Sequence[RaterAnswers]) -> dict[str, Value]:
    active, named, found = one.study.active_units, set(one.named_units), one.found_units
    values: dict[str, Value] = {
        "units": len(active),
        "named": len(named),
        "share": estimate_share([unit in named for unit in active]),
        "found only": len(set(found) - named),
    }
    if one.truths:
        true = set(one.true_units)
        values |= {
            "detectors": len(true),
            "largest IoU": max((one.compute_iou(unit) for unit in active), default=None),
            "precision": estimate_share([unit in true for unit in named]) if named else None,
            "recall": estimate_share([unit in named for unit in true]) if true else None,
            "precision, found": estimate_share([unit in true for unit in found]) if found else None,
            "recall, found": estimate_share([unit in set(found) for unit in true]) if true else None,
        }
    if answers:
        checked, decided = _decide(one, one.named_units, answers)
        _, found_decided = _decide(one, found, answers)
        values |= {
            "checked": checked,
            "marked as faces": estimate_share(decided) if decided else None,
            "found, marked as faces": estimate_share(found_decided) if found_decided else None,
        }
    return values


def _decide(one: AuditedNetwork, units: Sequence[Unit], answers: Sequence[RaterAnswers]) -> tuple[int, list[bool]]:
    """Return how many of these units someone marked, and of those without a tie whether they detect faces."""
    marks = [marks for unit in units if (marks := collect_marks(one, unit, answers))]
    return len(marks), [mark for mark in map(is_marked_face, marks) if mark is not None]


def _make_change_columns(known: bool) -> tuple[Column, ...]:
    columns = []
    for suffix, text in (("", "named units"), (" detectors", "units that detect people's faces")):
        if known or not suffix:
            columns += [
                Column(f"plain{suffix}", f"Number of {text}, trained on unchanged images."),
                Column(f"blurred{suffix}", f"Number of {text}, trained on blurred images."),
                Column(
                    f"difference{suffix}",
                    "Their share of the active units without blurring minus that with blurring.",
                    "%",
                    1,
                ),
            ]
    return tuple(columns)


def _make_change_rows(networks: Sequence[AuditedNetwork], seed: int, known: bool) -> list[Row]:
    pairs = [([plain], [blurred]) for plain, blurred in zip(networks[::2], networks[1::2], strict=True)]
    rows = [
        Row(f"{one[0].name} → {other[0].name}", _make_change_values(one, other, seed, known)) for one, other in pairs
    ]
    if len(pairs) > 1:
        rows.append(Row("all", _make_change_values(networks[::2], networks[1::2], seed, known)))
    return rows


def _make_change_values(
    plain: Sequence[AuditedNetwork], blurred: Sequence[AuditedNetwork], seed: int, known: bool
) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for suffix, attribute in (("", "named_units"), (" detectors", "true_units")):
        if known or not suffix:
            one, other = (
                [unit in set(getattr(each, attribute)) for each in side for unit in each.study.active_units]
                for side in (plain, blurred)
            )
            values[f"plain{suffix}"], values[f"blurred{suffix}"] = sum(one), sum(other)
            values[f"difference{suffix}"] = compute_share_difference(one, other, seed)
    return values


def compute_share_difference(one: Sequence[bool], other: Sequence[bool], seed: int = 0) -> Measure:
    """Return the difference of two shares with its bootstrap interval over the units of both sides.

    >>> difference = compute_share_difference([True, True, False, False], [True, False, False, False])
    >>> difference.value, difference.low < 0 < difference.high
    (0.25, True)
    """
    if not one or not other:
        return Measure(math.nan)
    rng = np.random.default_rng(seed)
    resampled = [rng.binomial(len(side), np.mean(side), RESAMPLES) / len(side) for side in (one, other)]
    differences = resampled[0] - resampled[1]
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    difference, error = float(np.mean(one) - np.mean(other)), float(differences.std(ddof=1))
    return Measure(difference, low, high, error, len(one) + len(other))


def _make_word_table(networks: Sequence[AuditedNetwork]) -> Table:
    words = networks[0].words
    columns = tuple(Column(word, f"Number of units whose description has {word!r}, as a whole word.") for word in words)
    rows = [Row(one.name, {word: len(one.study.find_units_mentioning([word])) for word in words}) for one in networks]
    return Table("units by word", columns, tuple(rows), "network")


def _make_headlines(networks: Sequence[AuditedNetwork]) -> tuple[tuple[str, str], ...]:
    headlines = []
    for kind, text in (("plain", "unchanged images"), ("blurred", "blurred faces")):
        side = [one for one in networks if one.kind == kind]
        named, detectors = (sum(len(getattr(one, name)) for one in side) for name in ("named_units", "true_units"))
        headlines.append((str(named), f"units described as detecting faces, trained on {text}"))
        if any(one.truths for one in side):
            headlines.append((str(detectors), f"units that detect faces, trained on {text}"))
    return tuple(headlines)


def _plot_pairs(networks: Sequence[AuditedNetwork]) -> str:
    """Plot a line for each pair from the plain network to the blurred one."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for plain, blurred in zip(networks[::2], networks[1::2], strict=True):
            colour = LINE_COLOURS[plain.pair % len(LINE_COLOURS)]
            named = [len(plain.named_units), len(blurred.named_units)]
            axis.plot([0, 1], named, "o-", color=colour, label=f"{plain.name} → {blurred.name}")
            if plain.truths:
                true = [len(plain.true_units), len(blurred.true_units)]
                axis.plot([0, 1], true, "o--", color=colour, markerfacecolor="none", linewidth=0.9)
        axis.set_xticks([0, 1], ["plain", "blurred"])
        axis.set(xlim=(-0.25, 1.25), ylabel="units")
        axis.set_ylim(bottom=0)
        style_axis(axis)
        axis.legend(frameon=False, labelcolor=INK_COLOUR, fontsize=8, loc="best")

    return draw_svg(5.2, 3.9, draw)
