"""The page of a catalogue: one folder that opens from the file system, without a server or a network."""

from milan.results.page.catalogue_page import write_page
from milan.results.page.contact_sheets import write_contact_sheets

__all__ = ["write_contact_sheets", "write_page"]
