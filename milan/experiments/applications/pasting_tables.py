"""What cut-and-paste images did, as tables."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from milan.command import warnings_so_far
from milan.errors import BadInput
from milan.experiments.applications.pasting import Attacked, Attacks
from milan.experiments.describing.described import Described
from milan.experiments.reporting.report import Column, Report, Row, Table, Value
from milan.scores.intervals import LEVEL, RESAMPLES, Measure, mean
from milan.storage import versions

COLUMNS = (
    Column(
        "fooled",
        "The share of pasted images that the network puts into a class which the unit pushes, and which is neither the original's nor "
        "that of the picture the piece is from.",
        "%",
        1,
    ),
    Column("without the unit", "The same share of the same images, with the unit at 0.", "%", 1),
    Column("control", "The same share where the piece, of the same shape, is cut from a picture that the unit does not answer to.", "%", 1),
    Column(
        "of what is pasted",
        "The share put into the class of the picture that the piece is from: no adversarial image, but a covered one.",
        "%",
        1,
    ),
    Column("kept", "The share still put into the original's class.", "%", 1),
    Column("images", "Pasted images: originals times pieces."),
)
UNIT = (
    Column("description", "What was said of the unit."),
    Column("apart", "How unlike the two things are: one less the cosine of their texts' vectors.", "", 2),
    Column("pushes", "The classes whose logits the unit raises most on its exemplars, by setting it to 0."),
)
METHOD = (
    "As in appendix D of the paper: images that the unit does not answer to, and that the network gets right, get a piece of one to "
    "which the unit answers. The piece is what lies within the unit's mask, pasted where it was. The paper shows three hand-picked "
    "images; here all of a fixed plan are counted."
)
PUSHED = (
    "What a unit pushes is measured (logits with it less those without it), not read from the weights, so that any layer can be asked. An "
    "original is never of a class that its unit pushes."
)
INTERVALS = "Intervals are of 95%, by drawing units again a thousand times (for one unit: its originals)."


def report_of(described: Described, found: Sequence[Attacked], plan: Attacks, vectors: str) -> Report:
    """Tables and notes.

    Raises:
        BadInput: no unit could be attacked.
    """
    if not found:
        raise BadInput("no unit pushes a class, or too few images are right that it does not answer to; take more images or other units")
    shares = {name: np.array([each[name] for each in map(_shares, found)]) for name in _shares(found[0])}
    count = sum(one.answers.size for one in found)
    whole = Row("all", {name: mean(values.tolist(), plan.seed) for name, values in shares.items()} | {"images": count})
    more = _more(shares["fooled"], shares["control"], plan.seed), _more(shares["fooled"], shares["without the unit"], plan.seed)
    every = Table("all units", COLUMNS, (whole,), "units")
    rows = tuple(_row(one, plan.seed) for one in found)
    facts = described.facts | {
        "attacks": vars(plan),
        "seed": plan.seed,
        "versions": versions(),
        "warnings": warnings_so_far(),
    }
    lede = f"{len(found)} units whose descriptions join two unlike things, and {count:,} images made against them."
    notes = (
        f"Fooled less control: {_points(more[0])}; fooled less the same images without the unit: {_points(more[1])}.",
        METHOD,
        PUSHED,
        INTERVALS,
    )
    headlines = (
        (f"{100 * float(shares['fooled'].mean()):.1f} %", "of pasted images fool the network"),
        (f"{100 * float(shares['control'].mean()):.1f} %", "with pieces that the unit does not answer to"),
        (f"{100 * float(shares['without the unit'].mean()):.1f} %", "with the unit at 0"),
    )
    sources = {**described.sources, "word vectors": vectors}
    tables = (every, Table("units", (*UNIT, *COLUMNS), rows, "unit"))
    title = "Does a piece of one thing make it see another?"
    return Report("cut_and_paste", title, lede, tables, headlines, notes, facts, sources=sources)


def _shares(one: Attacked) -> dict[str, float]:
    return {
        "fooled": float(one.fooled(one.answers).mean()),
        "without the unit": float(one.fooled(one.without).mean()),
        "control": float(one.fooled(one.control).mean()),
        "of what is pasted": float(((one.answers == one.columns[None]) & ~one.kept).mean()),
        "kept": float(one.kept.mean()),
    }


def _row(one: Attacked, seed: int) -> Row:
    by_original = {
        "fooled": one.fooled(one.answers).mean(1),
        "without the unit": one.fooled(one.without).mean(1),
        "control": one.fooled(one.control).mean(1),
    }
    values: dict[str, Value] = {name: mean(each.tolist(), seed) for name, each in by_original.items()}
    values |= {name: value for name, value in _shares(one).items() if name not in values}
    told: dict[str, Value] = {"description": one.text, "apart": one.apart, "pushes": ", ".join(one.pushed), "images": int(one.answers.size)}
    return Row(str(one.unit), told | values)


def _more(one: Float[np.ndarray, " units"], other: Float[np.ndarray, " units"], seed: int) -> Measure:
    """By how much one share is above another on the mean of the same units."""
    apart = one - other
    drawn = apart[np.random.default_rng(seed).integers(0, len(apart), (RESAMPLES, len(apart)))].mean(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(apart.mean()), low, high, float(drawn.std(ddof=1)), len(apart))


def _points(measure: Measure) -> str:
    shown = [f"{100 * value:+.1f}".replace("-", "−") for value in (measure.value, measure.low, measure.high)]
    return f"{shown[0]} points ({shown[1]} to {shown[2]})"
