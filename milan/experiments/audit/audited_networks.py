"""Networks described, the units among them that are said to detect faces, and the form in which people check these."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.diorama.text_reader import parse_description
from milan.errors import BadInput
from milan.experiments.core.described_network import DescribedNetwork, DescriptionConfig
from milan.experiments.core.form_answers import RaterAnswers
from milan.probes import load_probe
from milan.probes.pixel_labels import shows_diorama
from milan.results.page import write_contact_sheets
from milan.results.page.contact_sheets import ContactSheet
from milan.results.page.form_page import FormItem, FormSection, RatingForm, write_form
from milan.scores.truth_score import Truth
from milan.storage.files import content_key
from milan.storage.provenance import joined, united
from milan.targets.loading import load_target
from milan.targets.preprocessing import TargetOptions
from milan.units import Unit

WORDS = ("face", "faces", "head", "heads", "nose", "noses", "eye", "eyes", "mouth", "mouths")
TRUE_CONCEPT = "person's face"  # what Diorama's networks are audited for
OPTIONS = ("yes, human faces", "yes, but other faces or other things too", "no", "cannot tell")
INSTRUCTIONS = (
    (
        "Each item shows the images that activate one unit of a network most. Outside the region that activates it they"
        " are dimmed."
    ),
    "Does this unit answer to human faces? Look at what is inside the highlighted regions, not at the rest.",
)


@dataclass(frozen=True)
class NetworkPair:
    """One architecture, trained on images as they are and on blurred ones: specs and files of weights."""

    plain: tuple[str, str | None]
    blurred: tuple[str, str | None]

    @classmethod
    def pair_up(
        cls,
        plain: Sequence[str],
        blurred: Sequence[str],
        plain_weights: Sequence[str] | None,
        blurred_weights: Sequence[str] | None,
    ) -> "list[NetworkPair]":
        if len(plain) != len(blurred):
            raise BadInput(
                f"{len(plain)} plain networks beside {len(blurred)} blurred ones; give each network and its pair"
            )
        for networks, weights in ((plain, plain_weights), (blurred, blurred_weights)):
            if weights and len(weights) != len(networks):
                raise BadInput(
                    f"{len(weights)} files of weights for {len(networks)} networks; give one for each, or none"
                )
        files = [list(weights) if weights else [None] * len(plain) for weights in (plain_weights, blurred_weights)]
        return [cls((a, b), (c, d)) for a, b, c, d in zip(plain, files[0], blurred, files[1], strict=True)]


@dataclass(frozen=True)
class FaceCriteria:
    """What is looked for.

    Attributes:
        words: by which descriptions tell of it, as whole words.
        min_overlap: intersection over union of a unit's masks and people's faces from which it detects them.
    """

    words: tuple[str, ...] = WORDS
    min_overlap: float = 0.04


@dataclass(frozen=True)
class AuditedNetwork:
    """One network, and what was found of it.

    Attributes:
        name: by which it is shown.
        pair: the number of its architecture.
        blurred: whether it was trained on blurred images.
    """

    name: str
    pair: int
    blurred: bool
    described: DescribedNetwork
    criteria: FaceCriteria

    @cached_property
    def named_units(self) -> list[Unit]:
        """The units of which one of the words was said."""
        return self.described.find_units_mentioning(self.criteria.words)

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What is true of the units of each layer; empty where nobody knows."""
        dissections = self.described.dissections
        known = shows_diorama(next(iter(dissections.values())).probe)
        return {layer: Truth.measure(one, self.described.target) for layer, one in dissections.items()} if known else {}

    def compute_overlap(self, unit: Unit) -> float:
        """How far a unit's masks and people's faces are the same, as intersection over union."""
        return self.truths[unit.layer].overlap(unit, TRUE_CONCEPT)

    def is_detector(self, unit: Unit) -> bool:
        return self.compute_overlap(unit) >= self.criteria.min_overlap

    @cached_property
    def true_units(self) -> list[Unit]:
        """The units that detect people's faces."""
        return [unit for unit in self.described.active_units if self.truths and self.is_detector(unit)]

    @property
    def area(self) -> float:
        """The share of the probe's pixels that show people's faces."""
        signatures = next(iter(self.truths.values())).signatures
        return float(
            signatures.area[signatures.text_mask(parse_description(TRUE_CONCEPT))].sum() / signatures.area.sum()
        )

    def format_item_id(self, unit: Unit) -> str:
        """The unit's name in the form: of the network only its number, so that who checks does not know which was
        blurred.
        """
        return content_key(network=self.name, pair=self.pair, blurred=self.blurred, unit=str(unit))[:10]


