"""Search for units by meaning, in one or several described networks, or by an image of the user's.

A text is compared with the descriptions of units (by a sentence encoder) and with their exemplars (by an image-text
model that sees only the masked regions). An image is run through the networks: found are the units for which it is
unusually strong.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from milan.console.command_line import get_recorded_warnings
from milan.console.progress import track_progress
from milan.dissection.masks import masks_from_maps
from milan.dissection.store import Dissection
from milan.errors import BadInput, MilanNotice, MissingEvidence
from milan.pretrained.embedder import Embedder, embed_texts, load_embedder
from milan.pretrained.embedding_cache import ImageEmbeddingFile
from milan.probes.image_decoding import UnreadableImage, decode_image
from milan.probes.pixel_labels import shows_diorama
from milan.results.page.exemplar_views import write_exemplar_views, write_exemplars
from milan.results.page.report_page import write_report_page
from milan.storage.files import cache_folder, collect_versions, content_key, lock_folder, safe_name, write_text
from milan.storage.provenance import simulated_note
from milan.storage.tables import write_csv
from milan.targets.generator_target import GeneratorTarget
from milan.targets.hooks import recorded
from milan.targets.target import Target
from milan.units import Exemplars, Unit

DEFAULT_COUNT = 20
SCORE_NOTE = (
    "The score of a text is the mean of its similarity to descriptions and to exemplars, each standardized over all"
    " searched units; that of a picture is where its activation lies between the unit's median (0) and its largest"
    " activation (1) over the probe."
)
FORMAT = 1  # raised when the embedding of the same exemplars changes
SAVED_UNITS = 32  # units between two writes of embeddings
PICTURE_ID = -1  # row in the probe of a picture that is not in it


@runtime_checkable
class TextEncoder(Protocol):
    """A model that maps texts to vectors of unit length."""

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Return a vector of unit length for each text, float32 on the CPU."""


@dataclass(frozen=True)
class SearchedRun:
    """A described network whose units are searched.

    Attributes:
        name: the name by which its units are shown.
        texts: the description of each described unit.
        dissections: its dissected layers, by name; without them only descriptions are searched.
    """

    name: str
    texts: Mapping[Unit, str]
    dissections: Mapping[str, Dissection] = field(default_factory=dict)

    @property
    def units(self) -> list[Unit]:
        """The units that can be found: those that are described or have exemplars, without dead and invalid ones."""
        active = [
            unit
            for dissection in self.dissections.values()
            for unit in dissection.units
            if dissection.status[unit] in ("ok", "sparse")
        ]
        return list(dict.fromkeys([*self.texts, *active]))


@dataclass(frozen=True)
class FoundUnit:
    """A unit that answers a search.

    Attributes:
        run: the name of the run that it belongs to.
        unit: the unit.
        text: its description; empty if it has none.
        score: the value by which units are ranked, larger is better.
        parts: what the score is made of, by name; NaN where the unit lacks it. Of a text: "text similarity" and
            "exemplar similarity", cosines from -1 to 1, or "shared words", the share of the query's words in the
            description. Of an image: "percentile", the percentage of the probe's images that activate the unit less,
            and "activation", in the target's own scale.
        picture: of a search by image, the image and the region where the unit exceeds its threshold.
    """

    run: str
    unit: Unit
    text: str
    score: float
    parts: Mapping[str, float]
    picture: Exemplars | None = field(default=None, compare=False, repr=False)

    def to_plain(self) -> dict[str, object]:
        """Return the unit as plain values, with null for numbers that are not defined."""
        parts = {name: _round_or_none(value) for name, value in self.parts.items()}
        head = {"run": self.run, "layer": self.unit.layer, "unit": self.unit.index, "description": self.text}
        return head | {"score": _round_or_none(self.score)} | parts


