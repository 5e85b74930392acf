"""Describes each meaning of a unit: its exemplars are clustered, and any describer describes each cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from milan.describers import load_describer
from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.describers._shared.candidate_selection import measure_maps
from milan.dissection.dissection import ActivationPooling, Dissection
from milan.dissection.masks import fill_empty_masks, masks_from_maps
from milan.errors import BadInput
from milan.pretrained.embedder import load_embedder
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.storage.files import content_key
from milan.storage.provenance import joined
from milan.targets.target import Target
from milan.units import Candidate, Description, Exemplars, Unit

BATCH_SIZE = 32  # images that the target processes together
MIN_CLUSTER = 3  # exemplars that a meaning needs
MIN_CLUSTER_SHARE = 0.1  # of the exemplars
MARGIN = 0.25  # of the mask's bounding box, on each side of a crop
MIN_CROP = 12  # side of a crop in pixels
JOIN = " or "


class Several(Describer):
    """Clusters what a unit responds to and describes each cluster with another describer.

    The exemplars are images over the whole range of activation above the unit's mask threshold, not only the strongest
    ones. An image-text model embeds the part of each that the mask covers. Ward's method clusters the embeddings into
    two to ``meanings`` clusters; the clustering with the largest silhouette counts if its silhouette is at least
    ``separation``, and else the unit has one meaning. The other describer sees the exemplars and activations of one
    cluster at a time. The description joins the different texts by "or", that of the largest cluster first; ``score``
    is the smallest of theirs. ``reasoning`` has the silhouette and the clusters' sizes.

    Describers that measure masks over the whole probe (settings ``labels``) cannot be restricted to a cluster.

    Args:
        of: the other describer, by name, as PATH/FILE.py:CLASS, or, in Python, an object.
        options: settings of the other describer, by name.
        embedder: image-text model, as ``milan.pretrained.embedder.load_embedder`` takes it.
        exemplars: maximum number of images that are clustered.
        meanings: maximum number of meanings.
        separation: silhouette from which a unit has several meanings, -1..1.
        device: device of the image-text model.
    """

    name: ClassVar[str] = "several"
    version: ClassVar[int] = 1

    def __init__(
        self,
        of: str | Describer = "clip_dissect",
        options: dict[str, Any] | None = None,
        embedder: str = "open_clip:ViT-B-16-quickgelu/openai",
        exemplars: int = 30,
        meanings: int = 2,
        separation: float = 0.4,
        device: str = "cpu",
    ):
        if meanings < 1 or exemplars < 2 * MIN_CLUSTER:
            raise BadInput(
                f"{meanings} meanings of {exemplars} exemplars; give at least 1 meaning and {2 * MIN_CLUSTER} exemplars"
            )
        self.of, self.options, self.embedder, self.exemplars = of, options, embedder, exemplars
        self.meanings, self.separation, self.device = meanings, separation, device

    @property
    def key(self) -> str:
        """Content key of the other describer, the image-text model and the other settings."""
        names = ("of", "options", "embedder", "device")
        settings = {name: value for name, value in self.settings.items() if name not in names}
        return self.key_of(of=self.single_describer.key, model=self.model.key, **settings)

    @property
    def words(self) -> str:  # type: ignore[override]
        """Those of the other describer."""
        return self.single_describer.words

    def find_missing_models(self) -> list[MissingModel]:
        """Return the missing models of this describer and of the one that describes clusters."""
        return [*super().find_missing_models(), *self.single_describer.find_missing_models()]

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the evidence of the describer of clusters is missing."""
        self.single_describer.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the image-text model, and the sources of the other describer."""
        other = self.single_describer
        return joined({self.name: self.specs("embedder"), other.name: other.sources(dissection)})

    def image_endpoint(self) -> str:
        """Return the endpoint that the describer of clusters sends images to."""
        return self.single_describer.image_endpoint()

    def estimate_requests(self, probe: Probe, units: int, k: int) -> str:
        """Return the requests of the describer of clusters, for up to ``meanings`` clusters per unit."""
        return self.single_describer.estimate_requests(probe, units * self.meanings, k)

    @cached_property
    def single_describer(self) -> Describer:
        """The describer of each cluster."""
        found = load_describer(self.of, **self.options or {}) if isinstance(self.of, str) else self.of
        if "labels" in found.setting_names():
            raise BadInput(
                f"several cannot restrict {found.name} to some exemplars, since it measures masks over the whole probe;"
                " take a describer of exemplars or activations, such as milan or clip_dissect"
            )
        return found

    @cached_property
    def model(self) -> Embedder:
        """The image-text model, loaded at the first access."""
        return load_embedder(self.embedder, device=self.device)

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield the joined descriptions of each unit's clusters."""
        active = select_active(dissection, units)
        target = dissection.open_target() if active else None
        probe = dissection.open_probe() if active else None
        for unit in active:
            assert target is not None
            assert probe is not None
            ids = select_range(dissection, unit, self.exemplars)
            images = torch.stack([probe.image(index) for index in ids.tolist()])
            _, maps = measure_maps(target, [unit], images, "max", BATCH_SIZE)[unit]
            threshold = float(dissection.thresholds()[dissection.row_of(unit)])
            masks = fill_empty_masks(masks_from_maps(maps, threshold, dissection.image_size))
            clusters, separation = self.cluster(images, masks)
            views = [ClusterView(dissection, unit, ids[rows], images[rows], maps[rows]) for rows in clusters]
            yield self._describe_clusters(unit, views or [dissection], separation)

    def cluster(self, images: UInt8[Tensor, "n 3 h w"], masks: Tensor) -> tuple[list[Int[Tensor, " some"]], float]:
        """Return the exemplars of each meaning, the largest cluster first, and the silhouette.

        There are no clusters if the unit has one meaning.
        """
        vectors = self.model.encode_images(crop_masked(images, masks)).double().numpy()
        return split_exemplars(vectors, self.meanings, self.separation)

    def _describe_clusters(
        self, unit: Unit, views: Sequence[Dissection], separation: float
    ) -> Description | DescriptionFailure:
        found = [next(iter(self.single_describer.describe(view, [unit]))) for view in views]
        described = [each for each in found if isinstance(each, Description)]
        if not described:
            return found[0]
        sizes = [view.k if isinstance(view, ClusterView) else 0 for view in views]
        reasoning = {"silhouette": round(separation, 4), "exemplars": sizes, "texts": [each.text for each in described]}
        texts = list(dict.fromkeys(each.text for each in described))
        if len(texts) == 1:
            return replace(described[0], reasoning=reasoning)
        score = min(each.score for each in described)
        pairs = [Candidate(JOIN.join(texts), score)]
        return Description(unit, pairs[0].text, score, candidates=tuple(pairs), reasoning=reasoning)


