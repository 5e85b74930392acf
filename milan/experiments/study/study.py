"""Human studies: forms in which people describe units (MILAN, appendix A) or rate descriptions (Describe-and-Dissect,
A.1.6; SAND).
"""

from pathlib import Path

from milan.errors import BadInput
from milan.experiments.core.described_runs import find_dissections, list_units, load_runs
from milan.experiments.core.report import Report
from milan.experiments.study.config import StudyConfig
from milan.experiments.study.forms import make_study, sample_units, write_study_forms
from milan.experiments.study.mechanical_turk import write_mechanical_turk
from milan.experiments.study.ratings import read_published_ratings
from milan.experiments.study.tables import make_answers_report, make_forms_report, make_published_report
from milan.storage.files import lock_folder
from milan.storage.provenance import united


def study(config: StudyConfig) -> Report:
    """Write the forms of a human study, or evaluate the answers.

    Raises:
        BadInput: there are no runs, no images of a unit, or no valid answers.
    """
    out = config.out or Path("runs") / "study"
    if not config.runs:
        report = _make_published_report(config)
        with lock_folder(out):
            report.write(out)
        return report
    runs = load_runs(config.runs)
    with lock_folder(out):
        dissections = find_dissections(runs, list_units(runs))
        units = list_units(runs, config.units) if config.units else sample_units(dissections, runs, config)
        forms = make_study(runs, dissections, units, config)
        if config.answers:
            report = make_answers_report(forms, runs, config.answers, out)
        else:
            files = write_study_forms(forms, out / "forms", united(run.sources for run in runs))
            files += write_mechanical_turk(forms, out / "turk", config.image_url)
            report = make_forms_report(forms, runs, files, out)
        report.write(out)
    return report


def _make_published_report(config: StudyConfig) -> Report:
    files = config.answers or []
    tables = [table for file in files if (table := read_published_ratings(Path(file))) is not None]
    if not tables or len(tables) < len(files):
        raise BadInput(
            "give runs (folders that describe.py wrote), or with --answers a table of published ratings alone"
        )
    return make_published_report([response for table in tables for response in table], config.seed)