def find_by_text(
    query: str,
    runs: Sequence[SearchedRun],
    *,
    embedder: Embedder | None = None,
    sentences: TextEncoder | None = None,
    count: int = DEFAULT_COUNT,
) -> list[FoundUnit]:
    """Return the units whose descriptions and exemplars are closest to a text, best first.

    Each kind of evidence is standardized over all searched units; the score is the mean of those that a unit has.

    Args:
        query: what the units should be about, such as "a hand holding something".
        runs: the described networks.
        embedder: the image-text model that compares the text with exemplars. Without one only descriptions are
            searched.
        sentences: the encoder that compares the text with descriptions. By default the text side of ``embedder``, else
            the share of the query's words (stemmed) that a description has.
        count: the number of units to return.

    Raises:
        BadInput: the query is empty, ``count`` is not positive, or the runs have no units.
    """
    if not query.strip():
        raise BadInput("the query is empty; say what the units should be about")
    rows = _list_units(runs, count)
    texts = [run.texts.get(unit, "") for run, unit in rows]
    evidence = _compare_descriptions(query, texts, sentences, embedder)
    if embedder is not None:
        pictures = torch.cat([embed_exemplars(embedder, run) for run in runs])
        evidence["exemplar similarity"] = (pictures @ embed_texts(embedder, [query])[0]).double().numpy()
    scores = _mean_of_known([_standardize(values) for values in evidence.values()])
    best = _rank(scores, count)
    return [
        FoundUnit(
            rows[row][0].name,
            rows[row][1],
            texts[row],
            float(scores[row]),
            {name: float(values[row]) for name, values in evidence.items()},
        )
        for row in best
    ]


def find_by_image(image: Path | str, runs: Sequence[SearchedRun], *, count: int = DEFAULT_COUNT) -> list[FoundUnit]:
    """Return the units that an image activates unusually strongly, with the region where they are active.

    Units are ranked by the percentage of the probe's images that activate them less; ties by how far the activation
    lies above the unit's median, relative to the distance of its largest activation from its median.

    Args:
        image: a picture file of any size.
        runs: the described networks, each with its dissections.
        count: the number of units to return.

    Raises:
        BadInput: the file is not a readable picture, or ``count`` is not positive.
        MissingEvidence: a run has no dissection, or its network cannot be loaded again.
    """
    _list_units(runs, count)
    found = [each for run in runs for each in _find_active_units(Path(image), run)]
    return sorted(found, key=lambda each: (-each.parts["percentile"], -each.score, each.run, each.unit))[:count]


def write_search(query: str, found: Sequence[FoundUnit], runs: Sequence[SearchedRun], out: Path) -> None:
    """Write found units as ``found.csv`` and ``found.json``, and as a page with their exemplars.

    Args:
        query: the text or the name of the picture that was searched for.
        found: units of ``find_by_text`` or ``find_by_image``.
        runs: the searched runs, whose dissections have the exemplars.
        out: the folder to write to; the page is ``page/index.html`` in it.
    """
    with lock_folder(out):
        rows = [each.to_plain() for each in found]
        write_csv(out / "found.csv", rows)
        write_text(out / "found.json", json.dumps({"query": query, "found": rows}, indent=1, ensure_ascii=False) + "\n")
        known = {run.name: run for run in runs}
        folder = out / "page"
        units = [_make_unit_view(each, known[each.run], folder) for each in found]
        names = ", ".join(known)
        view = {
            "name": "find",
            "title": query,
            "lede": f"The {len(found)} units that answer best of {sum(len(run.units) for run in runs):,} in {names}.",
            "headlines": (),
            "notes": (SCORE_NOTE,),
            "simulated": simulated_note({f"probe of {run.name}": probe for run in runs for probe in _list_probes(run)}),
            "facts": {"target": names, "versions": collect_versions(), "warnings": get_recorded_warnings()},
            "tables": (),
        }
        write_report_page(view, folder, units)


def choose_embedder(runs: Sequence[SearchedRun], spec: str = "", device: str = "cpu") -> Embedder | None:
    """Return the image-text model for these runs: the named one, else Diorama's if all probes show Diorama.

    Where there is none, a notice says that only descriptions are searched.

    Raises:
        MilanError: the named model cannot be loaded.
    """
    probes = [dissection.probe for run in runs for dissection in run.dissections.values()]
    if not spec and probes and all(map(shows_diorama, probes)):
        spec = "diorama"
    if spec and probes:
        return load_embedder(spec, device=device)
    why = "no image-text model was given" if probes else "the runs have no dissections"
    how = "; name one with --embedder, as open_clip:ViT-B-16/openai" if probes else ""
    warnings.warn(f"only descriptions are searched, not exemplars: {why}{how}", MilanNotice, stacklevel=2)
    return None


