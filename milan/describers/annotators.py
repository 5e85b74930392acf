"""Annotators' texts as descriptions: the ceiling for methods that learn from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from milan.describers._shared.base import Describer, DescriptionFailure, select_active
from milan.diorama import DioramaImages
from milan.diorama import simulated_annotators as annotators
from milan.diorama.label_signatures import LabelSignatures
from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe
from milan.probes.pixel_labels import DioramaLabels, shows_diorama
from milan.storage.files import cache_root
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.target import Target
from milan.units import Candidate, Description, Unit

PACKAGED_ANNOTATIONS = "data/diorama/annotations"
AnnotationSource = Literal["found", "simulated"]


class Annotators(Describer):
    """Gives each unit the text of one of its annotators: the ceiling for methods that learn from annotations.

    ``score`` is the mean sentence BLEU of that text against those of the other annotators, 0..1. Diorama's annotators
    are simulated; those of MILANNOTATIONS (Hernandez et al. 2022, section 3.3) are people, three for each unit. A unit
    without annotations is a failure.

    Args:
        source: ``found`` for the annotations in the dissection's own folder, else those that come with the package if
            they are of the same network of Diorama, layer and probe, else simulated ones if the probe is Diorama's;
            ``simulated`` for the latter; or the path of an ``annotations.csv`` or of a folder with some.
        who: ``first`` of the unit's annotators, the one ``agreed`` with most by the others (ties: the earlier), or one
            by number, from 0; the last if a unit has fewer.
        seed: random seed of the simulated annotators.
    """

    name: ClassVar[str] = "annotators"
    version: ClassVar[int] = 1
    words = "annotators"

    def __init__(self, source: str = "found", who: Literal["first", "agreed"] | int = "first", seed: int = 0):
        self.source, self.who, self.seed = source, who, seed

    @property
    def key(self) -> str:
        """Content key of the settings and of all texts that may be repeated."""
        files = sorted(path for place in self._source_folders() for path in _find_tables(place))
        texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return self.key_of(texts=texts, who=str(self.who), seed=self.seed, simulated=self._simulates)

    @property
    def _simulates(self) -> str:
        return self.source if self.source in ("found", "simulated") else ""

    def check_evidence(self, target: Target, probe: Probe) -> None:
        """Raise MissingEvidence if annotators have to be simulated and the probe does not show Diorama."""
        if self._simulates and not shows_diorama(probe.spec):
            raise MissingEvidence(
                f"nobody annotated {target.name}, and annotators can be simulated on Diorama's images alone, not on the"
                f" probe {probe.spec or probe.name}; give source=FILE_OR_FOLDER"
            )

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Return the source of the layer's annotations: its own folder, a given folder, or Diorama."""
        if self.source == "found" and _read_own_annotations(dissection):
            return {"annotations": str(dissection.folder)}
        return {"annotations": "diorama" if self._simulates else self.source}

    def _source_folders(self) -> list[Path]:
        """Return the folders that texts are read from for any dissection."""
        if self._simulates:
            return [locate_packaged_data(PACKAGED_ANNOTATIONS)] if self.source == "found" else []
        if not Path(self.source).exists():
            raise BadInput(f"no annotations at {self.source}; give a folder, an annotations.csv, found or simulated")
        return [Path(self.source)]

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | DescriptionFailure]:
        """Yield the text of one annotator of each unit; a unit that nobody annotated is a failure."""
        active = select_active(dissection, units)
        if not active:
            return
        known_texts = self._load_annotations(dissection)
        for unit in active:
            texts = (
                known_texts[unit]
                if known_texts is not None and unit in known_texts
                else simulate_annotations(dissection, unit, self.seed)
                if known_texts is None
                else []
            )
            yield (
                self._choose_annotation(unit, texts) if texts else DescriptionFailure(unit, f"nobody annotated {unit}")
            )

    def _load_annotations(self, dissection: Dissection) -> Mapping[Unit, Sequence[str]] | None:
        """Return the annotations of the layer's units; None if annotators are simulated."""
        if self.source == "found":
            return _read_own_annotations(dissection) or _read_packaged_annotations(dissection)
        return None if self.source == "simulated" else _read_annotations(self._source_folders()[0])

    def _choose_annotation(self, unit: Unit, texts: Sequence[str]) -> Description:
        agreed = [compute_agreement(text, [*texts[:at], *texts[at + 1 :]]) for at, text in enumerate(texts)]
        order = sorted(range(len(texts)), key=lambda at: -agreed[at])
        at = order[0] if self.who == "agreed" else min(0 if self.who == "first" else int(self.who), len(texts) - 1)
        candidates = tuple(Candidate(texts[each], agreed[each]) for each in order)
        return Description(unit, texts[at], agreed[at], candidates=candidates)


