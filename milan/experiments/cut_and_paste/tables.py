"""What cut-and-paste images did, as tables."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from milan.console.command_line import get_recorded_warnings
from milan.errors import BadInput
from milan.experiments.core.described_network import DescribedNetwork
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.cut_and_paste.attacks import AttackConfig, AttackedUnit
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure, estimate_mean
from milan.storage.files import collect_versions

COLUMNS = (
    Column(
        "fooled",
        "The share of pasted images that the network puts into a class which the unit pushes, and which is neither the"
        " original's nor that of the picture the piece is from.",
        "%",
        1,
    ),
    Column("without the unit", "The same share of the same images, with the unit at 0.", "%", 1),
    Column(
        "control",
        "The same share where the piece, of the same shape, is cut from a picture that the unit does not answer to.",
        "%",
        1,
    ),
    Column(
        "of what is pasted",
        "The share put into the class of the picture that the piece is from: no adversarial image, but a covered one.",
        "%",
        1,
    ),
    Column("kept", "The share still put into the original's class.", "%", 1),
    Column("images", "Pasted images: originals times pieces."),
)
UNIT_COLUMNS = (
    Column("description", "What was said of the unit."),
    Column("apart", "How unlike the two things are: one less the cosine of their texts' vectors.", "", 2),
    Column("pushes", "The classes whose logits the unit raises most on its exemplars, by setting it to 0."),
)
METHOD_NOTE = (
    "As in appendix D of the paper: images that the unit does not answer to, and that the network gets right, get a"
    " piece of one to which the unit answers. The piece is what lies within the unit's mask, pasted where it was. The"
    " paper shows three hand-picked images; here all of a fixed plan are counted."
)
PUSHED_NOTE = (
    "What a unit pushes is measured (logits with it less those without it), not read from the weights, so that any"
    " layer can be asked. An original is never of a class that its unit pushes."
)
INTERVALS_NOTE = "Intervals are of 95%, by drawing units again a thousand times (for one unit: its originals)."


def make_report(
    described: DescribedNetwork, attacked_units: Sequence[AttackedUnit], config: AttackConfig, vectors: str
) -> Report:
    """Tables and notes.

    Raises:
        BadInput: no unit could be attacked.
    """
    if not attacked_units:
        raise BadInput(
            "no unit pushes a class, or too few images are right that it does not answer to; take more images or other"
            " units"
        )
    shares = {
        name: np.array([each[name] for each in map(_compute_shares, attacked_units)])
        for name in _compute_shares(attacked_units[0])
    }
    count = sum(one.answers.size for one in attacked_units)
    whole = Row(
        "all",
        {name: estimate_mean(values.tolist(), config.seed) for name, values in shares.items()} | {"images": count},
    )
    more = (
        _compute_difference(shares["fooled"], shares["control"], config.seed),
        _compute_difference(shares["fooled"], shares["without the unit"], config.seed),
    )
    every = Table("all units", COLUMNS, (whole,), "units")
    rows = tuple(_make_row(one, config.seed) for one in attacked_units)
    facts = described.facts | {
        "attacks": vars(config),
        "seed": config.seed,
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
    lede = (
        f"{len(attacked_units)} units whose descriptions join two unlike things, and {count:,} images made against"
        " them."
    )
    notes = (
        (
            f"Fooled less control: {_format_points(more[0])}; fooled less the same images without the unit:"
            f" {_format_points(more[1])}."
        ),
        METHOD_NOTE,
        PUSHED_NOTE,
        INTERVALS_NOTE,
    )
    headlines = (
        (f"{100 * float(shares['fooled'].mean()):.1f} %", "of pasted images fool the network"),
        (f"{100 * float(shares['control'].mean()):.1f} %", "with pieces that the unit does not answer to"),
        (f"{100 * float(shares['without the unit'].mean()):.1f} %", "with the unit at 0"),
    )
    sources = {**described.sources, "word vectors": vectors}
    tables = (every, Table("units", (*UNIT_COLUMNS, *COLUMNS), rows, "unit"))
    title = "Does a piece of one thing make it see another?"
    return Report("cut_and_paste", title, lede, tables, headlines, notes, facts, sources=sources)


def _compute_shares(one: AttackedUnit) -> dict[str, float]:
    return {
        "fooled": float(one.find_fooled(one.answers).mean()),
        "without the unit": float(one.find_fooled(one.without).mean()),
        "control": float(one.find_fooled(one.control).mean()),
        "of what is pasted": float(((one.answers == one.columns[None]) & ~one.is_kept).mean()),
        "kept": float(one.is_kept.mean()),
    }


def _make_row(one: AttackedUnit, seed: int) -> Row:
    by_original = {
        "fooled": one.find_fooled(one.answers).mean(1),
        "without the unit": one.find_fooled(one.without).mean(1),
        "control": one.find_fooled(one.control).mean(1),
    }
    values: dict[str, Value] = {name: estimate_mean(each.tolist(), seed) for name, each in by_original.items()}
    values |= {name: value for name, value in _compute_shares(one).items() if name not in values}
    cells: dict[str, Value] = {
        "description": one.text,
        "apart": one.distance,
        "pushes": ", ".join(one.pushed),
        "images": int(one.answers.size),
    }
    return Row(str(one.unit), cells | values)


def _compute_difference(one: Float[np.ndarray, " units"], other: Float[np.ndarray, " units"], seed: int) -> Measure:
    """By how much one share is above another on the mean of the same units."""
    apart = one - other
    drawn = apart[np.random.default_rng(seed).integers(0, len(apart), (RESAMPLES, len(apart)))].mean(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(apart.mean()), low, high, float(drawn.std(ddof=1)), len(apart))


def _format_points(measure: Measure) -> str:
    shown = [f"{100 * value:+.1f}".replace("-", "−") for value in (measure.value, measure.low, measure.high)]
    return f"{shown[0]} points ({shown[1]} to {shown[2]})"
