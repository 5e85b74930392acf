"""The tables of a study: its forms, the ratings of descriptions, or the annotations of units."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milan.errors import BadInput
from milan.experiments.core.described_runs import DescribedRun, sources_of
from milan.experiments.core.form_answers import RaterAnswers, read_answers
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.text_overlap import compute_rouge_l
from milan.experiments.study.forms import StudyForms
from milan.experiments.study.mechanical_turk import read_mechanical_turk
from milan.experiments.study.ratings import (
    Response,
    collect_responses,
    compute_adjusted_rating,
    compute_best_share,
    compute_krippendorff_alpha,
    compute_mean_rating,
    compute_rater_levels,
    compute_valid_share,
    select_qualified,
)
from milan.scores.confidence_intervals import estimate_mean
from milan.storage.provenance import Sources
from milan.storage.tables import write_csv
from milan.units import Unit

COLUMNS = (
    Column(
        "rating",
        "Mean agreement, 1 (strongly disagree) to 5 (strongly agree), that the description describes most of the"
        " images: a mean over raters for each unit, then over units.",
        "",
        2,
        "more",
    ),
    Column("adjusted", "The same without each rater's mean deviation from others, by least squares.", "", 2, "more"),
    Column("best", "Share of responses in which it is chosen as the best; ties count in part.", "%", 1, "more"),
    Column("responses", "Number of valid responses with a rating of it."),
    Column("units", "Number of rated units."),
)
RATER_COLUMNS = (
    Column("responses", "Number of the rater's responses, valid or not."),
    Column("valid", "Share of responses in which the best description is among the highest rated.", "%", 0),
    Column("level", "How much higher than others the rater rates the same descriptions.", "", 2),
    Column("minutes", "Time for which the forms were open.", "", 1),
)
CORPUS_COLUMNS = (
    Column("units", "Number of annotated units."),
    Column("annotations", "Number of sentences."),
    Column("distinct", "Number of different sentences."),
    Column("words", "Mean number of words of a sentence.", "", 1),
    Column("agreement", "ROUGE-L (F) between two annotators of one unit, a mean over units.", "", 2),
)
VALID_NOTE = (
    "A response is valid if every description chosen as the best is among the highest rated (Describe-and-Dissect,"
    " A.1.6, where about 75 % were valid). Invalid responses are left out."
)
NO_BEST_NOTE = "Raters did not choose the best description, so every response counts."
INTERVALS_NOTE = "Intervals are 95% bootstrap intervals over units."
AGREEMENT_NOTE = (
    "The agreement of raters is Krippendorff's α of the ratings (squared differences): 1 is perfect, 0 is chance."
)
SAME_TEXT_NOTE = "A text of several describers is shown once, and its rating counts for each of them."
KEY_NOTE = (
    "key.json says who gave which description; raters must not see it. Forms send nothing: raters hand in the files"
    " that they save."
)
NEXT_NOTE = (
    "Next: the same command with --answers FILE FILE ... (what the forms saved, or Mechanical Turk's table of results)."
)
PUBLISHED_NOTE = (
    "Read from a published table, whose raters are not known beyond its columns. Responses that are flagged as"
    " uninterpretable, or as none fitting, are left out."
)


def make_forms_report(study: StudyForms, runs: Sequence[DescribedRun], files: Sequence[Path], out: Path) -> Report:
    """Return what was written, and what to do with it."""
    rows = []
    for number, form in enumerate(study.forms, 1):
        items = sum(len(part.items) for part in form.parts if part.kind != "choice")
        rows.append(Row(f"forms/form-{number}.html", {"items": items, "id": form.id}))
    rows += [Row(str(file.relative_to(out)), {}) for file in files if file.parent.name == "turk"]
    columns = (
        Column("items", "Number of units in the form."),
        Column("id", "By which answers are matched to this form."),
    )
    units = len(study.key.units) - len(study.key.right)
    test = f" A test of {len(study.key.right)} units comes first." if study.key.right else ""
    return Report(
        "study",
        "Forms for a human study",
        f"{units} units of {', '.join(run.name for run in runs)} in {len(study.forms)} forms"
        f" ({study.config.kind}).{test}",
        (Table("files", columns, tuple(rows), "file"),),
        notes=(KEY_NOTE, NEXT_NOTE, SAME_TEXT_NOTE),
        facts=_collect_facts(study, runs),
        sources=sources_of(runs),
    )


def make_answers_report(study: StudyForms, runs: Sequence[DescribedRun], files: Sequence[str], out: Path) -> Report:
    """Read answers, and report ratings or annotations.

    Raises:
        BadInput: a file has no answers, or none of the answers is valid.
    """
    saved = [file for file in files if not file.endswith(".csv")]
    passed, failed = select_qualified(read_answers(saved, *study.forms), study.key)
    for file in (file for file in files if file.endswith(".csv")):
        table = read_mechanical_turk(Path(file), study.forms)
        if table is None:
            raise BadInput(
                f"{file} is not a table of Mechanical Turk's results: it lacks the columns WorkerId and Input.item"
            )
        # The service admits only workers who passed the test.
        passed += table
    passed = _merge_answers(passed)
    notes = [f"These raters failed the test and are left out: {', '.join(failed)}."] if failed else []
    if study.config.kind == "annotation":
        return _make_annotations_report(study, runs, passed, notes, out)
    responses = collect_responses(passed, study.key)
    if not any(one.is_valid for one in responses):
        raise BadInput(
            f"none of {len(responses)} responses in {', '.join(files)} is valid: the description chosen as the best"
            " must be among the highest rated"
        )
    return _make_ratings_report(
        responses, passed, (*notes, SAME_TEXT_NOTE), _collect_facts(study, runs), sources_of(runs), study.config.seed
    )


def make_published_report(responses: Sequence[Response], seed: int) -> Report:
    """Return the report of a published table of ratings."""
    return _make_ratings_report(responses, [], (PUBLISHED_NOTE,), {"seed": seed}, {}, seed)


def _make_ratings_report(
    responses: Sequence[Response],
    raters: Sequence[RaterAnswers],
    notes: Sequence[str],
    facts: dict[str, Any],
    sources: Sources,
    seed: int,
) -> Report:
    valid = [one for one in responses if one.is_valid]
    names = list(dict.fromkeys(name for one in valid for name in one.ratings))
    best = any(one.best for one in valid)
    columns = tuple(column for column in COLUMNS if best or column.name != "best")
    rows = tuple(Row(name, _make_values(valid, name, best, seed)) for name in names)
    tables = [
        Table("all units", columns, rows),
        *_make_layer_tables(valid, names, seed),
        _make_rater_table(responses, raters),
    ]
    share, alpha = compute_valid_share(responses), compute_krippendorff_alpha(valid)
    ranked = sorted(((row.values["rating"].value, row.name) for row in rows), reverse=True)  # type: ignore[union-attr]
    headlines = [(f"{value:.2f}", f"mean rating: {name}") for value, name in ranked[:3]]
    if best:
        headlines.append((f"{100 * share.value:.0f} %", f"of {len(responses)} responses valid"))
    headlines.append(("–" if math.isnan(alpha) else f"{alpha:.2f}", "agreement of raters (α)"))
    raters_count, units = len({one.rater for one in responses}), len({one.unit for one in valid})
    return Report(
        "study",
        "How people rate descriptions",
        f"{raters_count} raters, {len(valid)} valid responses of {len(responses)}, {units} units, {len(names)}"
        " describers.",
        tuple(tables),
        tuple(headlines),
        (VALID_NOTE if best else NO_BEST_NOTE, AGREEMENT_NOTE, INTERVALS_NOTE, *notes),
        facts
        | {
            "responses": len(responses),
            "valid": len(valid),
            "alpha": None if math.isnan(alpha) else round(alpha, 4),
        },
        sources=sources,
    )


def _make_values(valid: Sequence[Response], name: str, best: bool, seed: int) -> dict[str, Value]:
    those = [one for one in valid if name in one.ratings]
    values: dict[str, Value] = {
        "rating": compute_mean_rating(those, name, seed),
        "adjusted": compute_adjusted_rating(valid, name, seed),
        "responses": len(those),
        "units": len({one.unit for one in those}),
    }
    return values | ({"best": compute_best_share(those, name, seed)} if best else {})


def _make_layer_tables(valid: Sequence[Response], names: Sequence[str], seed: int) -> list[Table]:
    layers = list(dict.fromkeys(sorted(one.unit.layer for one in valid)))
    if len(layers) < 2:
        return []
    columns = tuple(Column(layer, f"Mean rating over the units of {layer}.", "", 2, "more") for layer in layers)
    rows = []
    for name in names:
        those = {layer: [one for one in valid if one.unit.layer == layer and name in one.ratings] for layer in layers}
        rows.append(Row(name, {layer: compute_mean_rating(some, name, seed) for layer, some in those.items() if some}))
    return [Table("rating by layer", columns, tuple(rows))]


def _make_rater_table(responses: Sequence[Response], raters: Sequence[RaterAnswers]) -> Table:
    minutes = {each.rater: each.seconds / 60 for each in raters if each.seconds is not None}
    level = compute_rater_levels([one for one in responses if one.is_valid])
    rows = []
    for name in dict.fromkeys(one.rater for one in responses):
        own = [one for one in responses if one.rater == name]
        rows.append(
            Row(
                name,
                {
                    "responses": len(own),
                    "valid": compute_valid_share(own),
                    "level": level.get(name),
                    "minutes": minutes.get(name),
                },
            )
        )
    return Table("raters", RATER_COLUMNS, tuple(rows), "rater")


def _make_annotations_report(
    study: StudyForms, runs: Sequence[DescribedRun], answers: Sequence[RaterAnswers], notes: Sequence[str], out: Path
) -> Report:
    """Write ``annotations.csv`` in the format of MILANNOTATIONS, and return what was written."""
    annotations: dict[Unit, list[str]] = {}
    for each in answers:
        for id, answer in each.answers.items():
            if "text" in answer:
                annotations.setdefault(study.key.units[id], []).append(" ".join(answer["text"].split()))
    if not annotations:
        raise BadInput("the answers have no description of a unit")
    units = sorted(annotations)
    rows = [{"layer": unit.layer, "unit": unit.index, "summary": text} for unit in units for text in annotations[unit]]
    write_csv(out / "annotations.csv", rows)
    table_rows = []
    for layer in dict.fromkeys(unit.layer for unit in units):
        own = {unit: texts for unit, texts in annotations.items() if unit.layer == layer}
        table_rows.append(Row(layer, _make_corpus_values(own)))
    table_rows.append(Row("all", _make_corpus_values(annotations)))
    mentions = sum("highlight" in str(row["summary"]).lower() for row in rows)
    all_notes = [
        *notes,
        "annotations.csv has the columns layer, unit and summary, as MILANNOTATIONS; the captioner and the describer"
        " annotators read it.",
        INTERVALS_NOTE,
    ]
    if mentions:
        all_notes.append(f"{mentions} of {len(rows)} sentences mention highlighted regions, against the instructions.")
    return Report(
        "study",
        "What people see in units",
        f"{len(answers)} annotators wrote {len(rows)} sentences about {len(units)} units.",
        (Table("annotations", CORPUS_COLUMNS, tuple(table_rows), "layer"),),
        ((str(len(rows)), "annotations"),),
        tuple(all_notes),
        _collect_facts(study, runs),
        sources=sources_of(runs),
    )


def _make_corpus_values(annotations: dict[Unit, list[str]]) -> dict[str, Value]:
    texts = [text for several in annotations.values() for text in several]
    pairs = [
        float(np.mean([compute_rouge_l(one, other) for place, one in enumerate(several) for other in several[:place]]))
        for several in annotations.values()
        if len(several) > 1
    ]
    return {
        "units": len(annotations),
        "annotations": len(texts),
        "distinct": len(set(texts)),
        "words": estimate_mean([float(len(text.split())) for text in texts]),
        "agreement": estimate_mean(pairs) if pairs else None,
    }


def _merge_answers(answers: Sequence[RaterAnswers]) -> list[RaterAnswers]:
    """Merge the answers of each rater, who may have several files; of two answers to one item the first counts."""
    found: dict[str, RaterAnswers] = {}
    for each in answers:
        before = found.get(each.rater, RaterAnswers(each.rater))
        seconds = (
            None if each.seconds is None and before.seconds is None else (each.seconds or 0.0) + (before.seconds or 0.0)
        )
        found[each.rater] = RaterAnswers(each.rater, {**each.answers, **before.answers}, seconds)
    return list(found.values())


def _collect_facts(study: StudyForms, runs: Sequence[DescribedRun]) -> dict[str, Any]:
    return {
        "target": str(runs[0].facts.get("target") or ""),
        "probe": str(runs[0].facts.get("probe") or ""),
        "options": study.config.form_options,
        "forms": [form.id for form in study.forms],
        "units": [str(unit) for id, unit in study.key.units.items() if id not in study.key.right],
        "runs": [run.name for run in runs],
        "seed": study.config.seed,
    }
