"""Options of the compare experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import ReportConfig


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ReportConfig):
    """Show several describers' runs side by side, in a table and on a page.

    Attributes:
        runs: Folders that describe.py wrote or tables of descriptions, of this package or published, each as PLACE or
            NAME=PLACE. Places of one name are merged.
        units: The units to show, as layer4:17. By default all.
        page_units: The largest number of units on the page; of more units so many are sampled randomly.
    """

    runs: list[str]
    units: list[str] | None = None
    page_units: int = 500
