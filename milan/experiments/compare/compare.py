"""Several described runs side by side: a table, and a page with every describer's text under each unit's exemplars."""

from pathlib import Path

from milan.experiments.compare.config import CompareConfig
from milan.experiments.compare.tables import Comparison, sample_units
from milan.experiments.core.described_runs import find_dissections, list_units, load_runs, select_units_with_images
from milan.experiments.core.report import Report
from milan.results.page import write_exemplar_views
from milan.storage.files import lock_folder


def compare(config: CompareConfig) -> Report:
    """Compare descriptions of the same units by different describers.

    Raises:
        BadInput: a run cannot be read, or none of them describes a unit of ``config.units``.
    """
    out, runs = config.out or Path("runs") / "compare", load_runs(config.runs)
    units = list_units(runs, config.units or ())
    shown = sample_units(units, config.page_units, config.seed)
    with lock_folder(out):
        comparison = Comparison(runs, units, find_dissections(runs, units), config.seed)
        report = comparison.make_report(len(shown))
        with_images = select_units_with_images(comparison.dissections, shown)
        views = write_exemplar_views(comparison.dissections, with_images, out / "page")
        report.write(out, [comparison.make_view(unit) | {"pictures": [views.get(unit)]} for unit in shown])
    return report
