"""Values that a page's script loads when it needs them: script files beside the page, or elements within it.

A page that was opened from the file system may not read files, but may run scripts. Each value is therefore a file
``data/NAME.js`` with the call ``milanData("NAME", VALUE)``, where VALUE is JSON and NAME the hash of it. In a page that
is one file, the value is the content of ``<script type="application/json" id="data-NAME">``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from milan.storage.files import write_text

DATA_FOLDER = "data"


class DataFiles:
    """The values of a page.

    Args:
        folder: the page's folder, to which values are written; None to hold them for a page that is one file.

    Attributes:
        inlined: the JSON of each value, by name, of a page that is one file.
    """

    def __init__(self, folder: Path | None):
        self.inlined: dict[str, str] = {}
        self._folder = None if folder is None else folder / DATA_FOLDER
        self._names: set[str] = set()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, value: Any) -> str:
        """Store a plain value and return its name; a file that exists is not written again."""
        text = escape_json(value)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        if self._folder is None:
            self.inlined[name] = text
            return name
        self._names.add(name)
        file, script = self._folder / f"{name}.js", f'milanData("{name}",{text})\n'
        # Files appear only when they are complete.
        if not file.exists():
            write_text(file, script)
        return name

    def write(self, name: str, value: Any) -> None:
        """Store a plain value under a name of its own, over an earlier one; a page that is one file has none."""
        if self._folder is not None:
            self._names.add(name)
            write_text(self._folder / f"{name}.js", f'milanData("{name}",{escape_json(value)})\n')

    def remove_others(self) -> None:
        """Remove the files of an earlier page, once the page no longer refers to them."""
        for file in self._folder.glob("*.js") if self._folder is not None else ():
            if file.stem not in self._names:
                file.unlink(missing_ok=True)


def escape_json(value: Any) -> str:
    """Return JSON that cannot end the script element that it is in, where only ``<`` is special.

    >>> escape_json({"text": "</script>"})
    '{"text":"\\\\u003c/script>"}'
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
