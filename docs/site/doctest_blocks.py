"""A griffe extension that shows doctests within docstrings as code."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.M)


class DoctestBlocks(griffe.Extension):
    """Put each doctest into a fenced block, which Markdown would take for a quotation."""

    def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
        """Called by griffe for every object that it has loaded."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
