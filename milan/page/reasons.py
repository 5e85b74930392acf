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

from milan.catalogue import Catalogue, Entry
from milan.dissection.crops import cropped
from milan.dissection.store import Dissection
from milan.errors import MissingEvidence
from milan.page.sheets import Sheet
from milan.pictures import fitting, is_whole_webp, sheet, webp
from milan.pretrained.painter import Wanted, fitted, kept_picture
from milan.progress import progress
from milan.storage import atomic, content_key
from milan.units import Unit

SIZE = 96  # pixels of a picture's side
ACROSS = 10
FORMAT = 1


@dataclass(frozen=True)
class Reason:
    """A unit's reasoning as the page's data have it, and where its pictures are."""

    told: Mapping[str, Any]
    seen: str = ""  # files, relative to the page; empty where the pictures are not at hand
    painted: str = ""


def write_reasons(
    catalogue: Catalogue, dissections: Mapping[str, Dissection], folder: Path, sheets: Mapping[Unit, Sheet]
) -> dict[Unit, Reason]:
    """Writes the pictures of each unit's reasoning beside its exemplars, those that are there excepted.

    Painted pictures are taken from the cache; where they are no longer there, nothing is painted again, and only numbers are shown.
    """
    entries = [entry for entry in catalogue.entries if entry.description is not None and entry.description.reasoning]
    return {entry.unit: _reason(entry, dissections.get(entry.unit.layer), folder, sheets) for entry in progress(entries, text="reasons")}


def _reason(entry: Entry, dissection: Dissection | None, folder: Path, sheets: Mapping[Unit, Sheet]) -> Reason:
    told = entry.description.reasoning if entry.description else {}
    if dissection is None or entry.unit not in sheets:
        return Reason(told)
    stem = sheets[entry.unit].file.removesuffix(".webp")
    return Reason(
        told,
        _written(folder, f"{stem}-seen", told.get("seen") or [], lambda: _seen(dissection, told.get("seen") or [])),
        _written(folder, f"{stem}-painted", [told.get("painter"), told.get("painted") or []], lambda: _painted(told)),
    )


def _written(folder: Path, stem: str, what: Any, pictures: Any) -> str:
    """The file of a sheet of pictures, which is made unless it is there; empty where there are none."""
    file = f"{stem}-{content_key(what=what, format=FORMAT, size=SIZE)[:8]}.webp"
    if is_whole_webp(folder / file):
        return file
    found = pictures()
    if found is None or not len(found):
        return ""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    with atomic(folder / file) as partial:
        partial.write_bytes(webp(sheet(_small(found), ACROSS)))
    return file


def _seen(dissection: Dissection, seen: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """The images and crops that were captioned."""
    try:
        probe = dissection.open_probe() if seen else None
    except MissingEvidence:
        probe = None
    if probe is None:
        return None
    images = {each["image"]: probe.image(each["image"]) for each in seen}
    return torch.stack([cropped(images[each["image"]], tuple(each["box"])) if each["box"] else images[each["image"]] for each in seen])


def _painted(told: Mapping[str, Any]) -> Tensor | None:
    """The pictures of the candidates, each candidate's in a row, its strongest first."""
    found = []
    for each in told.get("painted") or []:
        count = len(each["activations"])
        for number in range(min(count, ACROSS)):
            picture = kept_picture(str(told["painter"]), Wanted(each["asked"], int(told["seed"]), order(each["activations"])[number]))
            if picture is None:
                return None
            found.append(fitted(picture[None], SIZE)[0])
        found += [torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)] * (ACROSS - min(count, ACROSS))
    return torch.stack(found) if found else None


def order(activations: Sequence[float | None]) -> list[int]:
    """The numbers of a candidate's pictures, the one that moves the unit most first; of equals the earlier.

    >>> order([0.5, None, 2.0])
    [2, 0, 1]
    """
    return sorted(range(len(activations)), key=lambda number: np.inf if (value := activations[number]) is None else -value)


def _small(images: UInt8[Tensor, "n 3 h w"]) -> UInt8[np.ndarray, "n rows columns 3"]:
    """Whole images in squares of the page's size, black beside those that are not square."""
    across = fitting(SIZE, len(images), ACROSS)
    height, width = (max(1, round(side * across / max(images.shape[-2:]))) for side in images.shape[-2:])
    left, top = (across - width) // 2, (across - height) // 2
    small = pad(fitted(images, (height, width)), (left, across - width - left, top, across - height - top))
    return small.permute(0, 2, 3, 1).contiguous().numpy()


def told(reason: Reason | None) -> dict[str, Any] | None:
    """A reasoning as the page's script reads it; None where there is none."""
    if reason is None:
        return None
    painted = [
        {"text": each["text"], "order": order(each["activations"])[:ACROSS], "ranks": each["ranks"], "activations": each["activations"]}
        for each in reason.told.get("painted") or []
    ]
    return {
        "seen": [
            {"caption": each["caption"], "label": each["label"], "image": each["image"], "part": each["box"] is not None,
             "activation": each["activation"]}
            for each in reason.told.get("seen") or []
        ],
        "painted": painted,
        "pairs": reason.told.get("pairs") or [],
        "across": ACROSS,
        "files": {"seen": reason.seen, "painted": reason.painted},
    }  # fmt: skip
