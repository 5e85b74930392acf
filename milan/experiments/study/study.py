"""Human studies: forms in which people describe units (MILAN, appendix A) or rate descriptions (Describe-and-Dissect,
A.1.6; SAND).
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported when there is work to do: --help answers at once
    from milan.experiments.core.report import Report
    from milan.experiments.study.forms import StudyKind
else:
    StudyKind = str


def study(
    runs: list[str] | None = None,
    kind: StudyKind = "rating",
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
        runs: folders that describe.py wrote or tables of descriptions, each PLACE or NAME=PLACE; one of them must have
            the pictures
        kind: rating (each description from 1 to 5, and the best) or annotation (a sentence for each unit)
        units: those to ask, as layer4:17; by default drawn by lot from those that all runs describe
        count: how many are drawn, as many of each layer as of any other
        batch: units in a form
        exemplars: images of each unit
        highlighted: dim what is outside the masks, as in MILAN's and SAND's forms; Describe-and-Dissect showed images
            whole
        several: several may be called best where they tie, as in SAND's form
        qualification: FILE.csv of a test (id, right, wrong, wrong2 ...), or truth: made from what is true of Diorama's
            units
        image_url: address at which Mechanical Turk finds the pictures; within its table by default
        answers: files that the forms saved, tables of Mechanical Turk's results, or of ratings as Describe-and-Dissect
            published its own
        out: the folder to write to
        seed: of all lots and intervals
    """
    from milan.errors import BadInput
    from milan.experiments.core.described_runs import find_dissections, list_units, load_runs
    from milan.experiments.study.forms import StudyConfig, make_study, sample_units, write_study_forms
    from milan.experiments.study.mechanical_turk import write_mechanical_turk
    from milan.experiments.study.ratings import read_published_ratings
    from milan.experiments.study.tables import make_answers_report, make_forms_report, make_published_report
    from milan.storage.files import lock_folder
    from milan.storage.provenance import united

    asked = StudyConfig(kind, count, batch, exemplars, highlighted, several, qualification, seed)
    if not runs:
        tables = [table for file in answers or () if (table := read_published_ratings(Path(file))) is not None]
        if not tables or len(tables) < len(answers or ()):
            raise BadInput(
                "give runs (folders that describe.py wrote), or with --answers a table of published ratings alone"
            )
        with lock_folder(out):
            report = make_published_report([one for several in tables for one in several], seed)
            report.write(out)
        return report
    found = load_runs(runs)
    with lock_folder(out):
        dissections = find_dissections(found, list_units(found))
        chosen = list_units(found, units) if units else sample_units(dissections, found, asked)
        made = make_study(found, dissections, chosen, asked)
        if answers:
            report = make_answers_report(made, found, answers, out)
        else:
            files = write_study_forms(made, out / "forms", united(run.sources for run in found))
            report = make_forms_report(
                made, found, [*files, *write_mechanical_turk(made, out / "turk", image_url)], out
            )
        report.write(out)
    return report
