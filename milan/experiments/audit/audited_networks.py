"""The audited networks, their units that seem to detect faces, and the form in which people check these."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.diorama.text_reader import parse_description
from milan.errors import BadInput
from milan.experiments.audit.config import AuditConfig
from milan.experiments.core.form_answers import RaterAnswers
from milan.experiments.core.study import Study
from milan.experiments.core.unit_views import make_text_view, make_unit_view
from milan.pretrained.embedder_interface import Embedder
from milan.probes import load_probe
from milan.probes.pixel_labels import shows_diorama
from milan.results.page import write_exemplar_views
from milan.results.page.exemplar_views import ExemplarView
from milan.results.page.form_page import FormItem, FormSection, RatingForm, write_form
from milan.results.search import SearchedRun, choose_embedder, find_by_text
from milan.scores.truth_score import Truth
from milan.storage.files import content_key
from milan.storage.provenance import joined, united
from milan.targets.loading import load_target
from milan.units import Unit

WORDS = ("face", "faces", "head", "heads", "nose", "noses", "eye", "eyes", "mouth", "mouths")
# The concept for which Diorama's networks are audited.
TRUE_CONCEPT = "person's face"
OPTIONS = ("yes, human faces", "yes, but other faces or other things too", "no", "cannot tell")
QUESTION = "Does this unit detect human faces?"
INSTRUCTIONS = (
    "Each item shows the images that activate one unit of a network most. They are dimmed outside the region that"
    " activates it.",
    f"{QUESTION} Look at what is inside the highlighted regions, not at the rest.",
)


@dataclass(frozen=True)
class NetworkPair:
    """One architecture, trained on unchanged and on blurred images: specs and files of weights."""

    plain: tuple[str, str | None]
    blurred: tuple[str, str | None]

    @classmethod
    def pair_up(cls, config: AuditConfig) -> "list[NetworkPair]":
        """Return the networks in pairs.

        Raises:
            BadInput: networks, their pairs and their weights are not as many.
        """
        sides = []
        for networks, weights in (
            (config.plain or ["diorama:resnet-objects"], config.plain_weights),
            (config.blurred or ["diorama:resnet-blurred"], config.blurred_weights),
        ):
            if weights and len(weights) != len(networks):
                raise BadInput(
                    f"{len(weights)} files of weights for {len(networks)} networks; give one for each, or none"
                )
            files: list[str | None] = list(weights) if weights else [None for _ in networks]
            sides.append(list(zip(networks, files, strict=True)))
        if len(sides[0]) != len(sides[1]):
            raise BadInput(
                f"{len(sides[0])} plain networks and {len(sides[1])} blurred ones; give each network and its pair"
            )
        return [cls(*pair) for pair in zip(*sides, strict=True)]


@dataclass(frozen=True)
class AuditedNetwork:
    """One described network.

    Attributes:
        name: the name that reports show.
        pair: the number of its architecture.
        blurred: whether it was trained on blurred images.
        words: a unit is counted if its description has one of these words.
        min_iou: the intersection over union with people's faces from which on a unit detects them.
        query: what units are searched for by meaning.
        found_count: the number of units that this search finds.
        embedder: the image-text model of the search; without it only descriptions are searched.
        embedder_spec: its name.
    """

    name: str
    pair: int
    blurred: bool
    study: Study
    words: tuple[str, ...] = WORDS
    min_iou: float = 0.04
    query: str = "faces"
    found_count: int = 20
    embedder: Embedder | None = None
    embedder_spec: str = ""

    @property
    def kind(self) -> str:
        """What it was trained on: "plain" or "blurred" images."""
        return "blurred" if self.blurred else "plain"

    @cached_property
    def named_units(self) -> list[Unit]:
        """The units whose description has one of the words."""
        return self.study.find_units_mentioning(self.words)

    @cached_property
    def found_units(self) -> list[Unit]:
        """The units that answer the query best by the meaning of their descriptions and exemplars, best first."""
        run = _make_searched_run(self.study)
        found = find_by_text(self.query, [run], embedder=self.embedder, count=len(run.units))
        active = set(self.study.active_units)
        return [each.unit for each in found if each.unit in active][: self.found_count]

    @property
    def listed_units(self) -> list[Unit]:
        """The named units, then those that are found without being named."""
        return list(dict.fromkeys([*self.named_units, *self.found_units]))

    @property
    def sources(self) -> dict[str, str]:
        """What the descriptions were made from, and what they were searched with, by role."""
        return self.study.sources_with() | ({"image-text model": self.embedder_spec} if self.embedder_spec else {})

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What is true of the units of each layer; empty where it is not known."""
        if not shows_diorama(self.study.probe.spec):
            return {}
        return Truth.measure_layers(self.study.dissections, self.study.target)

    def compute_iou(self, unit: Unit) -> float:
        """Return the intersection over union of a unit's masks and people's faces."""
        return self.truths[unit.layer].overlap(unit, TRUE_CONCEPT)

    def is_detector(self, unit: Unit) -> bool:
        """Return whether a unit detects people's faces."""
        return self.compute_iou(unit) >= self.min_iou

    @cached_property
    def true_units(self) -> list[Unit]:
        """The units that detect people's faces."""
        return [unit for unit in self.study.active_units if self.truths and self.is_detector(unit)]

    @property
    def area(self) -> float:
        """The share of the probe's pixels that show people's faces."""
        signatures = next(iter(self.truths.values())).signatures
        return float(
            signatures.area[signatures.text_mask(parse_description(TRUE_CONCEPT))].sum() / signatures.area.sum()
        )

    def format_item_id(self, unit: Unit) -> str:
        """Return the unit's name in the form, which does not show whether its network was blurred."""
        return content_key(network=self.name, pair=self.pair, blurred=self.blurred, unit=str(unit))[:10]


