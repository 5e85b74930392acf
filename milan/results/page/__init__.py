"""HTML pages that open from the file system, without a server: a catalogue, a report, a form for raters."""

from milan.results.page.catalogue_page import write_page
from milan.results.page.contact_sheets import write_contact_sheets

__all__ = ["write_contact_sheets", "write_page"]