def embed_exemplars(embedder: Embedder, run: SearchedRun) -> Float[Tensor, "units features"]:
    """Return the mean embedding of the masked exemplars of each unit of ``run.units``; NaN for those without exemplars.

    Embeddings are computed once per dissection and kept in the cache.
    """
    kept = {layer: _embed_layer(embedder, dissection) for layer, dissection in run.dissections.items()}
    missing = torch.full((embedder.features,), math.nan)
    rows = [
        kept[unit.layer][dissection.row_of(unit)]
        if (dissection := run.dissections.get(unit.layer)) is not None and unit in dissection.status
        else missing
        for unit in run.units
    ]
    return torch.stack(rows) if rows else torch.zeros(0, embedder.features)


def _embed_layer(embedder: Embedder, dissection: Dissection) -> Float[Tensor, "units features"]:
    key = content_key(embedder=embedder.key, dissection=dissection.key, format=FORMAT)
    file = ImageEmbeddingFile(
        cache_folder() / "embeddings" / "exemplars" / key, len(dissection.units), embedder.features
    )
    with file.lock_to_fill() as begun:
        if begun is not None:
            starts = range(begun, len(dissection.units), SAVED_UNITS)
            for start in track_progress(starts, description=f"embedding exemplars of {dissection.layer}"):
                rows = range(start, min(start + SAVED_UNITS, len(dissection.units)))
                file.put(torch.tensor(rows), torch.stack([_embed_unit(embedder, dissection, row) for row in rows]))
    return file.open()


def _embed_unit(embedder: Embedder, dissection: Dissection, row: int) -> Float[Tensor, " features"]:
    unit = dissection.units[row]
    if dissection.status[unit] not in ("ok", "sparse"):
        return torch.full((embedder.features,), math.nan)
    exemplars = dissection.exemplars(unit)
    return embedder.encode_images(exemplars.images * exemplars.masks).mean(0)


def _compare_descriptions(
    query: str, texts: Sequence[str], sentences: TextEncoder | None, embedder: Embedder | None
) -> dict[str, np.ndarray]:
    """Return how close each description is to the query, by the name of the measure; NaN where there is no text."""
    distinct = list(dict.fromkeys(text for text in texts if text))
    if sentences is not None:
        vectors, wanted = sentences.encode_texts(distinct), sentences.encode_texts([query])[0]
    elif embedder is not None:
        vectors, wanted = embed_texts(embedder, distinct), embed_texts(embedder, [query])[0]
    else:
        return {"shared words": _spread(texts, dict(zip(distinct, _share_words(query, distinct), strict=True)))}
    return {"text similarity": _spread(texts, dict(zip(distinct, (vectors @ wanted).tolist(), strict=True)))}


def _share_words(query: str, texts: Sequence[str]) -> list[float]:
    """Return which share of the query's stemmed words each text has."""
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=True)
    wanted = set(tokenizer.tokenize(query))
    return [len(wanted & set(tokenizer.tokenize(text))) / max(1, len(wanted)) for text in texts]


def _spread(texts: Sequence[str], values: Mapping[str, float]) -> np.ndarray:
    return np.array([values.get(text, math.nan) for text in texts])


def _list_units(runs: Sequence[SearchedRun], count: int) -> list[tuple[SearchedRun, Unit]]:
    """Return every unit of every run."""
    if count < 1:
        raise BadInput(f"{count} units to find; give at least 1")
    rows = [(run, unit) for run in runs for unit in run.units]
    if not rows:
        raise BadInput(f"no units to search in {', '.join(run.name for run in runs) or 'no runs'}; describe some first")
    return rows


