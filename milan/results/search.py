"""Search for units by meaning, in one or several described networks.

A text is compared with the descriptions of units (by a sentence encoder) and with their exemplars (by an image-text
model that sees only the masked regions).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from milan.console.progress import track_progress
from milan.dissection.dissection import Dissection
from milan.errors import BadInput, MilanNotice
from milan.pretrained.embedder import embed_texts, load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.embedding_cache import ImageEmbeddingFile
from milan.probes.pixel_labels import shows_diorama
from milan.storage.files import cache_folder, content_key
from milan.units import Exemplars, Unit

DEFAULT_COUNT = 20
FORMAT = 1  # raised when the embedding of the same exemplars changes
SAVED_UNITS = 32  # units between two writes of embeddings


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

    Each kind of evidence is standardized over all searched units; the score is the mean over the kinds. A unit that
    lacks one, such as a unit without a description, counts as average in it, so that it gains nothing by the lack.

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
    rows = list_units(runs, count)
    texts = [run.texts.get(unit, "") for run, unit in rows]
    evidence = _compare_descriptions(query, texts, sentences, embedder)
    if embedder is not None:
        pictures = torch.cat([embed_exemplars(embedder, run) for run in runs])
        evidence["exemplar similarity"] = (pictures @ embed_texts(embedder, [query])[0]).double().numpy()
    scores = _mean_evidence([_standardize(values) for values in evidence.values()])
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


def list_units(runs: Sequence[SearchedRun], count: int) -> list[tuple[SearchedRun, Unit]]:
    """Return every unit of every run, with its run.

    Raises:
        BadInput: ``count`` is not positive, or the runs have no units.
    """
    if count < 1:
        raise BadInput(f"{count} units to find; give at least 1")
    rows = [(run, unit) for run in runs for unit in run.units]
    if not rows:
        names = ", ".join(run.name for run in runs) or "no runs"
        raise BadInput(f"no unit of {names} is described or active, so there is none to find; describe other units")
    return rows


def _standardize(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and standard deviation 1, NaN left out; zeros if all are equal."""
    known = values[np.isfinite(values)]
    spread = known.std() if len(known) else 0.0
    return np.where(np.isfinite(values), (values - (known.mean() if len(known) else 0.0)) / (spread or 1.0), np.nan)


def _mean_evidence(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of standardized columns in each row, with 0 for NaN; minus infinity where all are NaN.

    Columns without any value are left out.
    """
    table = np.stack(columns)
    known = np.isfinite(table)
    kinds = max(1, int(known.any(1).sum()))
    return np.where(known.any(0), np.where(known, table, 0.0).sum(0) / kinds, -np.inf)


def _rank(scores: np.ndarray, count: int) -> list[int]:
    """Return the rows of the largest scores, largest first, ties by row; rows without a score are left out."""
    order = np.argsort(-scores, kind="stable")[:count]
    return [int(row) for row in order if scores[row] > -np.inf]


def _round_or_none(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
