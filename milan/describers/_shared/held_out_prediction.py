"""How well texts predict the activations of a layer's units on held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from milan.diorama.text_reader import parse_description
from milan.dissection.dissect import dissect
from milan.dissection.store import Dissection
from milan.probes import Probe, load_probe
from milan.probes.pixel_labels import DioramaLabels, shows_diorama
from milan.scores.activation_simulation import LABEL_SIMULATOR, Simulator, load_simulator
from milan.scores.activation_sums import LabelledScenes, load_activation_sums
from milan.storage.files import cache_folder
from milan.units import Unit

MIN_DEVIATION = 1e-9


@runtime_checkable
class Predictor(Protocol):
    """Tells how well texts predict a unit's activation."""

    def correlate(self, row: int, texts: Sequence[str]) -> list[float]:
        """Return the correlation of each text with the unit in that row of the dissection, -1..1; 0 if undefined."""
        ...


@dataclass(frozen=True)
class HeldOutPrediction:
    """How well texts predict the units of a layer."""

    dissection: Dissection
    predictor: Predictor

    @classmethod
    def load(
        cls, dissection: Dissection, simulator: str, calibration: str = "", held_out: str = "", device: str = "cpu"
    ) -> "HeldOutPrediction":
        """Run the target on the held-out images, or read what was computed before.

        Args:
            simulator: ``labels``, or an image-text model.
            calibration: of the image-text model, as ``milan.concepts.presence.calibrate`` takes it.
            held_out: spec of the held-out images; empty for the dissection's own probe.

        Raises:
            MissingEvidence: the images have no labels, where they are needed.
        """
        own = dissection.open_probe()
        layer = dissection
        if held_out:
            target = dissection.open_target()
            probe = load_probe(held_out, target=target)
            units = {dissection.layer: [unit.index for unit in dissection.units]}
            folder = cache_folder() / "held-out" / dissection.key
            layer = dissect(target, probe, [dissection.layer], folder, k=1, units=units)[dissection.layer]
        probe = layer.open_probe()
        if simulator == LABEL_SIMULATOR and shows_diorama(probe.spec):
            return cls(dissection, PixelPredictor.load(layer, probe))
        found = load_simulator(simulator, probe, own, calibration, device=device)
        return cls(dissection, ImagePredictor(layer.activations("max").double().numpy(), found))

    def correlate(self, unit: Unit, texts: Sequence[str]) -> list[float]:
        """Return the correlation of a unit's activation with each text, -1..1; 0 where it is undefined."""
        return self.predictor.correlate(self.dissection.row_of(unit), texts) if texts else []


class ImagePredictor:
    """Correlates the largest activation in each image with the probability that the image shows a text.

    Args:
        activations: of each unit in each image.
        simulator: tells how likely each image shows a text.
    """

    def __init__(self, activations: Float[np.ndarray, "images units"], simulator: Simulator):
        self.activations, self.simulator = activations, simulator

    def correlate(self, row: int, texts: Sequence[str]) -> list[float]:
        """Return the correlation over images of a unit with the maximum probability of a text's alternatives."""
        parts = list(dict.fromkeys(part for text in texts for part in text.split(" or ")))
        matrix = self.simulator.predict_presence(parts).matrix.double().numpy()
        shown = {part: matrix[:, place] for place, part in enumerate(parts)}
        values = self.activations[:, row]
        found = []
        for text in texts:
            predicted = np.max([shown[part] for part in text.split(" or ")], axis=0)
            good = np.isfinite(values) & np.isfinite(predicted)
            found.append(_correlate(values[good], predicted[good]))
        return found


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or one.std() < MIN_DEVIATION or other.std() < MIN_DEVIATION:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


class PixelPredictor:
    """Correlates the activation at each pixel with the pixels that a text denotes, by Diorama's labels.

    Args:
        scenes: the labels of the images' pixels.
        sums: of each unit's activation on the pixels of each signature, (units, signatures).
        squares: sum of each unit's squared activation.
    """

    def __init__(self, scenes: LabelledScenes, sums: Float[np.ndarray, "units columns"], squares: np.ndarray):
        self.signatures, self.sums, self.squares = scenes.signatures, sums.astype(np.float64), squares
        self.area = scenes.signatures.area.astype(np.float64)

    @classmethod
    def load(cls, dissection: Dissection, probe: Probe) -> "PixelPredictor":
        """Add up the activations of a dissected layer over the pixels of its probe."""
        scenes = LabelledScenes.from_signatures(probe, DioramaLabels(probe).signatures, probe.fingerprint)
        found = load_activation_sums(dissection, scenes)
        return cls(scenes, found.sums, found.squares.sum(1))

    def correlate(self, row: int, texts: Sequence[str]) -> list[float]:
        """Return the correlation over pixels of a unit with the pixels that each text denotes; 0 for a constant one."""
        values = np.stack([self.signatures.text_values(parse_description(text)) for text in texts])
        pixels = self.area.sum()
        means = values @ self.area / pixels
        deviations = np.sqrt(np.clip(values**2 @ self.area / pixels - means**2, 0, None))
        mean = self.sums[row].sum() / pixels
        deviation = np.sqrt(max(0.0, self.squares[row] / pixels - mean**2))
        scale = deviations * deviation
        both = values @ self.sums[row] / pixels - means * mean
        return np.divide(both, scale, out=np.zeros_like(both), where=scale > MIN_DEVIATION).tolist()
