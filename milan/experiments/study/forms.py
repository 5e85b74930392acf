"""The forms of a study: the units, what each rater sees of them, and the key that says who described what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import UInt8

from milan.console.exemplar_rendering import fitting, highlight_masks, make_image_grid
from milan.dissection.dissection import Dissection
from milan.errors import BadInput
from milan.experiments.core.described_runs import DescribedRun
from milan.experiments.study.config import StudyConfig
from milan.results.page.exemplar_views import PICTURE_SIZE, WHOLE, ExemplarView, inline_images, write_exemplar_views
from milan.results.page.form_page import FormItem, FormSection, RatingForm, write_form
from milan.scores.text_similarity import normalize_text
from milan.scores.truth_score import Truth
from milan.storage.files import atomic_write, content_key
from milan.storage.provenance import Sources
from milan.storage.tables import read_csv
from milan.units import Unit

PICTURES_PER_ROW = 5
# The wrong answers beside the right one in tests from the known truth.
WRONG_ANSWERS = 2
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
class StudyKey:
    """What raters must not see: which unit each item shows, and which runs gave each description.

    Attributes:
        units: the unit of each item.
        options: the runs that gave each description of each item.
        right: the number of the right answer of each item of the qualification test.
    """

    units: Mapping[str, Unit]
    options: Mapping[str, Sequence[Sequence[str]]]
    right: Mapping[str, int]


@dataclass(frozen=True)
class StudyForms:
    """All forms of a study with their key.

    Attributes:
        images: the images of all items as data URLs, by their paths.
        dissections: where the exemplars of all units are, by layer.
    """

    forms: Sequence[RatingForm]
    key: StudyKey
    config: StudyConfig
    images: Mapping[str, str]
    dissections: Mapping[str, Dissection]

    def draw_sheet(self, id: str) -> UInt8[np.ndarray, "height width 3"]:
        """Return the exemplars of an item as one picture, for a page without scripts."""
        exemplars = _find_dissection(self.dissections, self.key.units[id]).exemplars(self.key.units[id])
        images, masks = (part[: self.config.exemplars] for part in (exemplars.images, exemplars.masks))
        masks = masks if self.config.highlight_masks else masks | True
        size = fitting(PICTURE_SIZE, len(images), PICTURES_PER_ROW)
        return make_image_grid(highlight_masks(images, masks, size), PICTURES_PER_ROW)


def make_study(
    runs: Sequence[DescribedRun], dissections: Mapping[str, Dissection], units: Sequence[Unit], config: StudyConfig
) -> StudyForms:
    """Return the forms for some units, which are the same for the same runs and options.

    Raises:
        BadInput: there are no images of a unit.
    """
    tests = _make_qualification(dissections, units, config)
    options = {unit: _collect_options(runs, unit, config) for unit in units}
    key = StudyKey(
        {_make_id(unit, config): unit for unit in (*units, *(unit for unit, _, _ in tests))},
        {_make_id(unit, config): [names for _, names in several] for unit, several in options.items()},
        {_make_id(unit, config): right for unit, _, right in tests},
    )

    views, images = _make_views(dissections, list(key.units.values()), config)

    def make_item(unit: Unit, texts: list[str]) -> FormItem:
        return FormItem(_make_id(unit, config), views[unit], texts)

    test_items = [make_item(unit, texts) for unit, texts, _ in tests]
    items = [make_item(unit, [text for text, _ in several]) for unit, several in options.items()]
    size = config.units_per_form
    forms = [
        _make_form(number, items[start : start + size], test_items, config)
        for number, start in enumerate(range(0, len(items), size), 1)
    ]
    return StudyForms(forms, key, config, images, dissections)


def sample_units(
    dissections: Mapping[str, Dissection], runs: Sequence[DescribedRun], config: StudyConfig
) -> list[Unit]:
    """Return random units that every run describes, as many of each layer as of any other, in random order.

    Raises:
        BadInput: the runs have no unit in common of which there are images.
    """
    common = {
        layer: [unit for unit in one.active_units() if all(unit in run.descriptions for run in runs)]
        for layer, one in dissections.items()
    }
    common = {layer: units for layer, units in common.items() if units}
    if not common:
        names = ", ".join(run.name for run in runs)
        raise BadInput(f"{names} have no unit in common of which there are images (a dissection beside one of them)")
    rng = np.random.default_rng(config.seed)
    shuffled = [[units[row] for row in rng.permutation(len(units)).tolist()] for units in common.values()]
    sampled: list[Unit] = []
    while len(sampled) < config.sampled_units and any(shuffled):
        for units in (units for units in shuffled if units):
            sampled.append(units.pop())
    sampled = sampled[: config.sampled_units]
    return [sampled[row] for row in rng.permutation(len(sampled)).tolist()]


def write_study_forms(study: StudyForms, folder: Path, sources: Sources) -> list[Path]:
    """Write ``form-1.html`` and so on, and ``key.json``, which raters must not see, and return the forms' files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        write_form(form, folder / f"form-{number}.html", sources, study.images)
        for number, form in enumerate(study.forms, 1)
    ]
    facts_by_item = {
        "forms": [form.id for form in study.forms],
        "items": {id: {"unit": str(unit), "options": study.key.options.get(id, []), "right": study.key.right.get(id)}
                  for id, unit in study.key.units.items()},
    }  # fmt: skip
    with atomic_write(folder / "key.json") as partial:
        partial.write_text(json.dumps(facts_by_item, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _make_form(number: int, items: Sequence[FormItem], test: Sequence[FormItem], config: StudyConfig) -> RatingForm:
    masks_text = HIGHLIGHT_TEXT if config.highlight_masks else WHOLE_TEXT
    parts = []
    instructions: tuple[str, ...]
    if test:
        instructions = (*QUALIFICATION_INSTRUCTIONS, masks_text)
        parts.append(FormSection("choice", "A test", instructions, "Which description fits best?", test))
    if config.kind == "rating":
        best = BEST_QUESTION if config.allow_ties else SINGLE_BEST_QUESTION
        title = "How well are these units described?"
        instructions = (*RATING_INSTRUCTIONS, masks_text)
        parts.append(FormSection("rating", title, instructions, RATING_QUESTION, items, best, config.allow_ties))
    else:
        title, instructions = "What do these regions show?", (*ANNOTATION_INSTRUCTIONS, masks_text)
        parts.append(FormSection("text", title, instructions, "In one sentence:", items))
    contents = [[part.kind, [[item.id, list(item.options)] for item in part.items]] for part in parts]
    id = content_key(parts=contents, options=config.form_options)
    title = "Descriptions of units" if config.kind == "rating" else "Describe units"
    lede = (
        f"{len(items)} items. Your answers stay in this browser until you save them as a file, which you then hand in."
    )
    return RatingForm(id, title, lede, parts, f"answers-{number}-{id[:6]}.json", across=PICTURES_PER_ROW)


def _collect_options(runs: Sequence[DescribedRun], unit: Unit, config: StudyConfig) -> list[tuple[str, list[str]]]:
    """Return the descriptions of a unit and the runs that gave them, in random order.

    Descriptions that are the same up to case and final stop are shown once, and their rating counts for all who gave
    them, so that they cannot be rated differently.
    """
    texts: dict[str, tuple[str, list[str]]] = {}
    for run in runs:
        if unit in run.descriptions:
            text = run.texts[unit]
            texts.setdefault(normalize_text(text), (text, []))[1].append(run.name)
    options = list(texts.values())
    rng = np.random.default_rng([config.seed, *str(unit).encode()])
    return [options[row] for row in rng.permutation(len(options)).tolist()]


def _make_id(unit: Unit, config: StudyConfig) -> str:
    """Return a name of a unit that does not show its layer."""
    return content_key(unit=str(unit), seed=config.seed)[:8]


def _make_views(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], config: StudyConfig
) -> tuple[dict[Unit, ExemplarView], dict[str, str]]:
    """Return what raters see of each unit, and the images as data URLs."""
    for unit in units:
        _find_dissection(dissections, unit)
    with TemporaryDirectory() as folder:
        views = write_exemplar_views(dissections, units, Path(folder))
        views = {unit: view.first(config.exemplars) for unit, view in views.items()}
        images = inline_images(views.values(), Path(folder))
    if not config.highlight_masks:
        views = {unit: replace(view, maps=WHOLE) for unit, view in views.items()}
    return views, images


def _find_dissection(dissections: Mapping[str, Dissection], unit: Unit) -> Dissection:
    if unit.layer not in dissections or unit not in dissections[unit.layer].status:
        raise BadInput(
            f"there are no images of {unit}; one of the runs must be a folder in which describe.py described that unit"
        )
    return dissections[unit.layer]


def _make_qualification(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], config: StudyConfig
) -> list[tuple[Unit, list[str], int]]:
    """Return each unit of the test with its descriptions, shuffled, and the number of the right one."""
    if not config.qualification:
        return []
    questions = (
        _make_from_truth(dissections, units)
        if config.qualification == "truth"
        else _read_qualification(Path(config.qualification))
    )
    if both := [str(unit) for unit, _, _ in questions if unit in units]:
        raise BadInput(f"{both[0]} is in the test and in the study; choose another unit for the test")
    tests = []
    for unit, right, wrong in questions:
        texts = [right, *wrong]
        order = np.random.default_rng([config.seed, *str(unit).encode()]).permutation(len(texts)).tolist()
        tests.append((unit, [texts[row] for row in order], order.index(0)))
    return tests


def _read_qualification(file: Path) -> list[tuple[Unit, str, list[str]]]:
    rows = read_csv(file) if file.is_file() else None
    if not rows or not {"id", "right"} <= rows[0].keys() or not any(name.startswith("wrong") for name in rows[0]):
        raise BadInput(
            f"{file} is not a test: give a CSV file with the columns id (as layer4:17), right, wrong, wrong2 and so"
            " on, or truth (on Diorama)"
        )
    wrong = [name for name in rows[0] if name.startswith("wrong")]
    return [(Unit.parse(row["id"]), row["right"], [row[name] for name in wrong if row[name]]) for row in rows]


def _make_from_truth(
    dissections: Mapping[str, Dissection], units: Sequence[Unit], count: int = 2
) -> list[tuple[Unit, str, list[str]]]:
    """Return Diorama's units that one word describes best, with words that are right for others and wrong for them."""
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
