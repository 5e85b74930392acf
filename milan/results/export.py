"""A described run in the forms in which it is handed on: the released layout, a data set with pictures, a table, or one
HTML file.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from milan.console.progress import track_progress
from milan.console.text_cleaning import clean_text
from milan.dissection.dissection import Dissection
from milan.dissection.milannotations import export_milannotations
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.results.catalogue import KEPT_FACTS, Catalogue
from milan.results.neighbours import UnitNeighbours, find_neighbours, standardize_activations
from milan.results.page.catalogue_page import render_single_file
from milan.storage.files import atomic_write, lock_folder, write_text
from milan.storage.tables import FACTS, write_csv, write_jsonl
from milan.units import Unit

SINGLE_FILE = "page.html"
MAX_MIB = 20.0  # MiB of a single file, about what mail servers let through once an attachment is encoded
GROUP_UNITS = 64  # units in a row group of the data set's files
SHARD_BYTES = 400 * 2**20  # bytes of pictures in one file of the data set
CARD = """# {title}

{lede}

| | |
| --- | --- |
{facts}

{simulated}Each row is a unit. `exemplars` are the images of the probe that activate it most, strongest first;
`masks` are white where its activation exceeds its threshold; `activations` are its peak activations, and `image_ids`
the rows of the images in the probe. `status` says why a unit is not described: it is dead, sparse, invalid or failed.

```python
import datasets
units = datasets.load_dataset("PATH_OR_ID", split="train")

import milan.results.catalogue
catalogue = milan.results.catalogue.read_catalogue("FOLDER")
```
"""


def export_catalogue(catalogue: Catalogue, format: str, out: Path, *, max_mib: float = MAX_MIB) -> Path:
    """Write a catalogue and its exemplars in another form, and return the folder or file that was written.

    Args:
        catalogue: as ``read_catalogue`` returns it for the folder of a run.
        format: ``milannotations`` (the released layout: images, masks, ids and annotations of each layer), ``hub`` (a
            folder that ``datasets.load_dataset`` reads, with pictures, masks, descriptions and a card, and that
            ``read_catalogue`` reads too), ``csv`` (one table), or ``single_file`` (the page with its pictures inlined).
        out: the folder to write to.
        max_mib: the largest size of a single file, in MiB.

    Raises:
        UnknownName: there is no such format.
        MissingEvidence: the run's exemplars are not there, and the format needs them.
        BadInput: the single file would be larger than ``max_mib``.
    """
    writers: dict[str, Callable[[], Path]] = {
        "milannotations": lambda: _write_milannotations(catalogue, out),
        "hub": lambda: _write_hub(catalogue, out),
        "csv": lambda: _write_csv(catalogue, out),
        "single_file": lambda: _write_single_file(catalogue, out, max_mib),
    }
    if format not in writers:
        raise UnknownName("format", format, writers, f"choose one of {', '.join(writers)}")
    if format != "csv" and not catalogue.dissections:
        where = catalogue.folder or "the catalogue"
        raise MissingEvidence(f"{where} has no dissections beside it, so there are no pictures; format csv needs none")
    with lock_folder(out):
        return writers[format]()


def _write_csv(catalogue: Catalogue, out: Path) -> Path:
    write_csv(out / "descriptions.csv", catalogue.to_rows(reasoning=False))
    return out / "descriptions.csv"


def _write_milannotations(catalogue: Catalogue, out: Path) -> Path:
    texts = {unit: [text] for unit, text in catalogue.texts.items()}
    for dissection in track_progress(list(catalogue.dissections.values()), description="layers"):
        export_milannotations(dissection, out, texts)
    return out


def _write_single_file(catalogue: Catalogue, out: Path, max_mib: float) -> Path:
    page = render_single_file(catalogue, catalogue.dissections, _find_neighbours(catalogue))
    size = len(page.encode()) / 2**20
    if size > max_mib:
        raise BadInput(
            f"the page has {size:.1f} MiB with its pictures and may have {max_mib:g}; describe fewer units or"
            f" exemplars, or give --max_mib {int(size) + 1}"
        )
    write_text(out / SINGLE_FILE, page)
    return out / SINGLE_FILE


def _find_neighbours(catalogue: Catalogue) -> dict[Unit, UnitNeighbours]:
    dissections = catalogue.dissections
    units = [entry.unit for entry in catalogue.entries if entry.unit.layer in dissections]
    shown = [unit for unit in units if dissections[unit.layer].status[unit] in ("ok", "sparse")]
    ids = {unit: dissections[unit.layer].exemplars(unit).ids.tolist() for unit in shown}
    return find_neighbours(standardize_activations(dissections, units), ids)


def _write_hub(catalogue: Catalogue, out: Path) -> Path:
    """Write the data set's files, the table and facts that ``read_catalogue`` reads, and last the card."""
    (out / "data").mkdir(exist_ok=True)
    for old in (out / "data").glob("units-*.parquet"):
        old.unlink()
    schema = _make_schema(catalogue)
    for number, rows in enumerate(_iter_shards(catalogue)):
        _write_shard(out / "data" / f"units-{number:05}.parquet", rows, schema)
    write_jsonl(out / "descriptions.jsonl", catalogue.to_rows())
    write_text(out / "run.json", json.dumps(dict(catalogue.facts), indent=1) + "\n")
    write_text(out / "README.md", _format_card(catalogue))
    return out


