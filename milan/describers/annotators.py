"""What annotators said of a unit, as a description: the ceiling for whatever learns from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from milan.describers.base import Describer, Failure, living
from milan.diorama import DioramaImages, annotators
from milan.diorama.census import Census
from milan.dissection.exchange import annotations_of
from milan.dissection.store import Dissection, load_dissection
from milan.embedded import embedded
from milan.errors import BadInput, MissingEvidence
from milan.probes import Probe
from milan.probes.labels import DioramaLabels, of_diorama
from milan.storage import cache_root
from milan.units import Candidate, Description, Unit

HOME = "data/diorama/annotations"
Source = Literal["found", "simulated"]


class Annotators(Describer):
    """Repeats what one of a unit's annotators said. ``score`` is how far that one agrees with the others: mean sentence BLEU, 0..1.

    Diorama's annotators are simulated; those of MILANNOTATIONS (Hernandez et al. 2022, section 3.3) are people, three for each unit. A unit
    that nobody annotated is a failure, told as such.

    Args:
        source: ``found`` takes the annotations in the dissection's own folder, else those that come with the package if they are of the
            same network of Diorama, layer and probe, else simulates annotators where Diorama drew the probe; ``simulated`` does only the
            last; or the path of an ``annotations.csv`` or of a folder that holds some.
        who: ``first`` of the unit's annotators, the most ``agreed`` with by the others (ties: the earlier), or one by number, from 0; where
            a unit has fewer, the last.
        seed: of the simulated annotators.
    """

    name: ClassVar[str] = "annotators"
    version: ClassVar[int] = 1

    def __init__(self, source: str = "found", who: Literal["first", "agreed"] | int = "first", seed: int = 0):
        self.source, self.who, self.seed = source, who, seed

    @property
    def key(self) -> str:
        """Content key of the settings and of all texts that may be repeated."""
        files = sorted(path for place in self._places() for path in _tables(place))
        texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return self.key_of(texts=texts, who=str(self.who), seed=self.seed, simulated=self._simulates)

    @property
    def _simulates(self) -> str:
        return self.source if self.source in ("found", "simulated") else ""

    def sources(self, dissection: Dissection) -> dict[str, str]:
        """Where the annotations of the layer are from: its own folder, a folder that was given, or Diorama."""
        if self.source == "found" and _own(dissection):
            return {"annotations": str(dissection.folder)}
        return {"annotations": "diorama" if self._simulates else self.source}

    def _places(self) -> list[Path]:
        """Where texts are read from, whatever is dissected."""
        if self._simulates:
            return [embedded(HOME)] if self.source == "found" else []
        if not Path(self.source).exists():
            raise BadInput(f"no annotations at {self.source}; give a folder, an annotations.csv, found or simulated")
        return [Path(self.source)]

    def describe(self, dissection: Dissection, units: Sequence[Unit]) -> Iterator[Description | Failure]:
        alive = living(dissection, units)
        if not alive:
            return
        said = self._said(dissection)
        for unit in alive:
            texts = said[unit] if said is not None and unit in said else simulated(dissection, unit, self.seed) if said is None else []
            yield self._chosen(unit, texts) if texts else Failure(unit, f"nobody annotated {unit}")

    def _said(self, dissection: Dissection) -> Mapping[Unit, Sequence[str]] | None:
        """What was said of the layer's units; None if annotators are to be simulated."""
        if self.source == "found":
            return _own(dissection) or _embedded(dissection)
        return None if self.source == "simulated" else _read(self._places()[0])

    def _chosen(self, unit: Unit, texts: Sequence[str]) -> Description:
        agreed = [agreement(text, [*texts[:at], *texts[at + 1 :]]) for at, text in enumerate(texts)]
        order = sorted(range(len(texts)), key=lambda at: -agreed[at])
        at = order[0] if self.who == "agreed" else min(0 if self.who == "first" else int(self.who), len(texts) - 1)
        candidates = tuple(Candidate(texts[each], agreed[each]) for each in order)
        return Description(unit, texts[at], agreed[at], candidates=candidates)


def agreement(text: str, others: Sequence[str]) -> float:
    """The mean sentence BLEU of a text against each of the others, 0..1; 0 where there are no others.

    The order of the n-grams goes only as far as the shorter text has words, else two words said alike would count for nothing.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=True, effective_order=True)
    scores = [metric.sentence_score(text, [other]).score / 100 for other in others]
    return sum(scores) / len(scores) if scores else 0.0


def simulated(dissection: Dissection, unit: Unit, seed: int = 0) -> list[str]:
    """What Diorama's three simulated annotators say of a unit's exemplars; they know what every pixel inside the masks shows, but for
    pictures that a generator made, of which they see what the embedded segmenter sees.

    Raises:
        MissingEvidence: the probe does not show Diorama's world, so nobody knows what its pixels show.
    """
    if not of_diorama(dissection.probe):
        raise MissingEvidence(
            f"nobody annotated {dissection.layer}, and none can be simulated on the probe {dissection.probe!r}; give source=FOLDER, "
            "or dissect on diorama:objects"
        )
    census, at_large = _known(dissection)
    found = dissection.exemplars(unit)
    evidence = annotators.gather(census, found.ids.numpy(), found.masks[:, 0].numpy(), at_large)
    return annotators.annotate(evidence, f"{dissection.target.partition(':')[2]}/{unit}", seed)


def _known(dissection: Dissection) -> tuple:
    """The census of a probe, and how often concepts go together in it."""
    kind, _, world = dissection.probe.partition(":")
    probe = dissection.open_probe()
    return _drawn(world, dissection.image_size, len(probe)) if kind == "diorama" else _judged(probe)


@cache
def _drawn(world: str, size: int, length: int) -> tuple:
    census = Census.of(DioramaImages(world, size=size, length=length), cache_root() / "diorama")
    return census, annotators.together(census.area, census)


@lru_cache(maxsize=4)  # of a few probes, which are the same object for all layers of a dissection
def _judged(probe: Probe) -> tuple:
    census = DioramaLabels(probe).census
    return census, annotators.together(census.area, census)


def _own(dissection: Dissection) -> Mapping[Unit, Sequence[str]] | None:
    """The annotations that lie with a dissection, as they do in MILANNOTATIONS."""
    try:
        return annotations_of(dissection.folder) or None
    except BadInput:
        return None


def _embedded(dissection: Dissection) -> Mapping[Unit, Sequence[str]] | None:
    """Those of the package, of the same network, layer and probe."""
    kind, _, network = dissection.target.partition(":")
    place = embedded(HOME) / network / dissection.layer
    if kind != "diorama" or not network or not place.is_dir() or load_dissection(place).probe != dissection.probe:
        return None
    return _own(load_dissection(place))


def _read(place: Path) -> Mapping[Unit, Sequence[str]]:
    return {unit: texts for file in _tables(place) for unit, texts in annotations_of(file).items()}


def _tables(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.glob("**/annotations.csv"))
