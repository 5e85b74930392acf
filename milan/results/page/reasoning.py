"""How a describer came to what it says, for the page: what it saw, painted and read, with pictures where there are."""

from collections.abc import Mapping, Sequence
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
from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.pretrained.painter import PictureRequest, find_cached_picture, resize_images
from milan.results.catalogue import Catalogue, Entry
from milan.results.page.contact_sheets import ContactSheet
from milan.storage.files import atomic_write, content_key
from milan.units import Unit

PICTURE_SIZE = 96  # pixels of a picture's side
PICTURES_PER_ROW = 10
FORMAT = 1


@dataclass(frozen=True)
class ReasoningView:
    """A unit's reasoning as the page's data have it, and where its pictures are."""

    facts: Mapping[str, Any]
    seen_file: str = ""  # files, relative to the page; empty where the pictures are not at hand
    painted_file: str = ""


def write_reasoning_pictures(
    catalogue: Catalogue, dissections: Mapping[str, Dissection], folder: Path, sheets: Mapping[Unit, ContactSheet]
) -> dict[Unit, ReasoningView]:
    """Writes the pictures of each unit's reasoning beside its exemplars, those that are there excepted.

    Painted pictures are taken from the cache; where they are no longer there, nothing is painted again, and only
    numbers are shown.
    """
    entries = [entry for entry in catalogue.entries if entry.description is not None and entry.description.reasoning]
    return {
        entry.unit: _write_reasoning(entry, dissections.get(entry.unit.layer), folder, sheets)
        for entry in track_progress(entries, description="reasons")
    }


def _write_reasoning(
    entry: Entry, dissection: Dissection | None, folder: Path, sheets: Mapping[Unit, ContactSheet]
) -> ReasoningView:
    facts = entry.description.reasoning if entry.description else {}
    if dissection is None or entry.unit not in sheets:
        return ReasoningView(facts)
    stem = sheets[entry.unit].file.removesuffix(".webp")
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
    """The file of a sheet of pictures, which is made unless it is there; empty where there are none."""
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
    """The images and crops that were captioned."""
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
    """The pictures of the candidates, each candidate's in a row, its strongest first."""
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
    """The numbers of a candidate's pictures, the one that moves the unit most first; of equals the earlier.

    >>> rank_pictures([0.5, None, 2.0])
    [2, 0, 1]
    """
    return sorted(
        range(len(activations)), key=lambda number: np.inf if (value := activations[number]) is None else -value
    )


def _shrink(images: UInt8[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n rows columns 3"]:
    """Whole images in squares of the page's size, black beside those that are not square."""
    across = fitting(PICTURE_SIZE, len(images), PICTURES_PER_ROW)
    height, width = (max(1, round(side * across / max(images.shape[-2:]))) for side in images.shape[-2:])
    left, top = (across - width) // 2, (across - height) // 2
    small = pad(resize_images(images, (height, width)), (left, across - width - left, top, across - height - top))
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def make_reasoning_data(view: ReasoningView | None) -> dict[str, Any] | None:
    """A reasoning as the page's script reads it; None where there is none."""
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
