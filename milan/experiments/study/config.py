"""Options of the study experiment."""

from dataclasses import dataclass
from typing import Any, Literal

from milan.errors import require_at_least
from milan.experiments.core.config import ReportConfig

StudyKind = Literal["rating", "annotation"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig(ReportConfig):
    """Write forms in which people describe units or rate descriptions, and evaluate their answers.

    Attributes:
        runs: Folders that describe.py wrote or tables of descriptions, each as PLACE or NAME=PLACE. One of them must
            have the images.
        kind: What people do: rating (rate each description from 1 to 5 and choose the best, as in Describe-and-Dissect
            and SAND) or annotation (write a sentence for each unit, as in MILANNOTATIONS).
        units: The units to show, as layer4:17. By default they are sampled from those that all runs describe.
        sampled_units: The number of units to sample, as many of each layer as of any other.
        units_per_form: The number of units in a form.
        exemplars: The number of exemplars of each unit.
        highlight_masks: Whether to dim exemplars outside their masks, as in the forms of MILAN and SAND;
            Describe-and-Dissect showed whole images.
        allow_ties: Whether several descriptions may be chosen as the best, as in SAND's form.
        qualification: A test before the form: a CSV file with the columns id, right, wrong, wrong2 ..., or "truth" to
            make a test from the known truth of Diorama's units. By default there is no test.
        image_url: The address at which Mechanical Turk finds the images. By default they are within its table.
        answers: Files that the forms saved, result tables of Mechanical Turk, or ratings in the format of
            Describe-and-Dissect.
    """

    runs: list[str] | None = None
    kind: StudyKind = "rating"
    units: list[str] | None = None
    sampled_units: int = 20
    units_per_form: int = 10
    exemplars: int = 15
    highlight_masks: bool = True
    allow_ties: bool = True
    qualification: str = ""
    image_url: str = ""
    answers: list[str] | None = None

    def __post_init__(self) -> None:
        require_at_least(
            1, sampled_units=self.sampled_units, units_per_form=self.units_per_form, exemplars=self.exemplars
        )

    @property
    def form_options(self) -> dict[str, Any]:
        """The options that decide what the forms look like, by name."""
        names = (
            "kind",
            "sampled_units",
            "units_per_form",
            "exemplars",
            "highlight_masks",
            "allow_ties",
            "qualification",
        )
        return {name: getattr(self, name) for name in (*names, "seed")}