def _standardize(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and standard deviation 1, NaN left out; zeros if all are equal."""
    known = values[np.isfinite(values)]
    spread = known.std() if len(known) else 0.0
    return np.where(np.isfinite(values), (values - (known.mean() if len(known) else 0.0)) / (spread or 1.0), np.nan)


def _mean_of_known(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of the columns in each row, NaN left out; minus infinity where all are NaN."""
    table = np.stack(columns)
    known = np.isfinite(table)
    return np.where(known.any(0), np.where(known, table, 0.0).sum(0) / known.sum(0).clip(1), -np.inf)


def _rank(scores: np.ndarray, count: int) -> list[int]:
    """Return the rows of the largest scores, largest first, ties by row; rows without a score are left out."""
    order = np.argsort(-scores, kind="stable")[:count]
    return [int(row) for row in order if scores[row] > -np.inf]


def _find_active_units(image: Path, run: SearchedRun) -> list[FoundUnit]:
    if not run.dissections:
        raise MissingEvidence(f"{run.name} has no dissection, so its network is not known; give the folder of a run")
    target = next(iter(run.dissections.values())).open_target()
    if isinstance(target, GeneratorTarget):
        raise BadInput(f"{run.name} is of {target.name}, which generates pictures; search it with a text")
    pixels = _read_picture(image, target)
    maps: dict[str, Tensor] = {}

    def keep(layer: str, values: Tensor, cls: Tensor | None) -> None:
        maps[layer] = values[0].float().cpu()

    with recorded(target, list(run.dissections), keep) as look:
        look(target.make_input(torch.tensor([PICTURE_ID]), pixels[None]))
    return [
        each
        for layer, dissection in run.dissections.items()
        for each in _rate_layer(pixels, maps[layer], dissection, run)
    ]


def _read_picture(image: Path, target: Target) -> UInt8[Tensor, "3 height width"]:
    try:
        return torch.from_numpy(target.preprocessing.pixels(decode_image(image.expanduser())))
    except UnreadableImage as error:
        raise BadInput(f"cannot read the picture {image}: {error}; give a picture file") from None


def _rate_layer(
    pixels: UInt8[Tensor, "3 height width"],
    maps: Float[Tensor, "units h w"],
    dissection: Dissection,
    run: SearchedRun,
) -> list[FoundUnit]:
    probe_peaks, thresholds = dissection.activations("max").numpy(), dissection.thresholds()
    found = []
    for unit in dissection.units:
        row = dissection.row_of(unit)
        peaks, own = probe_peaks[:, row], maps[unit.index]
        peaks, peak = peaks[np.isfinite(peaks)], float(own.max())
        if dissection.status[unit] not in ("ok", "sparse") or not len(peaks) or not math.isfinite(peak):
            continue
        middle, top = float(np.median(peaks)), float(peaks.max())
        mask = masks_from_maps(own[None], float(thresholds[row]), dissection.image_size)
        picture = Exemplars(unit, pixels[None], mask[:, None], torch.tensor([peak]), torch.tensor([PICTURE_ID]))
        parts = {"percentile": 100 * float((peaks < peak).mean()), "activation": peak}
        score = (peak - middle) / (top - middle) if top > middle else 0.0
        found.append(FoundUnit(run.name, unit, run.texts.get(unit, ""), score, parts, picture))
    return found


def _make_unit_view(found: FoundUnit, run: SearchedRun, folder: Path) -> dict[str, object]:
    """Return what the page shows of a unit; its exemplars follow the searched picture, if there is one."""
    dissection = run.dissections.get(found.unit.layer)
    pictures = []
    if found.picture is not None:
        pictures.append(write_exemplars(found.picture, folder, f"query/{safe_name(found.run)}"))
    if dissection is not None and found.unit in dissection.status:
        pictures += write_exemplar_views(run.dissections, [found.unit], folder).values()
    said = [{"name": "description", "role": "", "text": found.text, "reason": "not described", "mark": "", "score": ""}]
    for name, value in {"score": found.score, **found.parts}.items():
        said.append({"name": name, "role": "", "text": _format_number(value), "reason": "", "mark": "", "score": ""})
    return {
        "id": str(found.unit),
        "group": found.run,
        "truth": "The first picture is the one that was searched for." if found.picture is not None else "",
        "said": said,
        "pictures": pictures,
    }


def _list_probes(run: SearchedRun) -> set[str]:
    return {dissection.probe for dissection in run.dissections.values()}


def _format_number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "–"


def _round_or_none(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