def audit_networks(
    pairs: Sequence[NetworkPair],
    options: TargetOptions,
    probe: tuple[str, int | None],
    config: DescriptionConfig,
    criteria: FaceCriteria,
    out: Path,
) -> list[AuditedNetwork]:
    """Dissects and describes every network on the same images; what an earlier run has finished is not done again.

    Args:
        options: of every network.
        probe: and how many of its images.
    """
    probe_name, limit = probe
    found = []
    for number, pair in enumerate(pairs):
        for blurred, (spec, weights) in ((False, pair.plain), (True, pair.blurred)):
            target = load_target(spec, weights=weights, device=config.device, **options.given)
            images = load_probe(probe_name, target=target, limit=limit)
            name = f"{spec}{f' ({Path(weights).stem})' if weights else ''}"
            folder = (
                out
                / "networks"
                / f"{number + 1}-{'blurred' if blurred else 'plain'}-{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}"
            )
            found.append(
                AuditedNetwork(
                    name,
                    number,
                    blurred,
                    DescribedNetwork.dissect_and_describe(target, images, config, folder),
                    criteria,
                )
            )
    return found


def sources_of(found: Sequence[AuditedNetwork]) -> dict[str, str]:
    """What the descriptions of all networks were made from, by role."""
    return joined({one.name: one.described.sources for one in found})


def write_check_form(networks: Sequence[AuditedNetwork], page: Path) -> RatingForm:
    """The form in which people say which units answer to faces: those named by words, of all networks, in an order
    drawn by lot.

    It is written as ``check.html`` beside the report's page and shows no descriptions, and not which network a unit is
    of.
    """
    items = [FormItem(one.format_item_id(unit), sheet, OPTIONS) for one, unit, sheet in _write_pictures(networks, page)]
    items.sort(key=lambda item: item.id)  # content keys: an order that says nothing
    part = FormSection(
        "choice",
        "Which of these units answer to human faces?",
        INSTRUCTIONS,
        "Does this unit answer to human faces?",
        items,
    )
    key = content_key(items=[item.id for item in items], words=list(networks[0].criteria.words) if networks else [])
    form = RatingForm(
        key,
        "Faces in a network",
        f"{len(items)} units whose descriptions speak of faces. A description may be wrong: please look.",
        [part],
        f"marks-{key[:6]}.json",
    )
    write_form(form, page / "check.html", united(one.described.sources for one in networks))
    return form


def make_unit_views(
    networks: Sequence[AuditedNetwork], answers: Sequence[RaterAnswers], page: Path
) -> list[dict[str, Any]]:
    """What the report's page shows of each unit: what was said, what is true, and what people marked."""
    return [_make_unit_view(one, unit, sheet, answers) for one, unit, sheet in _write_pictures(networks, page)]


def collect_marks(network: AuditedNetwork, unit: Unit, answers: Sequence[RaterAnswers]) -> list[int]:
    """Which option each person chose for the unit, of those who answered."""
    return [
        int(each.answers[network.format_item_id(unit)]["choice"])
        for each in answers
        if network.format_item_id(unit) in each.answers
    ]


def is_marked_face(marks: Sequence[int]) -> bool | None:
    """Whether most of those who could tell took the unit for faces, alone or among other things; None where nobody
    could, or as many each.

    >>> is_marked_face([0, 1, 2]), is_marked_face([0, 2]), is_marked_face([3])
    (True, None, None)
    """
    yes, no = sum(mark in (0, 1) for mark in marks), sum(mark == 2 for mark in marks)
    return None if yes == no else yes > no


def _write_pictures(
    networks: Sequence[AuditedNetwork], page: Path
) -> list[tuple[AuditedNetwork, Unit, ContactSheet | None]]:
    """Every unit named, with its pictures beside the page: each network's in a folder of its own."""
    rows: list[tuple[AuditedNetwork, Unit, ContactSheet | None]] = []
    for number, one in enumerate(networks, 1):
        sheets: Mapping[Unit, ContactSheet] = write_contact_sheets(
            one.described.dissections, one.named_units, page / f"network-{number}"
        )
        for unit in one.named_units:
            sheet = sheets.get(unit)
            rows.append((one, unit, replace(sheet, file=f"network-{number}/{sheet.file}") if sheet else None))
    return rows


def _make_unit_view(
    one: AuditedNetwork, unit: Unit, sheet: ContactSheet | None, answers: Sequence[RaterAnswers]
) -> dict[str, Any]:
    truth = ""
    if one.truths:
        truth = (
            f"{'Detects' if one.is_detector(unit) else 'Does not detect'} people's faces (IoU"
            f" {one.compute_overlap(unit):.2f})"
        )
    who = one.described.evaluated.name
    said = [{"name": who, "role": "", "text": one.described.texts[unit], "mark": "", "reason": "", "score": ""}]
    said += [
        {
            "name": each.rater,
            "role": "",
            "text": OPTIONS[int(each.answers[one.format_item_id(unit)]["choice"])],
            "mark": "",
            "reason": "",
            "score": "",
        }
        for each in answers
        if one.format_item_id(unit) in each.answers
    ]
    kind = "blurred" if one.blurred else "plain"
    return {"id": f"{one.name} {unit}", "group": f"{one.name} ({kind})", "truth": truth, "said": said, "sheet": sheet}
