"""Human studies: forms in which people describe units (MILAN, appendix A) or rate descriptions (Describe-and-Dissect, A.1.6; SAND)."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.reporting.report import Report
    from milan.experiments.studies.forms import Kind
else:
    Kind = str


def study(
    runs: list[str] | None = None,
    kind: Kind = "rating",
    units: list[str] | None = None,
    count: int = 20,
    batch: int = 10,
    exemplars: int = 15,
    highlighted: bool = True,
    several: bool = True,
    qualification: str = "",
    image_url: str = "",
    answers: list[str] | None = None,
    out: Path = Path("runs/study"),
    seed: int = 0,
) -> "Report":
    """Makes forms for people, as pages and for Mechanical Turk; with --answers, reads what they answered

    Args:
        runs: folders that describe.py wrote or tables of descriptions, each PLACE or NAME=PLACE; one of them must have the pictures
        kind: rating (each description from 1 to 5, and the best) or annotation (a sentence for each unit)
        units: those to ask, as layer4:17; by default drawn by lot from those that all runs describe
        count: how many are drawn, as many of each layer as of any other
        batch: units in a form
        exemplars: images of each unit
        highlighted: dim what is outside the masks, as in MILAN's and SAND's forms; Describe-and-Dissect showed images whole
        several: several may be called best where they tie, as in SAND's form
        qualification: FILE.csv of a test (id, right, wrong, wrong2 ...), or truth: made from what is true of Diorama's units
        image_url: address at which Mechanical Turk finds the pictures; within its table by default
        answers: files that the forms saved, tables of Mechanical Turk's results, or of ratings as Describe-and-Dissect published its own
        out: the folder to write to
        seed: of all lots and intervals
    """
    from milan.errors import BadInput
    from milan.experiments.describing.runs import pictured, runs_of, units_of
    from milan.experiments.studies.forms import Asked, draw_units, study_of, write_study
    from milan.experiments.studies.rating import published_ratings
    from milan.experiments.studies.tables import answered, published, report_of_forms
    from milan.experiments.studies.turk import write_turk
    from milan.provenance import united
    from milan.storage import locked

    asked = Asked(kind, count, batch, exemplars, highlighted, several, qualification, seed)
    if not runs:
        tables = [table for file in answers or () if (table := published_ratings(Path(file))) is not None]
        if not tables or len(tables) < len(answers or ()):
            raise BadInput("give runs (folders that describe.py wrote), or with --answers a table of published ratings alone")
        with locked(out):
            report = published([one for several in tables for one in several], seed)
            report.write(out)
        return report
    found = runs_of(runs)
    with locked(out):
        dissections = pictured(found, units_of(found))
        chosen = units_of(found, units) if units else draw_units(dissections, found, asked)
        made = study_of(found, dissections, chosen, asked)
        if answers:
            report = answered(made, found, answers, out)
        else:
            files = write_study(made, out / "forms", united(run.sources for run in found))
            report = report_of_forms(made, found, [*files, *write_turk(made, out / "turk", image_url)], out)
        report.write(out)
    return report
