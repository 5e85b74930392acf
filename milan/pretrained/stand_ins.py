"""Diorama's stand-ins for MILAN's models and annotations: found by the name ``diorama``."""

from pathlib import Path

from milan.storage.packaged_data import locate_packaged_data

STAND_IN = "diorama"


def locate_milan_model(spec: str, part: str) -> str:
    """Return the folder of a captioner or prior: that of the stand-in for ``diorama``, else ``spec`` as it is.

    Args:
        part: ``captioner`` or ``prior``.

    >>> locate_milan_model("runs/captioner", "captioner")
    'runs/captioner'
    """
    return str(locate_packaged_data(f"data/diorama/{part}")) if spec == STAND_IN else spec


def locate_annotations(spec: str) -> Path:
    """Return the folder or file of annotations: those of Diorama's simulated annotators for ``diorama``."""
    return locate_packaged_data("data/diorama/annotations") if spec == STAND_IN else Path(spec)