def audit_networks(config: AuditConfig, out: Path) -> list[AuditedNetwork]:
    """Dissect and describe every network on the same images, each plain one before its pair."""
    networks = []
    for number, pair in enumerate(NetworkPair.pair_up(config)):
        for blurred, (spec, weights) in ((False, pair.plain), (True, pair.blurred)):
            target = load_target(spec, weights=weights, device=config.device, **config.target_options.given)
            probe = load_probe(config.probe, target=target, limit=config.limit)
            name = f"{spec}{f' ({Path(weights).stem})' if weights else ''}"
            slug = re.sub(r"[^A-Za-z0-9.-]+", "-", name)
            folder = out / "networks" / f"{number + 1}-{'blurred' if blurred else 'plain'}-{slug}"
            study = Study(target, probe, folder, config, config.experiment, config.seed, config.device)
            study.describe(config.describer)
            words = tuple(config.words or WORDS)
            networks.append(
                AuditedNetwork(name, number, blurred, study, words, config.min_iou, config.query, config.found_units)
            )
    # One model for all networks, which are dissected on the same images.
    embedder = choose_embedder([_make_searched_run(one.study) for one in networks], config.embedder, config.device)
    spec = config.embedder or ("diorama" if embedder is not None else "")
    return [replace(one, embedder=embedder, embedder_spec=spec) for one in networks]


def _make_searched_run(study: Study) -> SearchedRun:
    return SearchedRun(study.target.name, study.texts, study.dissections)


def sources_of(networks: Sequence[AuditedNetwork]) -> dict[str, str]:
    """Return what the descriptions of all networks were made from, and searched with, by role."""
    return joined({one.name: one.sources for one in networks})


def write_check_form(networks: Sequence[AuditedNetwork], page: Path) -> RatingForm:
    """Write ``check.html`` beside the report's page: the form in which people mark the units that detect faces.

    It shows the named and the found units in random order, without descriptions and networks.
    """
    items = [FormItem(one.format_item_id(unit), view, OPTIONS) for one, unit, view in _write_views(networks, page)]
    # Ids are content keys, so this order is random.
    items.sort(key=lambda item: item.id)
    part = FormSection("choice", "Which of these units detect human faces?", INSTRUCTIONS, QUESTION, items)
    key = content_key(items=[item.id for item in items], words=list(networks[0].words) if networks else [])
    lede = f"{len(items)} units that may detect faces, by their descriptions or exemplars: please look."
    form = RatingForm(key, "Faces in a network", lede, [part], f"marks-{key[:6]}.json")
    write_form(form, page / "check.html", united(one.sources for one in networks))
    return form


def make_unit_views(
    networks: Sequence[AuditedNetwork], answers: Sequence[RaterAnswers], page: Path
) -> list[dict[str, Any]]:
    """Return what the page shows of each named or found unit: its description, what is true, and what people marked."""
    return [_make_unit_view(one, unit, pictures, answers) for one, unit, pictures in _write_views(networks, page)]


def collect_marks(network: AuditedNetwork, unit: Unit, answers: Sequence[RaterAnswers]) -> list[int]:
    """Return the option that each rater chose for the unit."""
    return [
        int(each.answers[network.format_item_id(unit)]["choice"])
        for each in answers
        if network.format_item_id(unit) in each.answers
    ]


def is_marked_face(marks: Sequence[int]) -> bool | None:
    """Return whether most raters who could tell chose faces, alone or among other things; None for a tie.

    >>> is_marked_face([0, 1, 2]), is_marked_face([0, 2]), is_marked_face([3])
    (True, None, None)
    """
    yes, no = sum(mark in (0, 1) for mark in marks), sum(mark == 2 for mark in marks)
    return None if yes == no else yes > no


def _write_views(
    networks: Sequence[AuditedNetwork], page: Path
) -> list[tuple[AuditedNetwork, Unit, ExemplarView | None]]:
    """Return every named or found unit with its pictures, whose images are in the network's folder beside the page."""
    rows: list[tuple[AuditedNetwork, Unit, ExemplarView | None]] = []
    for number, one in enumerate(networks, 1):
        folder = f"network-{number}"
        views = write_exemplar_views(one.study.dissections, one.listed_units, page / folder)
        for unit in one.listed_units:
            view = views.get(unit)
            rows.append((one, unit, view.moved_to(folder) if view else None))
    return rows


def _make_unit_view(
    one: AuditedNetwork, unit: Unit, pictures: ExemplarView | None, answers: Sequence[RaterAnswers]
) -> dict[str, Any]:
    truth = ""
    if one.truths:
        detects = "Detects" if one.is_detector(unit) else "Does not detect"
        truth = f"{detects} people's faces (IoU {one.compute_iou(unit):.2f})"
    id = one.format_item_id(unit)
    rows = [make_text_view(one.study.evaluated.name, one.study.texts.get(unit, ""))]
    rows += [
        make_text_view(each.rater, OPTIONS[int(each.answers[id]["choice"])]) for each in answers if id in each.answers
    ]
    view = make_unit_view(unit, f"{one.name} ({one.kind})", truth, rows)
    return view | {"id": f"{one.name} {unit}", "pictures": [pictures]}