def _make_schema(catalogue: Catalogue) -> Any:
    """Return the schema of the data set's files, whose metadata tells ``datasets`` which columns are pictures."""
    import datasets

    text, number = datasets.Value("string"), datasets.Value("float64")
    parts = {name: number for row in catalogue.to_rows() for each in row["candidates"] for name in each}
    candidate = {"text": text, "score": number} | {name: number for name in parts if name != "text"}
    features = datasets.Features(
        {
            **dict.fromkeys(("layer", "description", "describer", "status", "reason"), text),
            "unit": datasets.Value("int64"),
            **dict.fromkeys(("score", "bias"), number),
            "concepts": datasets.List({"name": text, "weight": number}),
            "candidates": datasets.List(candidate),
            "exemplars": datasets.List(datasets.Image()),
            "masks": datasets.List(datasets.Image()),
            "activations": datasets.List(number),
            "image_ids": datasets.List(datasets.Value("int64")),
        }
    )
    schema = features.arrow_schema
    kept = {name: catalogue.facts[name] for name in KEPT_FACTS if name in catalogue.facts}
    return schema.with_metadata({**(schema.metadata or {}), FACTS.encode(): json.dumps(kept).encode()})


def _write_shard(path: Path, rows: Sequence[Mapping[str, Any]], schema: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    with atomic_write(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for start in range(0, len(rows), GROUP_UNITS):
            writer.write_table(pyarrow.Table.from_pylist(list(rows[start : start + GROUP_UNITS]), schema))


def _iter_shards(catalogue: Catalogue) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each file, so many that their pictures have about ``SHARD_BYTES``."""
    rows: list[dict[str, Any]] = []
    size = 0
    entries = list(zip(catalogue.entries, catalogue.to_rows(reasoning=False), strict=True))
    for entry, row in track_progress(entries, description="pictures of units"):
        pictures = _make_pictures(entry.unit, catalogue.dissections.get(entry.unit.layer))
        rows.append(row | pictures)
        size += sum(len(each["bytes"]) for each in (*pictures["exemplars"], *pictures["masks"]))
        if size > SHARD_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _make_pictures(unit: Unit, dissection: Dissection | None) -> dict[str, Any]:
    """Return the exemplars of a unit as PNG files; empty lists where it has none."""
    if dissection is None or dissection.status.get(unit, "dead") in ("dead", "invalid"):
        return {"exemplars": [], "masks": [], "activations": [], "image_ids": []}
    found = dissection.exemplars(unit)
    return {
        "exemplars": [_encode_png(image.permute(1, 2, 0).numpy()) for image in found.images],
        "masks": [_encode_png(mask[0].numpy()) for mask in found.masks],
        "activations": [float(f"{value:.6g}") for value in found.activations.tolist()],
        "image_ids": found.ids.tolist(),
    }


def _encode_png(pixels: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _format_card(catalogue: Catalogue) -> str:
    """Return the data set's card: what was described by whom, on which images, and whether that is simulated."""
    facts = catalogue.facts
    target, describer = (_shorten_path(str(facts.get(name) or "unknown")) for name in ("target", "describer"))
    head = {
        "pretty_name": f"Units of {target}, described by {describer}",
        "tags": ["interpretability", "neurons", "image-to-text"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/units-*.parquet"}]}],
    }
    counts = ", ".join(f"{count} {status}" for status, count in catalogue.counts.items())
    sources = {role: _shorten_path(spec) for role, spec in dict(facts.get("sources") or {}).items()}
    rows = {
        "target": target,
        "probe": _shorten_path(str(facts.get("probe") or "unknown")),
        "describer": describer,
        **sources,
        "layers": ", ".join(catalogue.layers),
        "units": counts,
    }
    note = str(facts.get("simulated") or "")
    card = CARD.format(
        title=clean_text(f"Units of {target}, described by {describer}"),
        lede=f"{len(catalogue.descriptions):,} of {len(catalogue):,} units described in words by {describer}.",
        facts="\n".join(f"| {clean_text(name)} | {_escape_cell(value)} |" for name, value in rows.items()),
        simulated=f"**{clean_text(note)}**\n\n" if note else "",
    )
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{card}"


def _shorten_path(spec: str) -> str:
    """Return a spec without the folders of this machine: the last two parts of an absolute path.

    >>> _shorten_path("/data/mine/photos"), _shorten_path("torchvision:alexnet")
    ('mine/photos', 'torchvision:alexnet')
    """
    return "/".join(spec.rstrip("/").split("/")[-2:]) if Path(spec).is_absolute() else spec


def _escape_cell(text: str) -> str:
    return clean_text(text).replace("|", "\\|")
