"""What describers by the overlap of masks with pixel labels share."""

from collections.abc import Sequence

from milan.describers._shared.base import Describer, DescriptionRequest, select_active
from milan.dissection.concept_overlap import count_overlaps
from milan.dissection.dissection import Dissection
from milan.pretrained.segmenter_labels import compute_source_key, load_pixel_labels, segmenter_of
from milan.probes import Probe
from milan.probes.pixel_labels import PixelLabels, load_probe_labels
from milan.targets.target import Target


class PixelLabelDescriber(Describer):
    """A describer that compares a unit's masks with pixel labels: the probe's own, or those that a segmenter predicts.

    Attributes:
        labels, classes, ignored: as ``load_pixel_labels`` takes them.
        quantile: of the masks; 0 for that of the dissection.
        device: of a segmenter.
    """

    labels: str
    classes: str
    ignored: str
    quantile: float
    device: str

    @property
    def key(self) -> str:
        """Content key of the settings that change answers, and of a segmenter's weights."""
        settings = {name: value for name, value in self.settings.items() if name not in ("device", "classes")}
        return self.key_of(labels_of=compute_source_key(self.labels, self.classes, self.device), **settings)

    def required_models(self) -> dict[str, str]:
        """Return the segmenter, if there is one."""
        return segmenter_of(self.labels)

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the probe's own pixel labels are to be used and it has none."""
        if self.labels == "probe":
            load_probe_labels(probe, self.classes, self.ignored)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the segmenter, if it predicts the labels; the probe's own labels come with the probe."""
        return segmenter_of(self.labels)

    def prepare(self, requests: Sequence[DescriptionRequest]) -> None:
        """Count the overlaps of all layers in one pass; ``describe`` reads the counts."""
        dissections = [dissection for dissection, units in requests if select_active(dissection, units)]
        if dissections:
            count_overlaps(dissections, self._load_labels(dissections[0]), self.quantile or None)

    def _load_labels(self, dissection: Dissection) -> PixelLabels:
        return load_pixel_labels(
            dissection.open_probe(), self.labels, classes=self.classes, ignored=self.ignored, device=self.device
        )
