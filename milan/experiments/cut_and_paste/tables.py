"""The predictions for cut-and-paste images, as tables."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from milan.errors import BadInput
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.cut_and_paste.attacks import AttackedUnit
from milan.experiments.cut_and_paste.config import CutAndPasteConfig
from milan.scores.confidence_intervals import LEVEL, RESAMPLES, Measure, estimate_mean

COLUMNS = (
    Column(
        "fooled",
        "Share of adversarial images for which a class is predicted that the unit promotes, and that is neither the"
        " original's nor the distractor's.",
        "%",
        1,
    ),
    Column("without the unit", "The same share of the same images, with the unit ablated.", "%", 1),
    Column(
        "control",
        "The same share if the region, of the same shape, is cut from an image that does not activate the unit.",
        "%",
        1,
    ),
    Column(
        "distractor",
        "Share of images for which the distractor's class is predicted: these are not adversarial, but covered.",
        "%",
        1,
    ),
    Column("kept", "Share of images for which the original's class is still predicted.", "%", 1),
    Column("images", "Number of adversarial images: originals times distractors."),
)
UNIT_COLUMNS = (
    Column("description", "The unit's description."),
    Column("distance", "Distance of the two things: 1 minus the cosine similarity of their texts.", "", 2),
    Column("promotes", "The classes whose logits the unit raises most on its exemplars, by ablating it."),
)
METHOD_NOTE = (
    "As in appendix D of the paper: an image that does not activate the unit, and that is classified correctly, gets a"
    " region of an image that activates it. The region is the unit's mask, pasted at its own place. The paper shows"
    " three hand-picked images; here all images of a fixed plan are counted."
)
PROMOTED_NOTE = (
    "Promoted classes are measured (logits with the unit minus those without it), not read from weights, so that any"
    " layer can be studied. An original is never of a class that its unit promotes."
)
INTERVALS_NOTE = "Intervals are 95% bootstrap intervals over units (for one unit: over its originals)."


def make_report(study: Study, attacked_units: Sequence[AttackedUnit], config: CutAndPasteConfig) -> Report:
    """Return the table of all units and that of each unit.

    Raises:
        BadInput: no unit could be attacked.
    """
    if not attacked_units:
        raise BadInput(
            "no unit promotes a class, or too few images that do not activate it are classified correctly; use more"
            " images or other units"
        )
    each = [_compute_shares(one) for one in attacked_units]
    shares = {name: np.array([values[name] for values in each]) for name in each[0]}
    means: dict[str, Value] = {name: estimate_mean(values.tolist(), config.seed) for name, values in shares.items()}
    count = sum(one.predictions.size for one in attacked_units)
    differences = [
        _format_points(_compute_difference(shares["fooled"], shares[name], config.seed))
        for name in ("control", "without the unit")
    ]
    rows = tuple(_make_row(one, config.seed) for one in attacked_units)
    headlines = {
        "fooled": "of adversarial images fool the target",
        "control": "with regions that do not activate the unit",
        "without the unit": "with the unit ablated",
    }
    options = ("originals", "distractors", "promoted_classes", "synsets")
    return study.report(
        "Does a region of one thing make the network see another?",
        f"{len(attacked_units)} units whose descriptions join two dissimilar things, and {count:,} adversarial images.",
        [
            Table("all units", COLUMNS, (Row("all", means | {"images": count}),), "units"),
            Table("units", (*UNIT_COLUMNS, *COLUMNS), rows, "unit"),
        ],
        headlines=tuple((f"{100 * float(shares[name].mean()):.1f} %", text) for name, text in headlines.items()),
        notes=(
            f"Fooled minus control: {differences[0]}; fooled minus the same images without the unit: {differences[1]}.",
            METHOD_NOTE,
            PROMOTED_NOTE,
            INTERVALS_NOTE,
        ),
        facts={name: getattr(config, name) for name in options},
        sources={"word vectors": config.vectors},
    )


def _compute_shares(one: AttackedUnit) -> dict[str, float]:
    covered = (one.predictions == one.distractor_classes[None]) & ~one.is_kept
    fooled = {name: float(values.mean()) for name, values in _compute_fooled_by_original(one).items()}
    return fooled | {"distractor": float(covered.mean()), "kept": float(one.is_kept.mean())}


def _compute_fooled_by_original(one: AttackedUnit) -> dict[str, Float[np.ndarray, " originals"]]:
    predictions = {"fooled": one.predictions, "without the unit": one.without, "control": one.control}
    return {name: one.find_fooled(each).mean(1) for name, each in predictions.items()}


def _make_row(one: AttackedUnit, seed: int) -> Row:
    values: dict[str, Value] = {
        "description": one.text,
        "distance": one.distance,
        "promotes": ", ".join(one.promoted),
        "images": int(one.predictions.size),
        **_compute_shares(one),
    }
    for name, each in _compute_fooled_by_original(one).items():
        values[name] = estimate_mean(each.tolist(), seed)
    return Row(str(one.unit), values)


def _compute_difference(one: Float[np.ndarray, " units"], other: Float[np.ndarray, " units"], seed: int) -> Measure:
    """Return the mean difference of two shares of the same units."""
    differences = one - other
    rows = np.random.default_rng(seed).integers(0, len(differences), (RESAMPLES, len(differences)))
    means = differences[rows].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Measure(float(differences.mean()), low, high, float(means.std(ddof=1)), len(differences))


def _format_points(measure: Measure) -> str:
    value, low, high = (f"{100 * each:+.1f}".replace("-", "−") for each in (measure.value, measure.low, measure.high))
    return f"{value} points ({low} to {high})"
