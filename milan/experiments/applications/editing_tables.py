"""What editing did, as tables and as the paper's Figures 8 and 15."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from milan.command import warnings_so_far
from milan.experiments.applications.editing import ALL_MOVED, CUT, KNOWN, MOVED, NAMED, PLAIN, SORTED, Edited
from milan.experiments.reporting.lines import Curve, lines
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.scores.ablations import difference, right_without
from milan.scores.intervals import LEVEL, RESAMPLES, Measure, share
from milan.storage import versions

COLUMNS = (
    Column("removed", "How many units put out 0."),
    Column(
        "adversarial", "The share of the adversarial test images, each with the name of a class drawn by lot, put into their class.", "%", 1
    ),
    Column("gain", "How much more of these than with nothing removed; both on the same images.", "%", 1, "more"),
    Column(
        "of the gap",
        "The gain as a share of what lies between the network as it is and the one trained without text, on the adversarial images.",
        "%",
        1,
    ),
    Column("plain", "The share of the same test images without text put into their class.", "%", 1),
    Column(
        "validation",
        "The share of the held-out training images, half of them with their class's name, put into their class: all "
        "that the paper's stopping rule sees.",
        "%",
        1,
    ),
)
STOPPED, EVERY = "text units, the paper's stop", "text units, as many as are tried"
PLAIN_STOPPED = "text units by images without text, stopped by these"
MOVED_STOPPED, CHOSEN = "text units by images with text, the paper's stop", "text units by images with text, their own stop"
PEEKING = "text units by images with text, best on the test images"
RULE = (
    "Text units are sorted by the accuracy without each alone, highest first: on held-out training images, half of "
    "which carry their own class's name (the paper's order: section 7 and appendix E); on images without text; or on "
    "these with names of random classes. Ties are broken at random."
)
STOP = (
    "No order and no rule is given a test image. The paper's rule (appendix E): the last number of units at which the "
    "accuracy on the held-out training images is no less than at first; the order by images without text is stopped by "
    "these instead. The other, for who knows that text is what misleads: where most validation images with names of "
    "random classes are right. 'Best on the test images' is no rule; the paper's 4.9 points were found so, its rule "
    "gave 3.1."
)
CONTROL = (
    "All units sorted in the same way are the control: where as many of these do as well, it is the sorting that helps, and not what the "
    "descriptions say."
)
INTERVALS = "Intervals are of 95%: of shares by Wilson's formula, of gains by drawing images (and orders) again a thousand times."
FIGURE_8 = (
    "Accuracy on the adversarial test images as units are removed, as in the paper's Figure 8. The band is from the least to the "
    "greatest of the random draws. Dotted upwards: the stop by validation images with text."
)
FIGURE_15 = (
    "Accuracy on validation images, as in Figure 15: like the training images, half of them with their class's name, "
    "by which the paper's rule stops; without text; and with names of random classes, by which ours stops."
)


@dataclass(frozen=True)
class Ends:
    """Which adversarial images are right at first, and by the network trained without text."""

    first: Bool[np.ndarray, " images"]
    clean: Bool[np.ndarray, " images"]


def report_of(found: Edited, out: Path) -> Report:
    """Tables, figures and notes."""
    ends = Ends(found.adversarial[NAMED][0], right_without(found.spoilt.clean, found.spoilt.adversarial, [[]], out / "clean.sqlite")[1][0])
    table = Table("removed units and accuracy", COLUMNS, _rows(found, ends, out), "removed")
    chosen = next(row for row in table.rows if row.name == CHOSEN)
    facts = {
        **found.described.facts,
        "clean network": found.spoilt.clean.spec,
        "words": list(found.plan.words),
        "images tested with": len(ends.first),
        "images validated with": found.alike[NAMED].shape[1],
        "seed": found.plan.seed,
        "orders": {name: [str(unit) for unit in order[: found.plan.most]] for name, order in found.orders.items()},
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    lede = (
        f"{found.described.entrant.name} says of {len(found.named)} of {len(found.described.alive)} units that they detect "
        f"{', '.join(found.plan.words[:-1])} or {found.plan.words[-1]}. They are removed one by one from a network that relies on text."
    )
    notes = (found.spoilt.note, RULE, STOP, CONTROL, INTERVALS, *_truth_note(found))
    figures = ((FIGURE_8, _figure_8(found, ends)), (FIGURE_15, _figure_15(found)))
    tables = (table, *_named_table(found), *_curve_tables(found))
    sources = {**found.described.sources, "images": found.spoilt.images, "clean network": found.spoilt.clean.spec}
    title, heads = "Can the network be made not to read?", _headlines(chosen, table, found)
    return Report("edit", title, lede, tables, heads, notes, facts, figures, sources=sources)


def _rows(found: Edited, ends: Ends, out: Path) -> tuple[Row, ...]:
    seed = found.plan.seed
    places = {
        "nothing": (NAMED, 0),
        STOPPED: (NAMED, found.stop(NAMED)),
        EVERY: (NAMED, len(found.counts(NAMED)) - 1),
        PLAIN_STOPPED: (PLAIN, found.stop(PLAIN)),
        MOVED_STOPPED: (MOVED, found.stop(MOVED)),
        CHOSEN: (MOVED, found.best),
        PEEKING: (MOVED, int(found.adversarial[MOVED].mean(1).argmax())),
    }
    plain = _plain(found, {name: (order, found.counts(order)[place]) for name, (order, place) in places.items()}, out)
    rows = []
    for name, (order, place) in places.items():
        values = _values(found.adversarial[order][place][None], ends, seed)
        values |= {"removed": found.counts(order)[place], "validation": share(found.alike[order][place].tolist())}
        rows.append(Row(name, values | {"plain": share(plain[name].tolist())}, "ceiling" if name == PEEKING else ""))
    rows += _others(found, ends, found.counts(MOVED)[found.best], out)
    clean = right_without(found.spoilt.clean, found.spoilt.plain, [[]], out / "clean-plain.sqlite")[1][0]
    values = _values(ends.clean[None], ends, seed) | {"removed": 0, "plain": share(clean.tolist())}
    return (*rows, Row("the network trained without text", values, "ceiling"))


def _others(found: Edited, ends: Ends, count: int, out: Path) -> list[Row]:
    """As many units of other orders; on Diorama, units that truly detect text, up to their own stop and to their best."""
    seed, rows = found.plan.seed, []
    others = {ALL_MOVED: [ALL_MOVED], SORTED: [SORTED], "random": found.random}
    sets = [found.orders[order][:count] for orders in others.values() for order in orders]
    right = iter(right_without(found.spoilt.target, found.spoilt.adversarial, sets, out / "as-many.sqlite")[1])
    for name, orders in others.items():
        if orders:
            values = _values(np.stack([next(right) for _ in orders]), ends, seed)
            rows.append(Row(f"{name}, as many", values | {"removed": count}, "" if name == ALL_MOVED else "floor"))
    if KNOWN in found.orders:
        stop, best = found.stop(KNOWN), int(found.adversarial[KNOWN].mean(1).argmax())
        for name, at in (("the paper's stop", stop), ("best on the test images", best)):
            values = _values(found.adversarial[KNOWN][at][None], ends, seed) | {"removed": found.counts(KNOWN)[at]}
            rows.append(Row(f"{KNOWN}, {name}", values | {"validation": share(found.alike[KNOWN][at].tolist())}))
    return rows


def _values(right: Bool[np.ndarray, "draws images"], ends: Ends, seed: int) -> dict[str, Value]:
    gain = difference(right.astype(float), ends.first[None].astype(float), seed)
    accuracy = share(right[0].tolist()) if len(right) == 1 else Measure(float(right.mean()))
    return {"adversarial": accuracy, "gain": gain, "of the gap": recovered(right, ends, seed)}


def recovered(right: Bool[np.ndarray, "draws images"], ends: Ends, seed: int = 0) -> Measure:
    """The gain as a share of the gap; images are drawn again for the interval. NaN where there is no gap.

    >>> first, clean = np.array([True, False, False, False]), np.array([True, True, True, False])
    >>> recovered(np.array([[True, True, False, False]]), Ends(first, clean)).value
    0.5
    """
    images = len(ends.first)
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES) / images
    gap = weights @ (ends.clean.astype(float) - ends.first)
    gain = weights @ (right.mean(0) - ends.first)
    whole = float(ends.clean.mean() - ends.first.mean())
    if whole <= 0:
        return Measure(math.nan)
    shares = np.divide(gain, gap, out=np.full_like(gain, np.nan), where=gap > 0)
    low, high = np.nanquantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float((right.mean() - ends.first.mean()) / whole), low, high, float(np.nanstd(shares, ddof=1)), images)


def _plain(found: Edited, wanted: Mapping[str, tuple[str, int]], out: Path) -> dict[str, Bool[np.ndarray, " images"]]:
    """Which test images without text are right, with so many units of an order removed."""
    right = right_without(
        found.spoilt.target, found.spoilt.plain, [found.orders[order][:count] for order, count in wanted.values()], out / "plain.sqlite"
    )[1]
    return dict(zip(wanted, right, strict=True))


def _named_table(found: Edited) -> tuple[Table, ...]:
    """How many units of each layer are said to detect text, and, where it is known, how many do."""
    columns = [Column("said", "Units said to detect text."), Column("units", "Units that live.")]
    if found.truths:
        columns.insert(1, Column("do", f"Units whose masks overlap with the pixels of text by {CUT} or more (IoU)."))
        columns.insert(2, Column("said and do", "Both."))
    rows = []
    for layer in found.described.dissections:
        named, alive = (sum(unit.layer == layer for unit in units) for units in (found.named, found.described.alive))
        values: dict[str, Value] = {"said": named, "units": alive}
        if found.truths:
            true = [unit for unit in found.described.alive if unit.layer == layer and found.overlap(unit) >= CUT]
            values |= {"do": len(true), "said and do": len(set(true) & set(found.named))}
        rows.append(Row(layer, values))
    return (Table("text units by layer", tuple(columns), tuple(rows), "layer"),)


def _curve_tables(found: Edited) -> tuple[Table, ...]:
    """The figures' numbers."""
    names = [NAMED, PLAIN, MOVED, ALL_MOVED, SORTED, *([KNOWN] if KNOWN in found.orders else []), *found.random]
    columns = [Column(name, f"Adversarial accuracy without so many units, {name}.", "%", 1) for name in names]
    ruled = [name for name in names if name in found.alike]
    columns += [Column(f"validation, {name}", "Accuracy on the held-out training images.", "%", 1) for name in ruled]
    columns.append(Column("without text", f"Accuracy on the validation images without text, {PLAIN}.", "%", 1))
    rows = []
    longest = max((found.counts(name) for name in names), key=len)
    for count in longest:
        values: dict[str, Value] = {}
        for name in names:
            if count in found.counts(name):
                place = found.counts(name).index(count)
                values[name] = float(found.adversarial[name][place].mean())
                if name in found.alike:
                    values[f"validation, {name}"] = float(found.alike[name][place].mean())
                if name == PLAIN:
                    values["without text"] = float(found.validation[place].mean())
        rows.append(Row(str(count), values))
    return (Table("accuracy as units are removed", tuple(columns), tuple(rows), "units"),)


