"""A study on Amazon Mechanical Turk: the layout and table of HITs for the requester's site, the qualification test, and
the reading of results.
"""

import base64
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from milan.console.exemplar_rendering import encode_webp
from milan.errors import BadInput, MilanWarning
from milan.experiments.core.form_answers import RaterAnswers, is_complete
from milan.experiments.study.forms import StudyForms
from milan.results.page.document import render_template
from milan.results.page.form_page import RATING_LEVELS, FormItem, FormSection, RatingForm
from milan.storage.files import atomic_write
from milan.storage.tables import write_csv
from milan.storage.text_files import CsvTable

# The service's limits of a HIT's question and of a qualification test.
MAX_HIT_BYTES = 1_000_000
MAX_QUALIFICATION_BYTES = 65_535
SCHEMA_URL = "http://mechanicalturk.amazonaws.com/AWSMechanicalTurkDataSchemas/{}"
QUESTION_SCHEMA, ANSWER_KEY_SCHEMA = (
    SCHEMA_URL.format("2017-11-06/QuestionForm.xsd"),
    SCHEMA_URL.format("2005-10-01/AnswerKey.xsd"),
)


def write_mechanical_turk(study: StudyForms, folder: Path, image_url: str = "") -> list[Path]:
    """Write ``layout-N.html`` and ``hits-N.csv`` for units with N descriptions, and return all files.

    The layout is pasted into a project on the requester's site (Create, Other, Design Layout), whose own form and
    Submit button surround it; it needs no script. Images are within the table, or, with ``image_url``, files in
    ``pictures`` to upload to that address. The test, if there is one, is ``qualification.xml`` with its answers in
    ``qualification-key.xml`` for create_qualification_type.

    Raises:
        BadInput: a HIT would be larger than the service accepts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        (part, item) for form in study.forms for part in form.parts for item in part.items if part.kind != "choice"
    ]
    found = []
    for count in sorted({len(item.options) for _, item in items}):
        several = [(part, item) for part, item in items if len(item.options) == count]
        layout = render_template(
            "turk.html.j2", part=several[0][0], options=range(1, count + 1), levels=list(enumerate(RATING_LEVELS, 1))
        )
        rows = [_make_hit(item, study, folder, image_url) for _, item in several]
        largest = max(rows, key=lambda row: sum(len(str(value).encode()) for value in row.values()))
        size = len(layout.encode()) + sum(len(str(value).encode()) for value in largest.values())
        if size > MAX_HIT_BYTES:
            raise BadInput(
                f"the HIT of item {largest['item']} would have {size:,} bytes, but Mechanical Turk accepts"
                f" at most {MAX_HIT_BYTES:,}; show fewer images, or put them on a server: --image_url https://..."
            )
        found += [_write_text(folder / f"layout-{count}.html", layout), folder / f"hits-{count}.csv"]
        write_csv(folder / f"hits-{count}.csv", rows)
    tests = [part for part in study.forms[0].parts if part.kind == "choice"] if study.forms else []
    return found + [file for part in tests for file in _write_qualification(part, study, folder, image_url)]


def _make_hit(item: FormItem, study: StudyForms, folder: Path, image_url: str) -> dict[str, Any]:
    """Return a row of the table; texts are escaped, since the site puts them into the layout unchanged."""
    texts = {f"option_{number}": escape(text) for number, text in enumerate(item.options, 1)}
    return {"item": item.id, "image": _place_picture(item, study, folder, image_url)} | texts


def _place_picture(item: FormItem, study: StudyForms, folder: Path, image_url: str) -> str:
    sheet = study.draw_sheet(item.id)
    if not image_url:
        return f"data:image/webp;base64,{base64.b64encode(encode_webp(sheet)).decode()}"
    from PIL import Image

    (folder / "pictures").mkdir(exist_ok=True)
    # Qualification tests do not support WebP.
    Image.fromarray(sheet).save(folder / "pictures" / f"{item.id}.png")
    return f"{image_url.rstrip('/')}/{item.id}.png"


def _write_qualification(part: FormSection, study: StudyForms, folder: Path, image_url: str) -> list[Path]:
    """Write the test and its answers; without an address of images there is none, since they must be on a server."""
    if not image_url:
        warnings.warn(
            "no test for Mechanical Turk: its images must be on a server; give their address with --image_url",
            MilanWarning,
            stacklevel=3,
        )
        return []
    overview = "".join(f"<Text>{escape(line)}</Text>" for line in part.instructions)
    questions = "".join(_format_question(part, item, study, folder, image_url) for item in part.items)
    form = (
        f'<QuestionForm xmlns="{QUESTION_SCHEMA}"><Overview><Title>{escape(part.title)}</Title>{overview}</Overview>'
        f"{questions}</QuestionForm>\n"
    )
    if len(form.encode()) > MAX_QUALIFICATION_BYTES:
        raise BadInput(
            f"the qualification test has {len(form.encode()):,} bytes, but Mechanical Turk accepts"
            f" at most {MAX_QUALIFICATION_BYTES:,}; test with fewer units"
        )
    right = "".join(
        f"<Question><QuestionIdentifier>{item.id}</QuestionIdentifier><AnswerOption><SelectionIdentifier>{study.key.right[item.id]}"
        "</SelectionIdentifier><AnswerScore>1</AnswerScore></AnswerOption></Question>"
        for item in part.items
    )
    key = f'<AnswerKey xmlns="{ANSWER_KEY_SCHEMA}">{right}</AnswerKey>\n'
    return [_write_text(folder / "qualification.xml", form), _write_text(folder / "qualification-key.xml", key)]


def _format_question(part: FormSection, item: FormItem, study: StudyForms, folder: Path, image_url: str) -> str:
    address = _place_picture(item, study, folder, image_url)
    choices = "".join(
        f"<Selection><SelectionIdentifier>{number}</SelectionIdentifier><Text>{escape(text)}</Text></Selection>"
        for number, text in enumerate(item.options)
    )
    picture = (
        "<Binary><MimeType><Type>image</Type><SubType>png</SubType></MimeType>"
        f"<DataURL>{escape(address)}</DataURL><AltText>The images of this item</AltText></Binary>"
    )
    return (
        f"<Question><QuestionIdentifier>{item.id}</QuestionIdentifier><IsRequired>true</IsRequired>"
        f"<QuestionContent>{picture}<Text>{escape(part.question)}</Text></QuestionContent><AnswerSpecification><SelectionAnswer>"
        f"<StyleSuggestion>radiobutton</StyleSuggestion><Selections>{choices}</Selections></SelectionAnswer></AnswerSpecification></Question>"
    )


def read_mechanical_turk(file: Path, forms: Sequence[RatingForm]) -> list[RaterAnswers] | None:
    """Return the answers in a table of results of the requester's site; None for another table.

    Rejected assignments, incomplete answers and a worker's further answers to one item are left out, with a warning.

    Raises:
        BadInput: the file cannot be read.
    """
    table = CsvTable(file)
    if not {"WorkerId", "Input.item"} <= set(table.columns):
        return None
    rows = table.parse(lambda row: (row, float(row.get("WorkTimeInSeconds") or 0)))
    items = {item.id: (part, item) for form in forms for part in form.parts for item in part.items}
    given: dict[str, dict[str, Mapping[str, Any]]] = {}
    seconds: dict[str, float] = {}
    lost = dict.fromkeys(("rejected", "of other units", "incomplete", "a second answer"), 0)
    for row, worked in rows:
        id, who = row["Input.item"], row["WorkerId"]
        answer = _parse_answer(row, *items[id]) if id in items else {}
        fault = _find_fault(row, answer, items.get(id), given.get(who, {}))
        if fault:
            lost[fault] += 1
            continue
        given.setdefault(who, {})[id] = answer
        seconds[who] = seconds.get(who, 0.0) + worked
    if any(lost.values()):
        reasons = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
        warnings.warn(f"{file}: some of {len(rows)} assignments are left out: {reasons}", MilanWarning, stacklevel=2)
    return [RaterAnswers(who, answers, seconds[who]) for who, answers in given.items()]


def _find_fault(
    row: Mapping[str, str],
    answer: Mapping[str, Any],
    known: tuple[FormSection, FormItem] | None,
    before: Mapping[str, Any],
) -> str:
    """Return why a row is left out; empty for a row that counts."""
    if row.get("AssignmentStatus") == "Rejected":
        return "rejected"
    if known is None:
        return "of other units"
    if not is_complete(answer, *known):
        return "incomplete"
    return "a second answer" if row["Input.item"] in before else ""


def _parse_answer(row: Mapping[str, str], part: FormSection, item: FormItem) -> dict[str, Any]:
    """Return a row's answer as a form would have saved it; options count from 1 in the layout."""
    if part.kind == "text":
        return {"text": (row.get("Answer.text") or "").strip()}
    ratings = [_parse_level(row.get(f"Answer.rating_{number}")) for number in range(1, len(item.options) + 1)]
    best = [number for number in map(_parse_level, (row.get("Answer.best") or "").split("|")) if number is not None]
    return {"ratings": ratings, "best": [number - 1 for number in best]}


def _parse_level(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _write_text(file: Path, text: str) -> Path:
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file
