"""What editing did, as tables and as the paper's Figures 8 and 15."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from milan.console.command_line import get_recorded_warnings
from milan.experiments.core.line_plots import Curve, plot_lines
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.edit.unit_removal import (
    ALL_UNITS,
    ALL_UNITS_BY_LETTERED,
    MIN_OVERLAP,
    PLAIN,
    TEXT_UNITS,
    TEXT_UNITS_BY_LETTERED,
    TRUE_TEXT_UNITS,
    EditResult,
)
from milan.scores.accuracy_under_ablation import compute_mean_difference, evaluate_ablations
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure, estimate_share
from milan.storage.files import collect_versions

COLUMNS = (
    Column("removed", "How many units put out 0."),
    Column(
        "adversarial",
        "The share of the adversarial test images, each with the name of a class drawn by lot, put into their class.",
        "%",
        1,
    ),
    Column("gain", "How much more of these than with nothing removed; both on the same images.", "%", 1, "more"),
    Column(
        "of the gap",
        "The gain as a share of what lies between the network as it is and the one trained without text, on the"
        " adversarial images.",
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
PAPER_STOP, ALL_TRIED = "text units, the paper's stop", "text units, as many as are tried"
PLAIN_STOPPED = "text units by images without text, stopped by these"
LETTERED_PAPER_STOP, LETTERED_OWN_STOP = (
    "text units by images with text, the paper's stop",
    "text units by images with text, their own stop",
)
LETTERED_BEST_ON_TEST = "text units by images with text, best on the test images"
RULE_NOTE = (
    "Text units are sorted by the accuracy without each alone, highest first: on held-out training images, half of "
    "which carry their own class's name (the paper's order: section 7 and appendix E); on images without text; or on "
    "these with names of random classes. Ties are broken at random."
)
STOP_NOTE = (
    "No order and no rule is given a test image. The paper's rule (appendix E): the last number of units at which the "
    "accuracy on the held-out training images is no less than at first; the order by images without text is stopped by "
    "these instead. The other, for who knows that text is what misleads: where most validation images with names of "
    "random classes are right. 'Best on the test images' is no rule; the paper's 4.9 points were found so, its rule "
    "gave 3.1."
)
CONTROL_NOTE = (
    "All units sorted in the same way are the control: where as many of these do as well, it is the sorting that helps,"
    " and not what the descriptions say."
)
INTERVALS_NOTE = (
    "Intervals are of 95%: of shares by Wilson's formula, of gains by drawing images (and orders) again a thousand"
    " times."
)
FIGURE_8_CAPTION = (
    "Accuracy on the adversarial test images as units are removed, as in the paper's Figure 8. The band is from the"
    " least to the greatest of the random draws. Dotted upwards: the stop by validation images with text."
)
FIGURE_15_CAPTION = (
    "Accuracy on validation images, as in Figure 15: like the training images, half of them with their class's name, "
    "by which the paper's rule stops; without text; and with names of random classes, by which ours stops."
)


@dataclass(frozen=True)
class GapEndpoints:
    """Which adversarial images are right at first, and by the network trained without text."""

    first: Bool[np.ndarray, " images"]
    clean: Bool[np.ndarray, " images"]


def make_report(result: EditResult, out: Path) -> Report:
    """Tables, figures and notes."""
    ends = GapEndpoints(
        result.adversarial[TEXT_UNITS][0],
        evaluate_ablations(result.network.clean, result.network.adversarial, [[]], out / "clean.sqlite")[1][0],
    )
    table = Table("removed units and accuracy", COLUMNS, _make_rows(result, ends, out), "removed")
    chosen = next(row for row in table.rows if row.name == LETTERED_OWN_STOP)
    facts = {
        **result.described.facts,
        "clean network": result.network.clean.spec,
        "words": list(result.config.words),
        "images tested with": len(ends.first),
        "images validated with": result.alike[TEXT_UNITS].shape[1],
        "seed": result.config.seed,
        "orders": {name: [str(unit) for unit in order[: result.config.most]] for name, order in result.orders.items()},
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
    lede = (
        f"{result.described.evaluated.name} says of {len(result.text_units)} of {len(result.described.active_units)}"
        f" units that they detect {', '.join(result.config.words[:-1])} or {result.config.words[-1]}. They are removed"
        " one by one from a network that relies on text."
    )
    notes = (result.network.note, RULE_NOTE, STOP_NOTE, CONTROL_NOTE, INTERVALS_NOTE, *_make_truth_note(result))
    figures = ((FIGURE_8_CAPTION, _plot_figure_8(result, ends)), (FIGURE_15_CAPTION, _plot_figure_15(result)))
    tables = (table, *_make_named_table(result), *_make_curve_tables(result))
    sources = {**result.described.sources, "images": result.network.images, "clean network": result.network.clean.spec}
    title, heads = "Can the network be made not to read?", _make_headlines(chosen, table, result)
    return Report("edit", title, lede, tables, heads, notes, facts, figures, sources=sources)


def _make_rows(result: EditResult, ends: GapEndpoints, out: Path) -> tuple[Row, ...]:
    seed = result.config.seed
    places = {
        "nothing": (TEXT_UNITS, 0),
        PAPER_STOP: (TEXT_UNITS, result.find_stop(TEXT_UNITS)),
        ALL_TRIED: (TEXT_UNITS, len(result.list_counts(TEXT_UNITS)) - 1),
        PLAIN_STOPPED: (PLAIN, result.find_stop(PLAIN)),
        LETTERED_PAPER_STOP: (TEXT_UNITS_BY_LETTERED, result.find_stop(TEXT_UNITS_BY_LETTERED)),
        LETTERED_OWN_STOP: (TEXT_UNITS_BY_LETTERED, result.find_best),
        LETTERED_BEST_ON_TEST: (
            TEXT_UNITS_BY_LETTERED,
            int(result.adversarial[TEXT_UNITS_BY_LETTERED].mean(1).argmax()),
        ),
    }
    plain = _evaluate_plain(
        result, {name: (order, result.list_counts(order)[place]) for name, (order, place) in places.items()}, out
    )
    rows = []
    for name, (order, place) in places.items():
        values = _make_values(result.adversarial[order][place][None], ends, seed)
        values |= {
            "removed": result.list_counts(order)[place],
            "validation": estimate_share(result.alike[order][place].tolist()),
        }
        rows.append(
            Row(
                name,
                values | {"plain": estimate_share(plain[name].tolist())},
                "ceiling" if name == LETTERED_BEST_ON_TEST else "",
            )
        )
    rows += _make_control_rows(result, ends, result.list_counts(TEXT_UNITS_BY_LETTERED)[result.find_best], out)
    clean = evaluate_ablations(result.network.clean, result.network.plain, [[]], out / "clean-plain.sqlite")[1][0]
    values = _make_values(ends.clean[None], ends, seed) | {"removed": 0, "plain": estimate_share(clean.tolist())}
    return (*rows, Row("the network trained without text", values, "ceiling"))


def _make_control_rows(result: EditResult, ends: GapEndpoints, count: int, out: Path) -> list[Row]:
    """As many units of other orders; on Diorama, units that truly detect text, up to their own stop and to
    their best.
    """
    seed, rows = result.config.seed, []
    others = {ALL_UNITS_BY_LETTERED: [ALL_UNITS_BY_LETTERED], ALL_UNITS: [ALL_UNITS], "random": result.random_orders}
    sets = [result.orders[order][:count] for orders in others.values() for order in orders]
    right = iter(evaluate_ablations(result.network.target, result.network.adversarial, sets, out / "as-many.sqlite")[1])
    for name, orders in others.items():
        if orders:
            values = _make_values(np.stack([next(right) for _ in orders]), ends, seed)
            rows.append(
                Row(f"{name}, as many", values | {"removed": count}, "" if name == ALL_UNITS_BY_LETTERED else "floor")
            )
    if TRUE_TEXT_UNITS in result.orders:
        stop, best = result.find_stop(TRUE_TEXT_UNITS), int(result.adversarial[TRUE_TEXT_UNITS].mean(1).argmax())
        for name, at in (("the paper's stop", stop), ("best on the test images", best)):
            values = _make_values(result.adversarial[TRUE_TEXT_UNITS][at][None], ends, seed) | {
                "removed": result.list_counts(TRUE_TEXT_UNITS)[at]
            }
            rows.append(
                Row(
                    f"{TRUE_TEXT_UNITS}, {name}",
                    values | {"validation": estimate_share(result.alike[TRUE_TEXT_UNITS][at].tolist())},
                )
            )
    return rows


def _make_values(right: Bool[np.ndarray, "draws images"], ends: GapEndpoints, seed: int) -> dict[str, Value]:
    gain = compute_mean_difference(right.astype(float), ends.first[None].astype(float), seed)
    accuracy = estimate_share(right[0].tolist()) if len(right) == 1 else Measure(float(right.mean()))
    return {"adversarial": accuracy, "gain": gain, "of the gap": compute_recovered_share(right, ends, seed)}


def compute_recovered_share(correct: Bool[np.ndarray, "draws images"], ends: GapEndpoints, seed: int = 0) -> Measure:
    """The gain as a share of the gap; images are drawn again for the interval. NaN where there is no gap.

    >>> first, clean = np.array([True, False, False, False]), np.array([True, True, True, False])
    >>> compute_recovered_share(np.array([[True, True, False, False]]), GapEndpoints(first, clean)).value
    0.5
    """
    images = len(ends.first)
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES) / images
    gap = weights @ (ends.clean.astype(float) - ends.first)
    gain = weights @ (correct.mean(0) - ends.first)
    whole = float(ends.clean.mean() - ends.first.mean())
    if whole <= 0:
        return Measure(math.nan)
    shares = np.divide(gain, gap, out=np.full_like(gain, np.nan), where=gap > 0)
    low, high = np.nanquantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(
        float((correct.mean() - ends.first.mean()) / whole), low, high, float(np.nanstd(shares, ddof=1)), images
    )


def _evaluate_plain(
    result: EditResult, wanted: Mapping[str, tuple[str, int]], out: Path
) -> dict[str, Bool[np.ndarray, " images"]]:
    """Which test images without text are right, with so many units of an order removed."""
    right = evaluate_ablations(
        result.network.target,
        result.network.plain,
        [result.orders[order][:count] for order, count in wanted.values()],
        out / "plain.sqlite",
    )[1]
    return dict(zip(wanted, right, strict=True))


def _make_named_table(result: EditResult) -> tuple[Table, ...]:
    """How many units of each layer are said to detect text, and, where it is known, how many do."""
    columns = [Column("said", "Units said to detect text."), Column("units", "Units that live.")]
    if result.truths:
        columns.insert(
            1, Column("do", f"Units whose masks overlap with the pixels of text by {MIN_OVERLAP} or more (IoU).")
        )
        columns.insert(2, Column("said and do", "Both."))
    rows = []
    for layer in result.described.dissections:
        named, alive = (
            sum(unit.layer == layer for unit in units) for units in (result.text_units, result.described.active_units)
        )
        values: dict[str, Value] = {"said": named, "units": alive}
        if result.truths:
            true = [
                unit
                for unit in result.described.active_units
                if unit.layer == layer and result.compute_overlap(unit) >= MIN_OVERLAP
            ]
            values |= {"do": len(true), "said and do": len(set(true) & set(result.text_units))}
        rows.append(Row(layer, values))
    return (Table("text units by layer", tuple(columns), tuple(rows), "layer"),)


def _make_curve_tables(result: EditResult) -> tuple[Table, ...]:
    """The figures' numbers."""
    names = [
        TEXT_UNITS,
        PLAIN,
        TEXT_UNITS_BY_LETTERED,
        ALL_UNITS_BY_LETTERED,
        ALL_UNITS,
        *([TRUE_TEXT_UNITS] if TRUE_TEXT_UNITS in result.orders else []),
        *result.random_orders,
    ]
    columns = [Column(name, f"Adversarial accuracy without so many units, {name}.", "%", 1) for name in names]
    ruled = [name for name in names if name in result.alike]
    columns += [Column(f"validation, {name}", "Accuracy on the held-out training images.", "%", 1) for name in ruled]
    columns.append(Column("without text", f"Accuracy on the validation images without text, {PLAIN}.", "%", 1))
    rows = []
    longest = max((result.list_counts(name) for name in names), key=len)
    for count in longest:
        values: dict[str, Value] = {}
        for name in names:
            if count in result.list_counts(name):
                place = result.list_counts(name).index(count)
                values[name] = float(result.adversarial[name][place].mean())
                if name in result.alike:
                    values[f"validation, {name}"] = float(result.alike[name][place].mean())
                if name == PLAIN:
                    values["without text"] = float(result.validation[place].mean())
        rows.append(Row(str(count), values))
    return (Table("accuracy as units are removed", tuple(columns), tuple(rows), "units"),)