def _figure_8(found: Edited, ends: Ends) -> str:
    curves = [_curve(found, name) for name in (NAMED, PLAIN, MOVED, ALL_MOVED, SORTED, KNOWN) if name in found.orders]
    if found.random:
        drawn = np.stack([100 * found.adversarial[name].mean(1) for name in found.random])
        curves.append(Curve(f"random, {len(drawn)} draws", found.counts(found.random[0]), drawn.mean(0), drawn.min(0), drawn.max(0)))
    return lines(
        curves,
        "units removed",
        "adversarial accuracy, %",
        {"nothing removed": 100 * float(ends.first.mean())},
        {"stop": found.counts(MOVED)[found.best]},
    )


def _curve(found: Edited, name: str) -> Curve:
    return Curve(name, found.counts(name), 100 * found.adversarial[name].mean(1))


def _figure_15(found: Edited) -> str:
    drawn = {
        "as the training images": (NAMED, found.alike[NAMED]),
        "as the training images, by images with text": (MOVED, found.alike[MOVED]),
        "without text, by the same": (PLAIN, found.validation),
        "names of random classes, by the same": (MOVED, found.lettered),
    }
    curves = [Curve(name, found.counts(order), 100 * right.mean(1)) for name, (order, right) in drawn.items()]
    marks = {"the paper's stop": found.counts(NAMED)[found.stop(NAMED)], "stop": found.counts(MOVED)[found.best]}
    return lines(curves, "text units removed", "validation accuracy, %", marks=marks)


