"""What the page shows of attacked units: rows of original, distractor and adversarial image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from milan.console.exemplar_rendering import scaled_size
from milan.experiments.core.unit_views import make_text_view, make_unit_view
from milan.experiments.cut_and_paste.attacks import AttackedUnit
from milan.results.page.exemplar_views import PICTURE_SIZE, ExemplarView, write_pictures


def make_unit_views(attacked_units: Sequence[AttackedUnit], page: Path) -> list[dict[str, Any]]:
    """Return what the page shows of each unit, and write its images."""
    return [_make_view(one, page) for one in attacked_units]


def _make_view(one: AttackedUnit, page: Path) -> dict[str, Any]:
    rows = [make_text_view(str(one.unit), one.text, score=f"{one.distance:.2f}")]
    for number, example in enumerate(one.examples, 1):
        original, distractor, prediction = example.classes
        fooled = prediction in one.promoted and prediction not in (original, distractor)
        text = f"{original}, with a region of an image of {distractor}: {prediction}"
        rows.append(make_text_view(f"row {number}", text, mark="fooled" if fooled else ""))
    view = make_unit_view(one.unit, one.unit.layer, f"Promotes {', '.join(one.promoted)}", rows)
    return view | {"pictures": [_write_images(one, page)]}


def _write_images(one: AttackedUnit, page: Path) -> ExemplarView | None:
    if not one.examples:
        return None
    images = torch.stack(
        [image for each in one.examples for image in (each.original, each.distractor, each.adversarial)]
    )
    height, width = scaled_size(images.shape[-2:], PICTURE_SIZE)
    mode = "nearest" if images.shape[-1] < width else "area"
    scaled = interpolate(images.float(), (height, width), mode=mode).to(torch.uint8)
    return write_pictures(scaled, page, f"pasted/{re.sub(r'[^A-Za-z0-9.-]', '_', str(one.unit))}")
