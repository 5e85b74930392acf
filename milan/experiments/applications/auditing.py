"""Networks described, the units among them that are said to detect faces, and the form in which people check these."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.diorama.concepts import read
from milan.errors import BadInput
from milan.experiments.describing.described import Described, Look
from milan.experiments.studies.marks import Answers
from milan.page import write_sheets
from milan.page.form import Form, Item, Part, write_form
from milan.page.sheets import Sheet
from milan.probes import load_probe
from milan.probes.labels import of_diorama
from milan.provenance import joined, united
from milan.scores.truth import Truth
from milan.storage import content_key
from milan.targets import load_target
from milan.units import Unit

WORDS = ("face", "faces", "head", "heads", "nose", "noses", "eye", "eyes", "mouth", "mouths")
TRUE = "person's face"  # what Diorama's networks are audited for
OPTIONS = ("yes, human faces", "yes, but other faces or other things too", "no", "cannot tell")
INSTRUCTIONS = (
    "Each item shows the images that activate one unit of a network most. Outside the region that activates it they are dimmed.",
    "Does this unit answer to human faces? Look at what is inside the highlighted regions, not at the rest.",
)


@dataclass(frozen=True)
class Pair:
    """One architecture, trained on images as they are and on blurred ones: specs and files of weights."""

    plain: tuple[str, str | None]
    blurred: tuple[str, str | None]

    @classmethod
    def of(
        cls, plain: Sequence[str], blurred: Sequence[str], plain_weights: Sequence[str] | None, blurred_weights: Sequence[str] | None
    ) -> "list[Pair]":
        if len(plain) != len(blurred):
            raise BadInput(f"{len(plain)} plain networks beside {len(blurred)} blurred ones; give each network and its pair")
        for networks, weights in ((plain, plain_weights), (blurred, blurred_weights)):
            if weights and len(weights) != len(networks):
                raise BadInput(f"{len(weights)} files of weights for {len(networks)} networks; give one for each, or none")
        files = [list(weights) if weights else [None] * len(plain) for weights in (plain_weights, blurred_weights)]
        return [cls((a, b), (c, d)) for a, b, c, d in zip(plain, files[0], blurred, files[1], strict=True)]


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Attributes:
        words: by which descriptions tell of it, as whole words.
        cut: intersection over union of a unit's masks and people's faces from which it detects them.
    """

    words: tuple[str, ...] = WORDS
    cut: float = 0.04


@dataclass(frozen=True)
class Audited:
    """One network, and what was found of it.

    Attributes:
        name: by which it is shown.
        pair: the number of its architecture.
        blurred: whether it was trained on blurred images.
    """

    name: str
    pair: int
    blurred: bool
    described: Described
    search: Search

    @cached_property
    def named(self) -> list[Unit]:
        """The units of which one of the words was said."""
        return self.described.mentioning(self.search.words)

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What is true of the units of each layer; empty where nobody knows."""
        dissections = self.described.dissections
        known = of_diorama(next(iter(dissections.values())).probe)
        return {layer: Truth.of(one, self.described.target) for layer, one in dissections.items()} if known else {}

    def overlap(self, unit: Unit) -> float:
        """How far a unit's masks and people's faces are the same, as intersection over union."""
        return self.truths[unit.layer].overlap(unit, TRUE)

    def detects(self, unit: Unit) -> bool:
        return self.overlap(unit) >= self.search.cut

    @cached_property
    def true(self) -> list[Unit]:
        """The units that detect people's faces."""
        return [unit for unit in self.described.alive if self.truths and self.detects(unit)]

    @property
    def area(self) -> float:
        """The share of the probe's pixels that show people's faces."""
        census = next(iter(self.truths.values())).census
        return float(census.area[census.meant(read(TRUE))].sum() / census.area.sum())

    def item(self, unit: Unit) -> str:
        """The unit's name in the form: of the network only its number, so that who checks does not know which was blurred."""
        return content_key(network=self.name, pair=self.pair, blurred=self.blurred, unit=str(unit))[:10]