def compute_agreement(text: str, others: Sequence[str]) -> float:
    """Return the mean sentence BLEU of a text against each of the others, 0..1; 0 if there are none.

    N-grams are limited to the length of the shorter text; otherwise two equal texts of two words would score 0.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=True, effective_order=True)
    scores = [metric.sentence_score(text, [other]).score / 100 for other in others]
    return sum(scores) / len(scores) if scores else 0.0


def simulate_annotations(dissection: Dissection, unit: Unit, seed: int = 0) -> list[str]:
    """Return texts of Diorama's three simulated annotators about a unit's exemplars.

    They know what every pixel inside the masks shows; for generated pictures they rely on the embedded segmenter.

    Raises:
        MissingEvidence: the probe is not Diorama's, so that it is unknown what its pixels show.
    """
    if not shows_diorama(dissection.probe):
        raise MissingEvidence(
            f"nobody annotated {dissection.layer}, and none can be simulated on the probe {dissection.probe!r}; give"
            " source=FOLDER, or dissect on diorama:objects"
        )
    signatures, at_large = _load_statistics(dissection)
    found = dissection.exemplars(unit)
    evidence = annotators.measure_frequencies(signatures, found.ids.numpy(), found.masks[:, 0].numpy(), at_large)
    return annotators.annotate(evidence, f"{dissection.target.partition(':')[2]}/{unit}", seed)


def _load_statistics(dissection: Dissection) -> tuple:
    """Return the label signatures of a probe, and how often concepts occur together in it."""
    kind, _, world = dissection.probe.partition(":")
    probe = dissection.open_probe()
    return (
        _load_scene_statistics(world, dissection.image_size, len(probe))
        if kind == "diorama"
        else _predict_statistics(probe)
    )


@cache
def _load_scene_statistics(world: str, size: int, length: int) -> tuple:
    signatures = LabelSignatures.from_images(DioramaImages(world, size=size, length=length), cache_root() / "diorama")
    return signatures, annotators.count_cooccurrence(signatures.area, signatures)


@lru_cache(maxsize=4)  # of a few probes, which are the same object for all layers of a dissection
def _predict_statistics(probe: Probe) -> tuple:
    signatures = DioramaLabels(probe).signatures
    return signatures, annotators.count_cooccurrence(signatures.area, signatures)


def _read_own_annotations(dissection: Dissection) -> Mapping[Unit, Sequence[str]] | None:
    """Return the annotations in a dissection's folder, as in MILANNOTATIONS."""
    try:
        return read_unit_annotations(dissection.folder) or None
    except BadInput:
        return None


def _read_packaged_annotations(dissection: Dissection) -> Mapping[Unit, Sequence[str]] | None:
    """Return the package's annotations of the same network, layer and probe."""
    kind, _, network = dissection.target.partition(":")
    place = locate_packaged_data(PACKAGED_ANNOTATIONS) / network / dissection.layer
    if kind != "diorama" or not network or not place.is_dir() or load_dissection(place).probe != dissection.probe:
        return None
    return _read_own_annotations(load_dissection(place))


def _read_annotations(place: Path) -> Mapping[Unit, Sequence[str]]:
    return {unit: texts for file in _find_tables(place) for unit, texts in read_unit_annotations(file).items()}


def _find_tables(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.glob("**/annotations.csv"))
