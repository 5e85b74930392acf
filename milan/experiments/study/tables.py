"""A study as tables: its forms; or what raters said of descriptions, and annotators of units."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milan.console.command_line import get_recorded_warnings
from milan.errors import BadInput
from milan.experiments.compare.tables import compute_rouge_l
from milan.experiments.core.described_runs import DescribedRun, sources_of
from milan.experiments.core.form_answers import RaterAnswers, read_answers
from milan.experiments.core.report import Column, Report, Row, Table, Value
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
from milan.storage.files import collect_versions
from milan.storage.provenance import Sources
from milan.storage.tables import write_csv
from milan.units import Unit

COLUMNS = (
    Column("rating",
    "The mean of 1 (strongly disagree) to 5 (strongly agree) that it describes most of what is meant: of each unit the "
           "mean of its raters, then of the units.", "", 2, "more"),
    Column("levelled", "The same with how mild each rater is taken off, by least squares.", "", 2, "more"),
    Column("best", "The share of responses in which it was called best; ties count in part.", "%", 1, "more"),
    Column("responses", "Valid responses with a rating of it."),
    Column("units", "Units rated."),
)  # fmt: skip
RATER_COLUMNS = (
    Column("responses", "Of the rater, valid or not."),
    Column("valid", "The share in which what was called best is among the highest rated.", "%", 0),
    Column("level", "How much higher than others the rater rates the same descriptions.", "", 2),
    Column("minutes", "That the forms were open for.", "", 1),
)
VALID_NOTE = (
    "A response is valid if all that was called best is among the highest rated (Describe-and-Dissect, A.1.6; about 75"
    " % were, there). Others are left out."
)
NO_BEST_NOTE = "Nobody was asked which is best, so every response counts."
INTERVALS_NOTE = "Intervals are of 95%, by drawing the units again a thousand times."
AGREEMENT_NOTE = (
    "Raters' agreement is Krippendorff's α of the ratings (squared differences): 1 is perfect, 0 what lots would give."
)
SAME_TEXT_NOTE = "A text that several describers gave was shown once, and its rating counts for each of them."
KEY_NOTE = (
    "key.json says who gave which description; raters must not see it. Forms send nothing: raters hand in the files"
    " that they save."
)
NEXT_NOTE = (
    "Then: the same command with --answers FILE FILE ... (what the forms saved, or Mechanical Turk's table of results)."
)
PUBLISHED_NOTE = (
    "Read from a published table: who was asked what is not known beyond its columns. Responses flagged as"
    " uninterpretable, or as none fitting, are left out."
)


def make_forms_report(study: StudyForms, runs: Sequence[DescribedRun], files: Sequence[Path], out: Path) -> Report:
    """What was made, and what to do with it."""
    rows = [
        Row(
            f"forms/form-{number}.html",
            {"items": sum(len(part.items) for part in form.parts if part.kind != "choice"), "id": form.id},
        )
        for number, form in enumerate(study.forms, 1)
    ]
    rows += [Row(str(file.relative_to(out)), {}) for file in files if file.parent.name == "turk"]
    columns = (
        Column("items", "Units that are asked of."),
        Column("id", "By which answers are found to be answers to this form."),
    )
    units = len(study.key.units) - len(study.key.right)
    test = f" A test of {len(study.key.right)} units comes first." if study.key.right else ""
    lede = (
        f"{units} units of {', '.join(run.name for run in runs)} in {len(study.forms)} forms"
        f" ({study.config.kind}).{test}"
    )
    notes = (
        KEY_NOTE,
        NEXT_NOTE,
        SAME_TEXT_NOTE,
    )
    return Report(
        "study",
        "Forms for a human study",
        lede,
        (Table("files", columns, tuple(rows), "file"),),
        (),
        notes,
        _collect_facts(study, runs),
        sources=sources_of(runs),
    )


def make_answers_report(study: StudyForms, runs: Sequence[DescribedRun], files: Sequence[str], out: Path) -> Report:
    """Reads answers and reports them.

    Raises:
        BadInput: a file holds none, or nobody answered validly.
    """
    saved = [file for file in files if not file.endswith(".csv")]
    passed, failed = select_qualified(read_answers(saved, *study.forms), study.key)
    for file in (file for file in files if file.endswith(".csv")):
        table = read_mechanical_turk(Path(file), study.forms)
        if table is None:
            raise BadInput(
                f"{file} is no table of Mechanical Turk's results: it has no columns WorkerId and Input.item"
            )
        passed += table  # the service has seen to it that they passed the test
    passed = _merge_answers(passed)
    notes = [f"Left out for failing the test: {', '.join(failed)}."] if failed else []
    if study.config.kind == "annotation":
        return _make_annotations_report(study, runs, passed, notes, out)
    responses = collect_responses(passed, study.key)
    if not any(one.is_valid for one in responses):
        raise BadInput(
            f"none of {len(responses)} responses in {', '.join(files)} is valid: what is called best must be among the"
            " highest rated"
        )
    return _make_ratings_report(
        responses, passed, (*notes, SAME_TEXT_NOTE), _collect_facts(study, runs), sources_of(runs), study.config.seed
    )


def make_published_report(responses: Sequence[Response], seed: int) -> Report:
    """The report of a published table of ratings."""
    facts = {"seed": seed, "versions": collect_versions(), "warnings": get_recorded_warnings()}
    return _make_ratings_report(responses, [], (PUBLISHED_NOTE,), facts, {}, seed)


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
    share, agreed = compute_valid_share(responses), compute_krippendorff_alpha(valid)
    ranked = sorted(((row.values["rating"].value, row.name) for row in rows), reverse=True)  # type: ignore[union-attr]
    headlines = [(f"{value:.2f}", f"mean rating: {name}") for value, name in ranked[:3]]
    if best:
        headlines.append((f"{100 * share.value:.0f} %", f"of {len(responses)} responses valid"))
    headlines.append(("–" if math.isnan(agreed) else f"{agreed:.2f}", "raters' agreement (α)"))
    who = len({one.rater for one in responses})
    units = len({one.unit for one in valid})
    lede = f"{who} raters, {len(valid)} valid responses of {len(responses)}, {units} units, {len(names)} describers."
    all_notes = (VALID_NOTE if best else NO_BEST_NOTE, AGREEMENT_NOTE, INTERVALS_NOTE, *notes)
    facts = facts | {
        "responses": len(responses),
        "valid": len(valid),
        "alpha": None if math.isnan(agreed) else round(agreed, 4),
    }
    title, heads = "How people rate descriptions", tuple(headlines)
    return Report("study", title, lede, tuple(tables), heads, all_notes, facts, sources=sources)


def _make_values(valid: Sequence[Response], name: str, best: bool, seed: int) -> dict[str, Value]:
    those = [one for one in valid if name in one.ratings]
    values: dict[str, Value] = {
        "rating": compute_mean_rating(those, name, seed),
        "levelled": compute_adjusted_rating(valid, name, seed),
        "responses": len(those),
        "units": len({one.unit for one in those}),
    }
    return values | ({"best": compute_best_share(those, name, seed)} if best else {})


def _make_layer_tables(valid: Sequence[Response], names: Sequence[str], seed: int) -> list[Table]:
    layers = list(dict.fromkeys(sorted(one.unit.layer for one in valid)))
    if len(layers) < 2:
        return []
    columns = tuple(Column(layer, f"The mean rating over the units of {layer}.", "", 2, "more") for layer in layers)
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
    """Writes ``annotations.csv``, as MILANNOTATIONS has it, and reports what was written."""
    said: dict[Unit, list[str]] = {}
    for each in answers:
        for id, answer in each.answers.items():
            if "text" in answer:
                said.setdefault(study.key.units[id], []).append(" ".join(answer["text"].split()))
    if not said:
        raise BadInput("nobody described a unit in the answers given")
    rows = [{"layer": unit.layer, "unit": unit.index, "summary": text} for unit in sorted(said) for text in said[unit]]
    write_csv(out / "annotations.csv", rows)
    texts = [text for several in said.values() for text in several]
    pointing = sum("highlight" in text.lower() for text in texts)
    columns = (
        Column("units", "Units described."),
        Column("annotations", "Sentences."),
        Column("distinct", "Different ones."),
        Column("words", "Mean number of words.", "", 1),
        Column("agreement", "ROUGE-L (F) between two annotators of one unit, a mean over units.", "", 2),
    )
    layers = list(dict.fromkeys(unit.layer for unit in sorted(said)))
    table_rows = [
        Row(layer, _make_corpus_values({unit: several for unit, several in said.items() if unit.layer == layer}))
        for layer in layers
    ]
    table_rows.append(Row("all", _make_corpus_values(said)))
    all_notes = (
        *notes,
        (
            "annotations.csv has layer, unit and summary, as in MILANNOTATIONS; the captioner and the annotators'"
            " describer read it."
        ),
        *(
            [f"{pointing} of {len(texts)} sentences speak of highlighted regions, which they were asked not to."]
            if pointing
            else []
        ),
        INTERVALS_NOTE,
    )
    lede = f"{len(answers)} annotators wrote {len(texts)} sentences about {len(said)} units."
    tables = (Table("annotations", columns, tuple(table_rows), "layer"),)
    heads = ((str(len(texts)), "annotations"),)
    facts, sources = _collect_facts(study, runs), sources_of(runs)
    return Report("study", "What people see in units", lede, tables, heads, all_notes, facts, sources=sources)


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
    """One for each rater: several files may be of one; of two answers to one item the first counts."""
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
        "asked": vars(study.config),
        "forms": [form.id for form in study.forms],
        "units": [str(unit) for id, unit in study.key.units.items() if id not in study.key.right],
        "runs": [run.name for run in runs],
        "seed": study.config.seed,
        "versions": collect_versions(),
        "warnings": get_recorded_warnings(),
    }