def audited(pairs: Sequence[Pair], probe: str, limit: int | None, look: Look, search: Search, out: Path) -> list[Audited]:
    """Dissects and describes every network on the same images; what an earlier run has finished is not done again."""
    found = []
    for number, pair in enumerate(pairs):
        for blurred, (spec, weights) in ((False, pair.plain), (True, pair.blurred)):
            target = load_target(spec, weights=weights, device=look.device)
            images = load_probe(probe, size=target.image_size, resize=target.resize, limit=limit)
            name = f"{spec}{f' ({Path(weights).stem})' if weights else ''}"
            folder = out / "networks" / f"{number + 1}-{'blurred' if blurred else 'plain'}-{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}"
            found.append(Audited(name, number, blurred, Described.of(target, images, look, folder), search))
    return found


def sources_of(found: Sequence[Audited]) -> dict[str, str]:
    """What the descriptions of all networks were made from, by role."""
    return joined({one.name: one.described.sources for one in found})


def write_check(found: Sequence[Audited], page: Path) -> Form:
    """The form in which people say which units answer to faces: those named by words, of all networks, in an order drawn by lot.

    It is written as ``check.html`` beside the report's page and shows no descriptions, and not which network a unit is of.
    """
    items = [Item(one.item(unit), sheet, OPTIONS) for one, unit, sheet in _pictured(found, page)]
    items.sort(key=lambda item: item.id)  # content keys: an order that says nothing
    part = Part("choice", "Which of these units answer to human faces?", INSTRUCTIONS, "Does this unit answer to human faces?", items)
    key = content_key(items=[item.id for item in items], words=list(found[0].search.words) if found else [])
    form = Form(
        key,
        "Faces in a network",
        f"{len(items)} units whose descriptions speak of faces. A description may be wrong: please look.",
        [part],
        f"marks-{key[:6]}.json",
    )
    write_form(form, page / "check.html", united(one.described.sources for one in found))
    return form


def cases(found: Sequence[Audited], answers: Sequence[Answers], page: Path) -> list[dict[str, Any]]:
    """What the report's page shows of each unit: what was said, what is true, and what people marked."""
    return [_case(one, unit, sheet, answers) for one, unit, sheet in _pictured(found, page)]


def marked(one: Audited, unit: Unit, answers: Sequence[Answers]) -> list[int]:
    """Which option each person chose for the unit, of those who answered."""
    return [int(each.given[one.item(unit)]["choice"]) for each in answers if one.item(unit) in each.given]


def is_face(marks: Sequence[int]) -> bool | None:
    """Whether most of those who could tell took the unit for faces, alone or among other things; None where nobody could, or as many each.

    >>> is_face([0, 1, 2]), is_face([0, 2]), is_face([3])
    (True, None, None)
    """
    yes, no = sum(mark in (0, 1) for mark in marks), sum(mark == 2 for mark in marks)
    return None if yes == no else yes > no


def _pictured(found: Sequence[Audited], page: Path) -> list[tuple[Audited, Unit, Sheet | None]]:
    """Every unit named, with its pictures beside the page: each network's in a folder of its own."""
    rows: list[tuple[Audited, Unit, Sheet | None]] = []
    for number, one in enumerate(found, 1):
        sheets: Mapping[Unit, Sheet] = write_sheets(one.described.dissections, one.named, page / f"network-{number}")
        for unit in one.named:
            sheet = sheets.get(unit)
            rows.append((one, unit, replace(sheet, file=f"network-{number}/{sheet.file}") if sheet else None))
    return rows


def _case(one: Audited, unit: Unit, sheet: Sheet | None, answers: Sequence[Answers]) -> dict[str, Any]:
    truth = ""
    if one.truths:
        truth = f"{'Detects' if one.detects(unit) else 'Does not detect'} people's faces (IoU {one.overlap(unit):.2f})"
    who = one.described.entrant.name
    said = [{"name": who, "role": "", "text": one.described.texts[unit], "mark": "", "reason": "", "score": ""}]
    said += [
        {"name": each.rater, "role": "", "text": OPTIONS[int(each.given[one.item(unit)]["choice"])], "mark": "", "reason": "", "score": ""}
        for each in answers
        if one.item(unit) in each.given
    ]
    kind = "blurred" if one.blurred else "plain"
    return {"id": f"{one.name} {unit}", "group": f"{one.name} ({kind})", "truth": truth, "said": said, "sheet": sheet}