def select_range(dissection: Dissection, unit: Unit, count: int) -> Int[Tensor, " images"]:
    """Return images in which a unit exceeds its mask threshold: the k strongest, and others at equal steps of rank."""
    row = dissection.row_of(unit)
    values = dissection.activations("max", [unit])[:, 0].float().nan_to_num(nan=-torch.inf)
    order = values.sort(descending=True, stable=True).indices
    above = max(dissection.k, int((values > dissection.thresholds()[row]).sum()))
    first = min(dissection.k, count)
    steps = np.linspace(first, above - 1, max(0, min(count, above) - first)).round().astype(int)
    return order[sorted({*range(first), *steps.tolist()})]


def crop_masked(images: UInt8[Tensor, "n 3 h w"], masks: Tensor) -> UInt8[Tensor, "n 3 h w"]:
    """Return the part of each image around its mask, resized to the image's size."""
    height, width = images.shape[-2:]
    found = []
    for image, mask in zip(images, masks.reshape(-1, height, width), strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        top, bottom = _widen(int(rows.min()), int(rows.max()) + 1, height)
        left, right = _widen(int(columns.min()), int(columns.max()) + 1, width)
        part = image[None, :, top:bottom, left:right].float()
        crop = torch.nn.functional.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        found.append(crop[0].round().clamp(0, 255).to(torch.uint8))
    return torch.stack(found)


def _widen(start: int, stop: int, size: int) -> tuple[int, int]:
    margin = max(round(MARGIN * (stop - start)), -(-(MIN_CROP - (stop - start)) // 2))
    return max(0, start - margin), min(size, stop + margin)


def split_exemplars(
    vectors: Float[np.ndarray, "n features"], meanings: int, separation: float
) -> tuple[list[Int[Tensor, " some"]], float]:
    """Return the rows of each cluster, the largest first, and the silhouette of the best clustering.

    There are no clusters if no clustering reaches the silhouette ``separation``, or all have too small clusters.
    """
    least = max(MIN_CLUSTER, MIN_CLUSTER_SHARE * len(vectors))
    best: tuple[float, np.ndarray] = (-1.0, np.zeros(len(vectors), dtype=int))
    if len(vectors) >= 2 * MIN_CLUSTER:
        tree = linkage(vectors, "ward")
        for count in range(2, meanings + 1):
            labels = fcluster(tree, count, "maxclust")
            if len(np.unique(labels)) == count and np.bincount(labels)[1:].min() >= least:
                best = max(best, (compute_silhouette(vectors, labels), labels), key=lambda pair: pair[0])
    if best[0] < separation:
        return [], best[0]
    rows = [torch.from_numpy(np.flatnonzero(best[1] == label)) for label in np.unique(best[1])]
    return sorted(rows, key=len, reverse=True), best[0]


def compute_silhouette(vectors: Float[np.ndarray, "n features"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the mean silhouette by squared Euclidean distance, -1..1: of unit vectors twice the cosine distance.

    >>> compute_silhouette(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([1, 1, 2, 2]))
    1.0
    """
    products = vectors @ vectors.T
    squares = np.diag(products)
    distance = np.clip(squares[:, None] + squares[None] - 2 * products, 0, None)
    members = np.stack([labels == label for label in np.unique(labels)], axis=1).astype(float)
    sums, own = distance @ members, members.argmax(1)
    rows = np.arange(len(vectors))
    inside = sums[rows, own] / np.maximum(1, members.sum(0)[own] - 1)
    outside = sums / members.sum(0)
    outside[rows, own] = np.inf
    nearest = outside.min(1)
    larger = np.maximum(inside, nearest)
    return float(np.divide(nearest - inside, larger, out=np.zeros_like(larger), where=larger > 0).mean())


class ClusterView(Dissection):
    """A dissection in which one unit is active on some images only.

    Its exemplars are the strongest of these, and its activation elsewhere is its smallest one.

    Args:
        inner: the dissection.
        unit: the unit.
        ids: the images, strongest first.
        images: their pixels.
        maps: the unit's activation maps of them.
    """

    def __init__(
        self,
        inner: Dissection,
        unit: Unit,
        ids: Int[Tensor, " n"],
        images: UInt8[Tensor, "n 3 h w"],
        maps: Float[Tensor, "n gh gw"],
    ):
        self.inner, self.unit, self._ids, self._images, self._maps = inner, unit, ids, images, maps
        self.layer, self.units, self.quantile = inner.layer, inner.units, inner.quantile
        self.probe, self.target, self.image_size, self.folder = (
            inner.probe,
            inner.target,
            inner.image_size,
            inner.folder,
        )
        self.k, self.status = min(inner.k, len(ids)), inner.status
        self.key = content_key(of=inner.key, unit=str(unit), images=ids.tolist())

    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Return the strongest images of the cluster for its unit; other units are unchanged."""
        if self.row_of(unit) != self.row_of(self.unit):
            return self.inner.exemplars(unit)
        maps = self._maps[: self.k]
        masks = masks_from_maps(maps, float(self.thresholds()[self.row_of(unit)]), self.image_size)
        shown = self._images[: self.k], fill_empty_masks(masks)[:, None]
        return Exemplars(self.unit, *shown, maps.flatten(1).amax(1), self._ids[: self.k])

    def maps(self, unit: Unit | str) -> Float[Tensor, "k h w"]:
        """Return the maps of the cluster's strongest images for its unit; other units are unchanged."""
        return self._maps[: self.k] if self.row_of(unit) == self.row_of(self.unit) else self.inner.maps(unit)

    def activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit | str] | None = None
    ) -> Float[Tensor, "images units"]:
        """Return activations in which the unit has its minimum on all images outside the cluster."""
        chosen = self.units if units is None else units
        values = self.inner.activations(pooling, chosen).clone()
        for place, unit in enumerate(chosen):
            if self.row_of(unit) == self.row_of(self.unit):
                column = values[:, place]
                alone = torch.full_like(column, float(column[column.isfinite()].min()))
                alone[self._ids] = column[self._ids]
                values[:, place] = alone
        return values

    def thresholds(self) -> Float[Tensor, " units"]:
        """Return the thresholds of the whole dissection."""
        return self.inner.thresholds()

    def open_probe(self) -> Probe:
        """Load the probe of the whole dissection."""
        return self.inner.open_probe()

    def open_target(self) -> Target:
        """Load the network of the whole dissection."""
        return self.inner.open_target()
