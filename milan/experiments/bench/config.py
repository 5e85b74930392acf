"""Options of the bench experiment."""

from dataclasses import dataclass
from pathlib import Path

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class BenchConfig(DissectedTargetConfig):
    """Compare describers on units whose truth is known, beside a ceiling and floors.

    The probe must be one of Diorama's.

    Attributes:
        describers: The describers: names, NAME:KEY=VALUE,..., files of
            options as in configs/describe, or tables of descriptions.
        planted_units: A CSV file of what the units of a network of your own were constructed to detect, with the
            columns layer, unit, kind (single, either, nothing, ...) and text.
    """

    describers: list[str]
    target: str = "diorama:planted"
    planted_units: Path | None = None
