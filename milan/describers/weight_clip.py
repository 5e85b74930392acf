"""Weight-CLIP of *Tell me what you see* (section 3.2.3): a language model reads descriptions of the next layer."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from milan.describers import load_describer
from milan.describers._shared.base import Describer
from milan.describers._shared.runner import describe_units
from milan.describers._shared.weight_pairs import WeightExplainer, make_weight_pairs, match_class_names
from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.errors import BadInput, MissingEvidence
from milan.pretrained.published_models import MissingModel
from milan.probes import Probe
from milan.results.catalogue import read_descriptions, table_sources
from milan.scores.prediction_pairs import PredictionPairs
from milan.storage.files import cache_folder, content_key
from milan.storage.provenance import joined
from milan.targets.effective_weights import compute_effective_weights
from milan.targets.target import Target
from milan.units import Unit

CLASSES = "classes"


class _NextLayer(NamedTuple):
    """The described units of the next layer and the weights that lead to them."""

    weights: Tensor  # described units, units
    texts: list[str]


class WeightClip(WeightExplainer):
    """Asks a language model what a unit detects, from descriptions of the next layer's units with its largest weights.

    The descriptions are listed with weights 1 to 10, weakest first. They come from CLIP-Dissect, as in the paper,
    unless another describer is named, and are cached. The next layer must be dissected with this one. For the last
    layer classes take the place of units, as in ``weight_label``.

    Args:
        of: describer of the next layer, by name or as PATH/FILE.py:CLASS, or a table of descriptions (a folder of
            describe.py, a csv, jsonl or parquet file).
        options: settings of that describer, by name.
        next_layer: dotted path; if empty the next layer among those dissected together; ``classes`` for the network's
            outputs.
        shared: options of ``WeightExplainer``, ``LlmExplainer`` and ``LlmDescriber``.
    """

    name: ClassVar[str] = "weight_clip"
    version: ClassVar[int] = 1

    def __init__(
        self, of: str = "clip_dissect", options: dict[str, Any] | None = None, next_layer: str = "", **shared: Any
    ):
        super().__init__(**shared)
        self.of, self.options, self.next_layer = of, options, next_layer
        self._cached_next_layer: dict[str, _NextLayer] = {}

    @property
    def key(self) -> str:
        """Content key of the explainer's settings, the source of the descriptions, the next layer and the classes."""
        source = self._other.key if self._other else sorted((str(unit), text) for unit, text in self._table.items())
        return content_key(explainer=super().key, of=source, next_layer=self.next_layer, classes=self.class_names)

    def required_models(self) -> dict[str, str]:
        """Return the language model; the describer of the next layer has its own models."""
        return self.specs("llm")

    def find_missing_models(self) -> list[MissingModel]:
        """Return the missing models of the explainer and of the describer of the next layer."""
        return [*super().find_missing_models(), *(self._other.find_missing_models() if self._other else [])]

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if the evidence of the next layer's describer is missing."""
        if self._other:
            self._other.check_evidence(target, probe)

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the language model, and the sources of the next layer's descriptions unless classes replace them."""
        found = self.specs("llm")
        if (self.next_layer or self._find_next_layer(dissection)) == CLASSES:
            return found
        other = table_sources(self.of) if self._other is None else self._other.sources(dissection)
        return joined({self.name: found, self.of: other})

    @cached_property
    def _table(self) -> dict[Unit, str]:
        """Descriptions by unit, if ``of`` is a table."""
        return {each.unit: each.text for each in read_descriptions(self.of)} if Path(self.of).exists() else {}

    @cached_property
    def _other(self) -> Describer | None:
        return None if self._table else load_describer(self.of, **self.options or {})

    def make_pairs(self, dissection: Dissection, unit: Unit) -> PredictionPairs:
        """Return the next layer's descriptions with the unit's weights to them as integers."""
        if dissection.key not in self._cached_next_layer:
            self._cached_next_layer = {dissection.key: self._load_next_layer(dissection)}
        further = self._cached_next_layer[dissection.key]
        return make_weight_pairs(further.weights[:, unit.index].numpy(), further.texts, self.signs, self.name)

    def _load_next_layer(self, dissection: Dissection) -> _NextLayer:
        target = dissection.open_target()
        layer = self.next_layer or self._find_next_layer(dissection)
        if layer == CLASSES:
            weights = compute_effective_weights(target, dissection.layer)
            return _NextLayer(weights, match_class_names(self.class_names, dissection, len(weights)))
        texts = self._describe_layer(dissection, layer)
        units = sorted(texts)
        weights = compute_effective_weights(target, dissection.layer, layer)
        return _NextLayer(weights[[unit.index for unit in units]], [texts[unit] for unit in units])

    def _find_next_layer(self, dissection: Dissection) -> str:
        """Return the first layer after this one whose units can be described, else ``classes``."""
        order = [layer.name for layer in dissection.open_target().layers()]
        later = order[order.index(dissection.layer) + 1 :] if dissection.layer in order else []
        known = {unit.layer for unit in self._table} or {each.layer for each in _find_sibling_dissections(dissection)}
        return next((layer for layer in later if layer in known), CLASSES)

    def _describe_layer(self, dissection: Dissection, layer: str) -> dict[Unit, str]:
        """Return the descriptions of the next layer's units."""
        if self._other is None:
            found = {unit: text for unit, text in self._table.items() if unit.layer == layer}
            if not found:
                raise BadInput(
                    f"{self.of} describes no unit of {layer}; it has"
                    f" {', '.join(sorted({unit.layer for unit in self._table}))}"
                )
            return found
        other = next((each for each in _find_sibling_dissections(dissection) if each.layer == layer), None)
        if other is None:
            raise MissingEvidence(
                f"{layer} was not dissected with {dissection.layer}; give both as --layers {dissection.layer} {layer}"
            )
        folder = cache_folder() / "next_layer" / content_key(describer=self._other.key, dissection=other.key)
        entries = describe_units(self._other, {layer: other}, {layer: other.active_units()}, folder)
        texts = {entry.unit: entry.description.text for entry in entries if entry.description is not None}
        if not texts:
            raise MissingEvidence(f"{self._other.name} describes no unit of {layer}")
        return texts


def _find_sibling_dissections(dissection: Dissection) -> Sequence[Dissection]:
    """Return the other layers that were dissected into the same folder."""
    folders = [file.parent for file in sorted(dissection.folder.parent.glob("*/dissection.json"))]
    found = [load_dissection(folder) for folder in folders if folder != dissection.folder]
    return [each for each in found if each.target == dissection.target]