def _plot_figure_8(result: EditResult, ends: GapEndpoints) -> str:
    curves = [
        _make_curve(result, name)
        for name in (TEXT_UNITS, PLAIN, TEXT_UNITS_BY_LETTERED, ALL_UNITS_BY_LETTERED, ALL_UNITS, TRUE_TEXT_UNITS)
        if name in result.orders
    ]
    if result.random_orders:
        drawn = np.stack([100 * result.adversarial[name].mean(1) for name in result.random_orders])
        curves.append(
            Curve(
                f"random, {len(drawn)} draws",
                result.list_counts(result.random_orders[0]),
                drawn.mean(0),
                drawn.min(0),
                drawn.max(0),
            )
        )
    return plot_lines(
        curves,
        "units removed",
        "adversarial accuracy, %",
        {"nothing removed": 100 * float(ends.first.mean())},
        {"stop": result.list_counts(TEXT_UNITS_BY_LETTERED)[result.find_best]},
    )


def _make_curve(result: EditResult, name: str) -> Curve:
    return Curve(name, result.list_counts(name), 100 * result.adversarial[name].mean(1))


def _plot_figure_15(result: EditResult) -> str:
    drawn = {
        "as the training images": (TEXT_UNITS, result.alike[TEXT_UNITS]),
        "as the training images, by images with text": (TEXT_UNITS_BY_LETTERED, result.alike[TEXT_UNITS_BY_LETTERED]),
        "without text, by the same": (PLAIN, result.validation),
        "names of random classes, by the same": (TEXT_UNITS_BY_LETTERED, result.lettered),
    }
    curves = [Curve(name, result.list_counts(order), 100 * right.mean(1)) for name, (order, right) in drawn.items()]
    marks = {
        "the paper's stop": result.list_counts(TEXT_UNITS)[result.find_stop(TEXT_UNITS)],
        "stop": result.list_counts(TEXT_UNITS_BY_LETTERED)[result.find_best],
    }
    return plot_lines(curves, "text units removed", "validation accuracy, %", vertical_marks=marks)


