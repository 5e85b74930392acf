"""A study for Amazon Mechanical Turk: layout and table of HITs for the requester's site, a qualification test, reading of results."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from milan.errors import BadInput, MilanWarning
from milan.experiments.studies.forms import Study
from milan.experiments.studies.marks import Answers, is_whole
from milan.page.document import filled
from milan.page.form import AGREEMENT, Form, Item, Part
from milan.storage import atomic
from milan.tables import write_csv
from milan.text_files import CsvTable

LARGEST = 1_000_000  # bytes of a HIT's question, the service's limit
XML = 65_535  # bytes of a qualification test, the service's limit
SCHEMA = "http://mechanicalturk.amazonaws.com/AWSMechanicalTurkDataSchemas/{}"
QUESTIONS, KEYS = SCHEMA.format("2017-11-06/QuestionForm.xsd"), SCHEMA.format("2005-10-01/AnswerKey.xsd")


def write_turk(study: Study, folder: Path, image_url: str = "") -> list[Path]:
    """Writes, for each number of descriptions that units have, ``layout-N.html`` and ``hits-N.csv`` with a row for each unit.

    The layout is pasted into a project on the requester's site (Create, Other, Design Layout), whose own form and Submit button surround
    it; it needs no script. Pictures are within the table, or, with ``image_url``, files in ``pictures`` to be put under that address.
    The test, if there is one, is ``qualification.xml`` with its answers in ``qualification-key.xml`` for create_qualification_type.

    Raises:
        BadInput: a HIT would be larger than the service takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = [(part, item) for form in study.forms for part in form.parts for item in part.items if part.kind != "choice"]
    found = []
    for count in sorted({len(item.options) for _, item in items}):
        several = [(part, item) for part, item in items if len(item.options) == count]
        layout = filled("turk.html.j2", part=several[0][0], options=range(1, count + 1), levels=list(enumerate(AGREEMENT, 1)))
        rows = [_hit(item, folder, image_url) for _, item in several]
        largest = max(rows, key=lambda row: sum(len(str(value).encode()) for value in row.values()))
        size = len(layout.encode()) + sum(len(str(value).encode()) for value in largest.values())
        if size > LARGEST:
            raise BadInput(
                f"the HIT of item {largest['item']} would have {size:,} bytes, and Mechanical Turk takes {LARGEST:,}; show fewer images, "
                "or put the pictures on a server: --image_url https://..."
            )
        found += [_written(folder / f"layout-{count}.html", layout), folder / f"hits-{count}.csv"]
        write_csv(folder / f"hits-{count}.csv", rows)
    tests = [part for part in study.forms[0].parts if part.kind == "choice"] if study.forms else []
    return found + [file for part in tests for file in _qualification(part, study, folder, image_url)]


def _hit(item: Item, folder: Path, image_url: str) -> dict[str, Any]:
    """A row of the table; a text is escaped here, since the site puts it into the layout as it is."""
    texts = {f"option_{number}": escape(text) for number, text in enumerate(item.options, 1)}
    return {"item": item.id, "image": _picture(item, folder, image_url)} | texts


def _picture(item: Item, folder: Path, image_url: str) -> str:
    if item.sheet is None:
        raise BadInput(f"there are no pictures of item {item.id}")
    if not image_url:
        return item.sheet.file
    from PIL import Image

    (folder / "pictures").mkdir(exist_ok=True)
    with Image.open(io.BytesIO(base64.b64decode(item.sheet.file.partition(",")[2]))) as picture:
        picture.save(folder / "pictures" / f"{item.id}.png")  # a test takes no WebP
    return f"{image_url.rstrip('/')}/{item.id}.png"


