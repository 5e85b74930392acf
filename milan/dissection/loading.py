"""Load a dissection from any of its three forms on disk."""

from pathlib import Path

from milan.dissection.dissection import Dissection
from milan.dissection.milannotations import CompactDissection, ReleasedDissection
from milan.dissection.store import FACTS_FILE, StoredDissection
from milan.errors import BadInput


def load_dissection(path: str | Path) -> Dissection:
    """Load a dissected layer: a folder of ``dissect``, of released MILANNOTATIONS, or of Diorama's compact form.

    Raises:
        BadInput: there is no dissection, or it is damaged.
    """
    folder = Path(path)
    if (folder / FACTS_FILE).exists():
        return StoredDissection(folder)
    for kind in (CompactDissection, ReleasedDissection):
        if kind.exists_at(folder):
            return kind(folder)
    inner = sorted(file.parent.name for name in (FACTS_FILE, "ids.csv") for file in folder.glob(f"*/{name}"))
    if inner:
        raise BadInput(
            f"{folder} holds several layers; give the folder of one of them:"
            f" {', '.join(inner[:8])}{', ...' if len(inner) > 8 else ''}"
        )
    raise BadInput(f"no dissection in {folder} (looked for {FACTS_FILE} and ids.csv); create one with milan.dissect")
