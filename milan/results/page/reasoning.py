"""The reasoning of a describer on the page: images captioned, images generated, and texts read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import pad

from milan.console.exemplar_rendering import encode_webp, fitting, is_whole_webp, make_image_grid
from milan.console.progress import track_progress
from milan.dissection.attention_crops import crop_and_resize
from milan.dissection.dissection import Dissection
from milan.errors import MissingEvidence
from milan.pretrained.painter import PictureRequest, find_cached_picture, resize_images
from milan.results.catalogue import Catalogue, Entry
from milan.results.page.exemplar_views import remove_other_folders
from milan.storage.files import atomic_write, content_key, safe_name
from milan.units import Unit

PICTURE_SIZE = 96  # side of a picture in pixels
PICTURES_PER_ROW = 10
FORMAT = 1


@dataclass(frozen=True)
class ReasoningView:
    """The reasoning of one description.

    Attributes:
        facts: ``Description.reasoning``.
        seen_file, painted_file: picture files relative to the page; empty if the pictures are not available.
    """

    facts: Mapping[str, Any]
    seen_file: str = ""
    painted_file: str = ""

    def inlined(self, load: Callable[[str], str]) -> "ReasoningView":
        """Return the view with other addresses of its picture files, as ``load`` returns them."""
        seen, painted = (file and load(file) for file in (self.seen_file, self.painted_file))
        return ReasoningView(self.facts, seen, painted)


def write_reasoning_pictures(
    catalogue: Catalogue, dissections: Mapping[str, Dissection], folder: Path
) -> dict[Unit, ReasoningView]:
    """Write the pictures of each unit's reasoning beside the page; files that exist are not written again.

    Generated images are taken from the cache. If they are no longer there, the page shows only numbers. Pictures of
    other dissections are removed.
    """
    entries = [entry for entry in catalogue.entries if entry.description is not None and entry.description.reasoning]
    places = {layer: f"{safe_name(layer)}-{dissection.key[:8]}" for layer, dissection in dissections.items()}
    remove_other_folders(folder / "reasoning", set(places.values()))
    return {
        entry.unit: _write_reasoning(
            entry, dissections.get(entry.unit.layer), folder, f"reasoning/{places.get(entry.unit.layer)}"
        )
        for entry in track_progress(entries, description="reasons")
    }


def _write_reasoning(entry: Entry, dissection: Dissection | None, folder: Path, place: str) -> ReasoningView:
    facts = entry.description.reasoning if entry.description else {}
    if dissection is None:
        return ReasoningView(facts)
    stem = f"{place}/{entry.unit.index}"
    return ReasoningView(
        facts,
        _write_grid(
            folder, f"{stem}-seen", facts.get("seen") or [], lambda: _load_seen(dissection, facts.get("seen") or [])
        ),
        _write_grid(
            folder, f"{stem}-painted", [facts.get("painter"), facts.get("painted") or []], lambda: _load_painted(facts)
        ),
    )


def _write_grid(folder: Path, stem: str, what: Any, pictures: Any) -> str:
    """Write a sheet of pictures unless it exists, and return its file name; empty if there are no pictures."""
    file = f"{stem}-{content_key(what=what, format=FORMAT, size=PICTURE_SIZE)[:8]}.webp"
    if is_whole_webp(folder / file):
        return file
    found = pictures()
    if found is None or not len(found):
        return ""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / file) as partial:
        partial.write_bytes(encode_webp(make_image_grid(_shrink(found), PICTURES_PER_ROW)))
    return file


def _load_seen(dissection: Dissection, seen: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """Return the images and crops that were captioned."""
    try:
        probe = dissection.open_probe() if seen else None
    except MissingEvidence:
        probe = None
    if probe is None:
        return None
    images = {each["image"]: probe.image(each["image"]) for each in seen}
    return torch.stack(
        [
            crop_and_resize(images[each["image"]], tuple(each["box"])) if each["box"] else images[each["image"]]
            for each in seen
        ]
    )


def _load_painted(facts: Mapping[str, Any]) -> Tensor | None:
    """Return the generated images, one row per candidate, largest activation first."""
    found = []
    for each in facts.get("painted") or []:
        count = len(each["activations"])
        for number in range(min(count, PICTURES_PER_ROW)):
            picture = find_cached_picture(
                str(facts["painter"]),
                PictureRequest(each["asked"], int(facts["seed"]), rank_pictures(each["activations"])[number]),
            )
            if picture is None:
                return None
            found.append(resize_images(picture[None], PICTURE_SIZE)[0])
        found += [torch.zeros(3, PICTURE_SIZE, PICTURE_SIZE, dtype=torch.uint8)] * (
            PICTURES_PER_ROW - min(count, PICTURES_PER_ROW)
        )
    return torch.stack(found) if found else None


def rank_pictures(activations: Sequence[float | None]) -> list[int]:
    """Return the indices of a candidate's pictures by activation, largest first; ties keep their order.

    >>> rank_pictures([0.5, None, 2.0])
    [2, 0, 1]
    """
    return sorted(
        range(len(activations)), key=lambda number: np.inf if (value := activations[number]) is None else -value
    )


def _shrink(images: UInt8[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n rows columns 3"]:
    """Scale images to fit squares of the page's size, with black borders."""
    across = fitting(PICTURE_SIZE, len(images), PICTURES_PER_ROW)
    height, width = (max(1, round(side * across / max(images.shape[-2:]))) for side in images.shape[-2:])
    left, top = (across - width) // 2, (across - height) // 2
    small = pad(resize_images(images, (height, width)), (left, across - width - left, top, across - height - top))
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def make_reasoning_data(view: ReasoningView | None) -> dict[str, Any] | None:
    """Return a reasoning in the form that the page's script reads; None if there is none."""
    if view is None:
        return None
    painted = [
        {
            "text": each["text"],
            "order": rank_pictures(each["activations"])[:PICTURES_PER_ROW],
            "ranks": each["ranks"],
            "activations": each["activations"],
        }
        for each in view.facts.get("painted") or []
    ]
    return {
        "seen": [
            {"caption": each["caption"], "label": each["label"], "image": each["image"],
             "part": each["box"] is not None,
             "activation": each["activation"]}
            for each in view.facts.get("seen") or []
        ],
        "painted": painted,
        "pairs": view.facts.get("pairs") or [],
        "across": PICTURES_PER_ROW,
        "files": {"seen": view.seen_file, "painted": view.painted_file},
    }  # fmt: skip
