"""The forms of a study: which units are asked, what each rater sees of them, and the key that says who
described what.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from milan.console.exemplar_rendering import encode_webp, fitting, highlight_masks, make_image_grid
from milan.dissection.store import Dissection
from milan.errors import BadInput
from milan.experiments.core.described_runs import DescribedRun
from milan.results.page.contact_sheets import PICTURE_SIZE, ContactSheet
from milan.results.page.form_page import FormItem, FormSection, RatingForm, write_form
from milan.scores.text_similarity import normalize_text
from milan.scores.truth_score import Truth
from milan.storage.files import atomic_write, content_key
from milan.storage.provenance import Sources
from milan.storage.tables import read_csv
from milan.units import Unit

StudyKind = Literal["rating", "annotation"]
PICTURES_PER_ROW = 5  # pictures in a row
WRONG_ANSWERS = 2  # wrong answers beside the right one, where they are made from the truth
HIGHLIGHT_TEXT = (
    "Outside the region that is meant, each image is dimmed, and the region has a yellow outline. Where nothing is"
    " dimmed, the whole image is meant."
)
WHOLE_TEXT = "The images are shown whole: nothing in them is highlighted."
RATING_INSTRUCTIONS = (
    (
        "Each item shows some images and several descriptions of what they have in common. Say of each description how"
        " far you agree that it describes most of what is meant in the images, and then which describes it best."
    ),
    "What you call best must be among those that you rated highest; other answers cannot be used.",
)
ANNOTATION_INSTRUCTIONS = (
    (
        "Each item shows some images. In one sentence, sum up everything that is shown inside the highlighted regions:"
        " it may be one thing in all of them, or several."
    ),
    "Do not write that you are describing highlighted regions, or images.",
)
QUALIFICATION_INSTRUCTIONS = ("First a short test. Choose the description that fits the highlighted regions best.",)
RATING_QUESTION = "Does the description describe most of the images well?"
BEST_QUESTION = "Which description is the best? Where some are equally good, choose all of these."
SINGLE_BEST_QUESTION = "Which one description is the best?"


@dataclass(frozen=True)
class StudyConfig:
    """How a study asks.

    Attributes:
        kind: rating (1 to 5 and the best, as Describe-and-Dissect and SAND) or annotation (a sentence, as
            MILANNOTATIONS).
        units: how many are drawn, as many of each layer as of any other.
        batch: units in a form.
        exemplars: images of each.
        highlighted: what is outside the masks is dimmed, as in MILAN's and SAND's forms; Describe-and-Dissect showed
            images whole.
        several: more than one description may be called best where they tie, as in SAND's form.
        qualification: FILE.csv of unit, right and wrong descriptions for a test, or truth (on Diorama), or empty.
        seed: of all lots.
    """

    kind: StudyKind = "rating"
    units: int = 20
    batch: int = 10
    exemplars: int = 15
    highlighted: bool = True
    several: bool = True
    qualification: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("rating", "annotation"):
            raise BadInput(f"a form of kind {self.kind!r}; give rating or annotation")
        for name in ("units", "batch", "exemplars"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True)
class StudyKey:
    """Who described what.

    Attributes:
        units: of each item.
        options: of each item and each description shown, the runs that gave it; raters are not told.
        right: of each item of the qualification test, the number of the right answer.
    """

    units: Mapping[str, Unit]
    options: Mapping[str, Sequence[Sequence[str]]]
    right: Mapping[str, int]


@dataclass(frozen=True)
class StudyForms:
    """All forms of a study with their key."""

    forms: Sequence[RatingForm]
    key: StudyKey
    config: StudyConfig


def make_study(
    runs: Sequence[DescribedRun], dissections: Mapping[str, Dissection], units: Sequence[Unit], config: StudyConfig
) -> StudyForms:
    """The forms for some units: the same runs and settings give the same forms, to the last lot.

    Raises:
        BadInput: there are no pictures of a unit.
    """
    qualifying = _make_qualification(dissections, units, config)
    key = StudyKey(
        {_make_id(unit, config): unit for unit in (*units, *(unit for unit, _, _ in qualifying))},
        {
            _make_id(unit, config): options
            for unit in units
            for options in [[who for _, who in _collect_options(runs, unit, config)]]
        },
        {_make_id(unit, config): right for unit, _, right in qualifying},
    )
    test = [
        FormItem(_make_id(unit, config), _make_sheet(dissections, unit, config), options)
        for unit, options, _ in qualifying
    ]
    items = [
        FormItem(
            _make_id(unit, config),
            _make_sheet(dissections, unit, config),
            [text for text, _ in _collect_options(runs, unit, config)],
        )
        for unit in units
    ]
    forms = [
        _make_form(number, items[start : start + config.batch], test, config)
        for number, start in enumerate(range(0, len(items), config.batch), 1)
    ]
    return StudyForms(forms, key, config)


def sample_units(
    dissections: Mapping[str, Dissection], runs: Sequence[DescribedRun], config: StudyConfig
) -> list[Unit]:
    """Units that every run described, drawn by lot, as many of each layer as of any other, in an order drawn by lot.

    Raises:
        BadInput: the runs have no unit in common of which there are pictures.
    """
    common = {
        layer: [unit for unit in one.active_units() if all(unit in run.descriptions for run in runs)]
        for layer, one in dissections.items()
    }
    common = {layer: units for layer, units in common.items() if units}
    if not common:
        raise BadInput(
            f"{', '.join(run.name for run in runs)} have no unit in common of which there are pictures (a dissection"
            " beside one)"
        )
    rng = np.random.default_rng(config.seed)
    shuffled = [[units[row] for row in rng.permutation(len(units)).tolist()] for units in common.values()]
    found: list[Unit] = []
    while len(found) < config.units and any(shuffled):
        for units in (units for units in shuffled if units):
            found.append(units.pop())
    found = found[: config.units]
    return [found[row] for row in rng.permutation(len(found)).tolist()]


def write_study_forms(study: StudyForms, folder: Path, sources: Sources) -> list[Path]:
    """Writes ``form-1.html`` and so on, and ``key.json``, which raters must not see."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_form(form, folder / f"form-{number}.html", sources) for number, form in enumerate(study.forms, 1)]
    facts_by_item = {
        "forms": [form.id for form in study.forms],
        "items": {id: {"unit": str(unit), "options": study.key.options.get(id, []), "right": study.key.right.get(id)}
                  for id, unit in study.key.units.items()},
    }  # fmt: skip
    with atomic_write(folder / "key.json") as partial:
        partial.write_text(json.dumps(facts_by_item, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _make_form(number: int, items: Sequence[FormItem], test: Sequence[FormItem], config: StudyConfig) -> RatingForm:
    shown = HIGHLIGHT_TEXT if config.highlighted else WHOLE_TEXT
    parts = (
        [FormSection("choice", "A test", (*QUALIFICATION_INSTRUCTIONS, shown), "Which description fits best?", test)]
        if test
        else []
    )
    if config.kind == "rating":
        best = BEST_QUESTION if config.several else SINGLE_BEST_QUESTION
        parts.append(
            FormSection(
                "rating",
                "How well are these units described?",
                (*RATING_INSTRUCTIONS, shown),
                RATING_QUESTION,
                items,
                best,
                config.several,
            )
        )
    else:
        parts.append(
            FormSection(
                "text", "What do these regions show?", (*ANNOTATION_INSTRUCTIONS, shown), "In one sentence:", items
            )
        )
    id = content_key(
        parts=[[part.kind, [[item.id, list(item.options)] for item in part.items]] for part in parts], asked=str(config)
    )
    title = "Descriptions of units" if config.kind == "rating" else "Describe units"
    lede = (
        f"{len(items)} items. What you answer is kept in this browser until you save it as a file, which you then"
        " hand in."
    )
    return RatingForm(id, title, lede, parts, f"answers-{number}-{id[:6]}.json", across=PICTURES_PER_ROW)


def _collect_options(runs: Sequence[DescribedRun], unit: Unit, config: StudyConfig) -> list[tuple[str, list[str]]]:
    """What is shown of a unit and who said it: each text once, in an order drawn by lot.

    Descriptions that are the same but for capitals and full stops are shown once, and their rating is that of all who
    gave them: so they cannot get different ones.
    """
    texts: dict[str, tuple[str, list[str]]] = {}
    for run in runs:
        if unit in run.descriptions:
            text = run.texts[unit]
            texts.setdefault(normalize_text(text), (text, []))[1].append(run.name)
    found = list(texts.values())
    rng = np.random.default_rng([config.seed, *str(unit).encode()])
    return [found[row] for row in rng.permutation(len(found)).tolist()]


def _make_id(unit: Unit, config: StudyConfig) -> str:
    """A name for the unit that says nothing of its layer."""
    return content_key(unit=str(unit), seed=config.seed)[:8]


def _make_sheet(dissections: Mapping[str, Dissection], unit: Unit, config: StudyConfig) -> ContactSheet:
    """The unit's exemplars as one picture within the page."""
    if unit.layer not in dissections or unit not in dissections[unit.layer].units:
        raise BadInput(
            f"there are no pictures of {unit}; one of the runs must be a folder that describe.py wrote, of that unit"
        )
    exemplars = dissections[unit.layer].exemplars(unit)
    images, masks = exemplars.images[: config.exemplars], exemplars.masks[: config.exemplars]
    shown = highlight_masks(
        images, masks if config.highlighted else masks | True, fitting(PICTURE_SIZE, len(images), PICTURES_PER_ROW)
    )
    data = base64.b64encode(encode_webp(make_image_grid(shown, PICTURES_PER_ROW))).decode()
    return ContactSheet(f"data:image/webp;base64,{data}", shown.shape[2], shown.shape[1], [], [])


def _make_qualification(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], config: StudyConfig
) -> list[tuple[Unit, list[str], int]]:
    """Of each unit of the test the descriptions, shuffled, and the number of the right one."""
    if not config.qualification:
        return []
    given = (
        _make_from_truth(dissections, units)
        if config.qualification == "truth"
        else _read_qualification(Path(config.qualification))
    )
    if both := [str(unit) for unit, _, _ in given if unit in units]:
        raise BadInput(f"{both[0]} is in the test and among the units asked; take another for the test")
    found = []
    for unit, right, wrong in given:
        options = [right, *wrong]
        order = np.random.default_rng([config.seed, *str(unit).encode()]).permutation(len(options)).tolist()
        found.append((unit, [options[row] for row in order], order.index(0)))
    return found


def _read_qualification(file: Path) -> list[tuple[Unit, str, list[str]]]:
    rows = read_csv(file) if file.is_file() else None
    if not rows or not {"id", "right"} <= rows[0].keys() or not any(name.startswith("wrong") for name in rows[0]):
        raise BadInput(
            f"{file} is no test: give a csv of id (as layer4:17), right, wrong, wrong2 and so on, or truth (on Diorama)"
        )
    wrong = [name for name in rows[0] if name.startswith("wrong")]
    return [(Unit.parse(row["id"]), row["right"], [row[name] for name in wrong if row[name]]) for row in rows]


def _make_from_truth(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], count: int = 2
) -> list[tuple[Unit, str, list[str]]]:
    """The units of Diorama whose truth can be said best in one word, and of others as sure what is not true of
    these.
    """
    ranked = []
    for one in dissections.values():
        truth = Truth.measure(one)
        ranked += [(truth.find_best(unit, 1), unit, truth) for unit in one.active_units() if unit not in units]
    ranked.sort(key=lambda each: -each[0].overlap)
    texts = list(dict.fromkeys(best.text for best, _, _ in ranked))
    found: list[tuple[Unit, str, list[str]]] = []
    for best, unit, truth in ranked:
        wrong = [text for text in texts if truth.overlap(unit, text) == 0][:WRONG_ANSWERS]
        if len(wrong) == WRONG_ANSWERS and best.text not in {right for _, right, _ in found}:
            found.append((unit, best.text, wrong))
        if len(found) == count:
            break
    return found
