"""The page of a catalogue: one folder that opens from the file system, without a server or a network."""

from milan.page.sheets import write_sheets
from milan.page.write import write_page

__all__ = ["write_page", "write_sheets"]
