"""Map of units: a page on which units that behave alike lie together, ``map.html`` beside the page of a catalogue.

Coordinates are computed once, here. The map opens from the file system; the exemplars that it shows are loaded from
the page's data (``data/layers.js``).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from milan.console.text_cleaning import clean_text
from milan.errors import MilanError
from milan.results.catalogue import Catalogue
from milan.results.neighbours import StandardizedActivations
from milan.results.page.document import render_document
from milan.storage.files import write_text
from milan.units import Unit

COMPONENTS = 50  # principal components from which the two coordinates are computed
PERPLEXITY = 30  # neighbours of a unit that t-SNE keeps close, about
ITERATIONS = 500  # of t-SNE
# Units that t-SNE arranges; of more, the others are put where the arranged ones lie that are closest to them. It takes
# 20 s on one core.
MAX_ARRANGED = 3000
ARRANGED_NEIGHBOURS = 3
SIDE = 10_000  # coordinates of the page are whole numbers from 0 to SIDE
MIN_UNITS = 8  # of fewer units there is no map
CLUSTERS = (4, 40)  # smallest and largest number of clusters
LABEL_WORDS = 2  # in the label of a cluster
MIN_LABEL_SHARE = 0.12  # of a cluster's descriptions that have a word of its label


class Cluster(NamedTuple):
    """Units that lie together.

    Attributes:
        x, y: their mean coordinates.
        size: the number of units.
        label: the commonest words of their descriptions that are rarer elsewhere; empty if there are none.
    """

    x: float
    y: float
    size: int
    label: str


def arrange_units(activations: StandardizedActivations) -> Float[np.ndarray, "units 2"]:
    """Return two coordinates of each unit, so that units with correlated activations lie together.

    They are t-SNE of the first principal components, on one thread, which makes them the same in every run. Of more
    than ``MAX_ARRANGED`` units those evenly spaced are arranged, and the others are put between the three of them that
    are closest.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.neighbors import KNeighborsRegressor

    values = activations.values.numpy().T
    with threadpool_limits(1):
        components = PCA(min(COMPONENTS, *values.shape), svd_solver="randomized", random_state=0).fit_transform(values)
        step = -(-len(components) // MAX_ARRANGED)
        arranged = components[::step]
        perplexity = min(PERPLEXITY, (len(arranged) - 1) / 3)
        tsne = TSNE(init="pca", perplexity=perplexity, max_iter=ITERATIONS, random_state=0)
        coordinates = tsne.fit_transform(arranged)
        if step == 1:
            return coordinates
        model = KNeighborsRegressor(ARRANGED_NEIGHBOURS, weights="distance").fit(arranged, coordinates)
        return model.predict(components)


def find_clusters(coordinates: Float[np.ndarray, "units 2"], texts: Sequence[str]) -> list[Cluster]:
    """Return clusters of units by their coordinates, each labelled by its commonest words.

    Args:
        coordinates: of the units.
        texts: their descriptions, empty for units that have none.
    """
    from sklearn.cluster import KMeans

    count = int(np.clip(round(len(texts) ** 0.5 / 2), *CLUSTERS))
    with threadpool_limits(1):
        members = KMeans(count, n_init=4, random_state=0).fit_predict(coordinates)
    labels = _label_clusters(members, texts)
    clusters = []
    for each in range(count):
        x, y = coordinates[members == each].mean(0).tolist()
        clusters.append(Cluster(x, y, int((members == each).sum()), labels[each]))
    return clusters


def _label_clusters(members: Int[np.ndarray, " units"], texts: Sequence[str]) -> list[str]:
    """Return the words of each cluster whose share of descriptions exceeds that in all descriptions most."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(stop_words="english", binary=True)
    try:
        has_word = vectorizer.fit_transform(texts)
    # Raised where no description has a word that is not a stop word.
    except ValueError:
        return [""] * (int(members.max()) + 1)
    words, overall = vectorizer.get_feature_names_out(), np.asarray(has_word.mean(0)).ravel()
    labels = []
    for each in range(int(members.max()) + 1):
        share = np.asarray(has_word[members == each].mean(0)).ravel()
        best = np.argsort(overall - share, kind="stable")[:LABEL_WORDS]
        labels.append(", ".join(words[word] for word in best if share[word] >= MIN_LABEL_SHARE))
    return labels


def write_unit_map(
    catalogue: Catalogue,
    activations: StandardizedActivations | None,
    folder: Path,
) -> Path | None:
    """Write ``map.html`` beside ``index.html`` and return its path; None for fewer than ``MIN_UNITS`` units.

    Args:
        catalogue: the descriptions.
        activations: those of its units, from ``standardize_activations``; without them there is no map.
        folder: the folder of the page.
    """
    file = folder / "map.html"
    if activations is None or len(activations.units) < MIN_UNITS:
        # A map of an earlier run into the same folder may show other units.
        file.unlink(missing_ok=True)
        return None
    data = make_map_data(catalogue, activations.units, arrange_units(activations))
    write_text(file, render_unit_map(catalogue, data))
    return file


def make_map_data(
    catalogue: Catalogue,
    units: Sequence[Unit],
    coordinates: Float[np.ndarray, "units 2"],
) -> dict[str, Any]:
    """Return what the script of the map reads: layers, each with columns of its units, clusters and distinct texts.

    Args:
        catalogue: the descriptions.
        units: the units on the map.
        coordinates: of these units.
    """
    scaled = _scale(coordinates)
    texts = [_get_text(catalogue, unit) for unit in units]
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    layers: dict[str, dict[str, Any]] = {}
    for unit, (x, y), text in zip(units, scaled.tolist(), texts, strict=True):
        layer = layers.setdefault(unit.layer, {"name": unit.layer, "units": [], "x": [], "y": [], "texts": []})
        values = {"units": unit.index, "x": x, "y": y, "texts": distinct[text]}
        for name, value in values.items():
            layer[name].append(value)
    clusters = [each for each in find_clusters(scaled.astype(np.float64), texts) if each.label]
    return {
        "side": SIDE,
        "layers": list(layers.values()),
        "texts": list(distinct),
        "clusters": [[round(each.x), round(each.y), each.size, each.label] for each in clusters],
    }


def render_unit_map(catalogue: Catalogue, data: Mapping[str, Any]) -> str:
    """Return the HTML document of a map."""
    count = sum(len(layer["units"]) for layer in data["layers"])
    return render_document(
        "map.html.j2",
        styles=["page.css", "map.css"],
        scripts=["data.js", "pictures.js", "map.js"],
        loads_data=True,
        title=clean_text(str(catalogue.facts.get("target") or "A network")),
        simulated=clean_text(str(catalogue.facts.get("simulated") or "")),
        lede=f"{count:,} units; those whose activations correlate lie together.",
        data={"data": data},
    )


def _get_text(catalogue: Catalogue, unit: Unit) -> str:
    # A unit that was dissected may be missing in a catalogue of selected units.
    try:
        description = catalogue.entry(unit).description
    except MilanError:
        return ""
    return re.sub(r"\s+", " ", description.text) if description else ""


def _scale(coordinates: Float[np.ndarray, "units 2"]) -> Int[np.ndarray, "units 2"]:
    """Return coordinates as whole numbers from 0 to ``SIDE``, centred and in the same proportions."""
    low, high = coordinates.min(0), coordinates.max(0)
    spread = float((high - low).max()) or 1.0
    return np.rint((coordinates - (low + high) / 2) / spread * SIDE + SIDE / 2).astype(np.int64)