def _headlines(chosen: Row, table: Table, found: Edited) -> tuple[tuple[str, str], ...]:
    gap = chosen.values["of the gap"]
    paper = next(row for row in table.rows if row.name == STOPPED)
    told = [(_points(row), f"adversarial accuracy, {row.values['removed']} {row.name}") for row in (chosen, paper)]
    assert isinstance(gap, Measure)
    recovered = "–" if math.isnan(gap.value) else f"{100 * gap.value:.1f} %"
    told.insert(1, (recovered, "of the gap to the network trained without text"))
    control = next(row for row in table.rows if row.name.startswith(ALL_MOVED))
    told.append((_points(control), f"{control.values['removed']} of all units, sorted in the same way"))
    return (*told, (f"{len(found.named)}", f"of {len(found.described.alive)} units said to detect text"))


def _points(row: Row) -> str:
    gain = row.values["gain"]
    return f"{100 * gain.value:+.1f} points".replace("-", "−") if isinstance(gain, Measure) else "–"


def _truth_note(found: Edited) -> list[str]:
    if not found.truths:
        return []
    return [
        f"What a unit detects is known on Diorama: one detects text where its masks and the letters' pixels overlap by {CUT} or more (IoU, "
        "Network Dissection's cut). These are no ceiling: an early unit may let text in, as one for light edges does, without detecting it."
    ]
