"""A view of a dissection with fewer exemplars, as if it had been computed with a smaller k."""

from collections.abc import Hashable, Iterator, Sequence

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from milan.dissection.dissection import ActivationPooling, Dissection, ExemplarMaps
from milan.errors import BadInput
from milan.probes import Probe
from milan.storage.files import content_key
from milan.targets.target import Target
from milan.units import Exemplars, Unit


class TopKView(Dissection):
    """A dissection restricted to the k strongest exemplars of each unit.

    Whether a unit is sparse depends on this k.

    Args:
        dissection: the dissection.
        k: number of exemplars per unit.

    Raises:
        BadInput: the dissection has fewer exemplars.
    """

    def __init__(self, dissection: Dissection, k: int):
        if not 1 <= k <= dissection.k:
            raise BadInput(
                f"k is {k}, but {dissection.folder} holds {dissection.k} exemplars per unit; give 1 to {dissection.k}"
            )
        self.inner, self.k = dissection, k
        self.layer, self.units, self.quantile = dissection.layer, dissection.units, dissection.quantile
        self.rank_by = dissection.rank_by
        self.probe, self.target, self.image_size, self.folder = (
            dissection.probe,
            dissection.target,
            dissection.image_size,
            dissection.folder,
        )
        self.key = dissection.key if k == dissection.k else content_key(of=dissection.key, k=k)
        self.status = dict(dissection.status)
        sparse = [unit for unit, status in dissection.status.items() if status == "sparse"]
        if sparse and k < dissection.k:
            positive = (dissection.activations(self.rank_by, sparse) > 0).sum(0).tolist()
            self.status |= {unit: "ok" for unit, images in zip(sparse, positive, strict=True) if images >= k}

    def exemplars(self, unit: Unit | str) -> Exemplars:
        """Return the k strongest exemplars."""
        whole = self.inner.exemplars(unit)
        kept = (part[: self.k] for part in (whole.images, whole.masks, whole.activations, whole.ids))
        return Exemplars(whole.unit, *kept)

    def image_keys(self, unit: Unit | str) -> list[Hashable]:
        """Return the keys of the k strongest exemplars."""
        return self.inner.image_keys(unit)[: self.k]

    def exemplar_image(self, unit: Unit | str, rank: int) -> UInt8[Tensor, "3 height width"]:
        """Return the image of one exemplar."""
        return self.inner.exemplar_image(unit, rank)

    def exemplar_masks(self, exemplars: Sequence[tuple[Unit | str, int]]) -> Bool[Tensor, "n 1 height width"]:
        """Return the masks of some exemplars, by unit and rank."""
        return self.inner.exemplar_masks(exemplars)

    @property
    def images_key(self) -> str:
        """That of the whole dissection."""
        return self.inner.images_key

    def images(self, ids: Int[Tensor, " k"]) -> UInt8[Tensor, "k 3 height width"]:
        """Return images of the probe by their rows."""
        return self.inner.images(ids)

    def iter_exemplar_maps(self, units: Sequence[Unit]) -> Iterator[ExemplarMaps] | None:
        """Yield the first k exemplars of units without their pixels; None where the dissection has no maps."""
        blocks = self.inner.iter_exemplar_maps(units)
        return None if blocks is None else (self._cut(block) for block in blocks)

    def _cut(self, block: ExemplarMaps) -> ExemplarMaps:
        ids, activations, maps = (part[:, : self.k] for part in (block.ids, block.activations, block.maps))
        return block._replace(ids=ids, activations=activations, maps=maps)

    def maps(self, unit: Unit | str) -> Float[Tensor, "k h w"]:
        """Return the maps of the k strongest exemplars."""
        return self.inner.maps(unit)[: self.k]

    def activations(
        self, pooling: ActivationPooling = "max", units: Sequence[Unit | str] | None = None
    ) -> Float[Tensor, "images units"]:
        """Return the activations of the whole dissection."""
        return self.inner.activations(pooling, units)

    def thresholds(self) -> Float[Tensor, " units"]:
        """Return the thresholds of the whole dissection."""
        return self.inner.thresholds()

    def thresholds_at(self, quantile: float) -> Float[Tensor, " units"] | None:
        """Return the thresholds that the whole dissection holds."""
        return self.inner.thresholds_at(quantile)

    def open_probe(self) -> Probe:
        """Load the probe of the whole dissection."""
        return self.inner.open_probe()

    def open_target(self) -> Target:
        """Load the network of the whole dissection."""
        return self.inner.open_target()