def _qualification(part: Part, study: Study, folder: Path, image_url: str) -> list[Path]:
    """The test and its answers; its pictures have to be on a server, so without an address there is none."""
    if not image_url:
        warnings.warn("no test for Mechanical Turk: its pictures must be on a server (--image_url)", MilanWarning, stacklevel=3)
        return []
    told = "".join(f"<Text>{escape(line)}</Text>" for line in part.instructions)
    questions = "".join(_question(part, item, folder, image_url) for item in part.items)
    form = f'<QuestionForm xmlns="{QUESTIONS}"><Overview><Title>{escape(part.title)}</Title>{told}</Overview>{questions}</QuestionForm>\n'
    if len(form.encode()) > XML:
        raise BadInput(f"the qualification test has {len(form.encode()):,} bytes, and Mechanical Turk takes {XML:,}; ask of fewer units")
    right = "".join(
        f"<Question><QuestionIdentifier>{item.id}</QuestionIdentifier><AnswerOption><SelectionIdentifier>{study.key.right[item.id]}"
        "</SelectionIdentifier><AnswerScore>1</AnswerScore></AnswerOption></Question>"
        for item in part.items
    )
    key = f'<AnswerKey xmlns="{KEYS}">{right}</AnswerKey>\n'
    return [_written(folder / "qualification.xml", form), _written(folder / "qualification-key.xml", key)]


def _question(part: Part, item: Item, folder: Path, image_url: str) -> str:
    address = _picture(item, folder, image_url)
    choices = "".join(
        f"<Selection><SelectionIdentifier>{number}</SelectionIdentifier><Text>{escape(text)}</Text></Selection>"
        for number, text in enumerate(item.options)
    )
    picture = (
        "<Binary><MimeType><Type>image</Type><SubType>png</SubType></MimeType>"
        f"<DataURL>{escape(address)}</DataURL><AltText>{escape(quoteattr('The images of this item')[1:-1])}</AltText></Binary>"
    )
    return (
        f"<Question><QuestionIdentifier>{item.id}</QuestionIdentifier><IsRequired>true</IsRequired>"
        f"<QuestionContent>{picture}<Text>{escape(part.question)}</Text></QuestionContent><AnswerSpecification><SelectionAnswer>"
        f"<StyleSuggestion>radiobutton</StyleSuggestion><Selections>{choices}</Selections></SelectionAnswer></AnswerSpecification></Question>"
    )


def read_turk(file: Path, forms: Sequence[Form]) -> list[Answers] | None:
    """The answers in a table of results of the requester's site; None if it is none. Rejected assignments are left out.

    Of a worker who answered one item twice the first answer counts; answers that are not whole are left out. Both are told.

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
    lost = dict.fromkeys(("rejected", "of other units", "not whole", "a second answer"), 0)
    for row, worked in rows:
        id, who = row["Input.item"], row["WorkerId"]
        answer = _answer(row, *items[id]) if id in items else {}
        fault = _fault(row, answer, items.get(id), given.get(who, {}))
        if fault:
            lost[fault] += 1
            continue
        given.setdefault(who, {})[id] = answer
        seconds[who] = seconds.get(who, 0.0) + worked
    if any(lost.values()):
        told = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
        warnings.warn(f"{file}: of {len(rows)} assignments left out: {told}", MilanWarning, stacklevel=2)
    return [Answers(who, answers, seconds[who]) for who, answers in given.items()]


def _fault(row: Mapping[str, str], answer: Mapping[str, Any], known: tuple[Part, Item] | None, before: Mapping[str, Any]) -> str:
    """Why a row is left out, or nothing."""
    if row.get("AssignmentStatus") == "Rejected":
        return "rejected"
    if known is None:
        return "of other units"
    if not is_whole(answer, *known):
        return "not whole"
    return "a second answer" if row["Input.item"] in before else ""


def _answer(row: Mapping[str, str], part: Part, item: Item) -> dict[str, Any]:
    """A row's answer as the form would have saved it; options count from 1 in the layout."""
    if part.kind == "text":
        return {"text": (row.get("Answer.text") or "").strip()}
    ratings = [_level(row.get(f"Answer.rating_{number}")) for number in range(1, len(item.options) + 1)]
    best = [number for number in map(_level, (row.get("Answer.best") or "").split("|")) if number is not None]
    return {"ratings": ratings, "best": [number - 1 for number in best]}


def _level(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _written(file: Path, text: str) -> Path:
    with atomic(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file
