"""HTML pages that open from the file system, without a server: a catalogue, a report, a form for raters."""

from milan.results.page.catalogue_page import write_page
from milan.results.page.exemplar_views import write_exemplar_views

__all__ = ["write_exemplar_views", "write_page"]