def _make_headlines(chosen: Row, table: Table, result: EditResult) -> tuple[tuple[str, str], ...]:
    gap = chosen.values["of the gap"]
    paper = next(row for row in table.rows if row.name == PAPER_STOP)
    headlines = [
        (_format_points(row), f"adversarial accuracy, {row.values['removed']} {row.name}") for row in (chosen, paper)
    ]
    assert isinstance(gap, Measure)
    recovered = "–" if math.isnan(gap.value) else f"{100 * gap.value:.1f} %"
    headlines.insert(1, (recovered, "of the gap to the network trained without text"))
    control = next(row for row in table.rows if row.name.startswith(ALL_UNITS_BY_LETTERED))
    headlines.append((_format_points(control), f"{control.values['removed']} of all units, sorted in the same way"))
    return (
        *headlines,
        (f"{len(result.text_units)}", f"of {len(result.described.active_units)} units said to detect text"),
    )


def _format_points(row: Row) -> str:
    gain = row.values["gain"]
    return f"{100 * gain.value:+.1f} points".replace("-", "−") if isinstance(gain, Measure) else "–"


def _make_truth_note(result: EditResult) -> list[str]:
    if not result.truths:
        return []
    return [
        "What a unit detects is known on Diorama: one detects text where its masks and the letters' pixels overlap by"
        f" {MIN_OVERLAP} or more (IoU, Network Dissection's cut). These are no ceiling: an early unit may let text in,"
        " as one for light edges does, without detecting it."
    ]
