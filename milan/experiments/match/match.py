"""Units of two networks matched one to one by the correlation of their activations over the same images."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from milan.errors import BadInput, MilanWarning
from milan.experiments.core.config import DissectionOptions
from milan.experiments.core.report import Column, Report, Role, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.core.text_overlap import compute_rouge_l
from milan.experiments.core.unit_views import format_score, make_text_view, make_unit_view
from milan.experiments.match.config import MatchConfig
from milan.experiments.match.series_figure import plot_series
from milan.probes import load_probe
from milan.results.correlations import match_units
from milan.results.page.exemplar_views import PICTURES_PER_ROW, write_exemplar_views
from milan.scores.confidence_intervals import estimate_mean, estimate_share
from milan.storage.files import safe_name
from milan.storage.tables import write_csv
from milan.targets.loading import load_target
from milan.units import Unit

Status = Literal["same", "changed", "new", "lost"]
COLUMNS = (
    Column("units", "Number of the target's units that vary over the probe."),
    Column("same", "Share of them whose counterpart correlates at least as --same says.", "%", 1),
    Column("changed", "Share whose counterpart correlates at least as --changed says, but less.", "%", 1),
    Column("new", "Share without such a counterpart.", "%", 1),
    Column("lost", "Number of the other network's varying units without a counterpart in the target."),
    Column(
        "correlation", "Mean Pearson correlation with the assigned unit over the images of the probe.", "", 3, "more"
    ),
    Column("exemplars", "Mean share of common images among the exemplars of matched units (Jaccard index).", "%", 1),
    Column("words", "Mean ROUGE-L (F) of the descriptions of matched units.", "", 2),
)
NOTES = (
    "Units are matched one to one, those with the highest correlation first; units that do not vary over the probe are"
    " left out.",
    "The floor matches the same units with the images of the other network shuffled.",
    "On the page the first row of pictures shows the exemplars of the target's unit, the second those of the other"
    " network's.",
    "Intervals are 95% bootstrap intervals over units (of shares: Wilson's).",
)


@dataclass(frozen=True)
class UnitMatch:
    """A unit and its counterpart in another network.

    Attributes:
        status: ``same`` or ``changed`` of a pair, ``new`` of a unit of the target without a counterpart, ``lost`` of a
            unit of the other network without one.
        unit: the unit of the target; None if ``lost``.
        other: the unit of the other network; None if ``new``.
        correlation: Pearson correlation with the unit that the assignment gives it, NaN if it gives none.
        exemplars: the share of common images among the exemplars of both (Jaccard index); NaN if not a pair.
        words: ROUGE-L of their descriptions; NaN if one is not described.
    """

    status: Status
    unit: Unit | None
    other: Unit | None
    correlation: float
    exemplars: float = float("nan")
    words: float = float("nan")

    @property
    def layer(self) -> str:
        """The layer by which results are grouped: that of the target's unit, else that of the other network's."""
        return (self.unit or self.other).layer  # type: ignore[union-attr]


def match(config: MatchConfig) -> Report:
    """Match the units of a target with those of other networks, and count the same, changed, new and lost ones."""
    with Study.open(config) as study:
        describers = [config.describer] if config.describer else []
        if describers:
            study.describe(*describers)
        rows: list[Row] = []
        views: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        references = list(_open_references(study, config))
        matches: dict[str, list[UnitMatch]] = {}
        for other in references:
            if describers:
                other.describe(*describers)
            matches[other.name] = found = match_studies(study, other, config)
            rows += _make_rows(other.name, found, study, other, config)
            pairs += [_make_pair(other.name, each, study, other) for each in found]
            best = sorted(found, key=lambda each: (each.unit is None, -np.nan_to_num(each.correlation, nan=-2.0)))
            views += [_make_view(other.name, each, study, other) for each in best[: config.page_units]]
        against = references[0].name if len(references) == 1 else f"{len(references)} networks"
        report = study.report(
            f"{study.target.name} against {against}",
            f"Units matched by the correlation of their activations over {len(study.probe):,} images.",
            [Table("by layer", COLUMNS if describers else COLUMNS[:-1], tuple(rows), "network and layer")],
            notes=NOTES,
            figures=(_plot_series(list(study.units), matches),) if len(matches) > 1 else (),
            facts={"pooling": config.pooling, "same": config.same, "changed": config.changed},
            sources={f"target {other.name}": other.target.spec for other in references},
        )
        report.write(study.out, views)
        write_csv(study.out / "pairs.csv", pairs)
    return report


def _plot_series(layers: Sequence[str], matches: Mapping[str, Sequence[UnitMatch]]) -> tuple[str, str]:
    """Return the caption and the figure of the mean correlation of each layer's units, network by network."""
    values = [
        [estimate_mean([one.correlation for one in found if one.unit and one.unit.layer == layer]).value
         for found in matches.values()]
        for layer in layers
    ]  # fmt: skip
    # Networks with other weights are named by their files: the part in brackets is enough.
    names = [name.partition(" (")[2].removesuffix(")") or name for name in matches]
    return plot_series(names, layers, np.array(values))


def match_studies(study: Study, other: Study, config: MatchConfig) -> list[UnitMatch]:
    """Return the matches of all units: those of the target in order, then the lost units of the other network.

    Layers with the same names are matched with each other; if the names differ, all units with all.
    """
    by_layer = list(study.units) == list(other.units)
    groups = [([name], [name]) for name in study.units] if by_layer else [(list(study.units), list(other.units))]
    found = [each for mine, theirs in groups for each in _match_group(study, other, mine, theirs, config)]
    found.sort(key=lambda each: each.unit is None)
    texts = (study.texts, other.texts) if study.describers else ({}, {})
    return [_compare_pair(each, study, other, *texts) for each in found]


def _open_references(study: Study, config: MatchConfig) -> Iterator[Study]:
    """Yield the networks that the target is compared with, each to be dissected into a folder of its own."""
    specs = config.against or [config.target] * len(config.against_weights or ())
    weights: Sequence[str | None] = config.against_weights or [None] * len(specs)
    if len(weights) != len(specs):
        raise BadInput(f"{len(weights)} files of --against_weights for {len(specs)} networks; give one for each")
    own = {field: getattr(config, field) for field in ("layers", "units", "k", "quantile", "rank_by")}
    options = replace(DissectionOptions(**own), layers=config.against_layers or config.layers)
    names: list[str] = []
    given = dict(config.target_options.given)
    if config.against:
        # The name that is given is the target's, not that of other networks.
        given.pop("name", None)
    for spec, file in zip(specs, weights, strict=True):
        target = load_target(spec, weights=file, device=config.device, **given)
        probe = load_probe(study.probe_spec, target=target, limit=config.limit)
        if len(probe) != len(study.probe):
            raise BadInput(
                f"{spec} has {len(probe)} images and the target {len(study.probe)}; give both the same probe"
            )
        candidates = [f"{target.name} ({part})" for part in (Path(file).stem, file)] if file else [target.name, spec]
        name = next((each for each in candidates if each not in names), "")
        if not name:
            raise BadInput(f"{candidates[-1]} is given twice; give each network to compare with once")
        names.append(name)
        out = study.out / "against" / safe_name(f"{target.name} {file}" if file else name)
        yield Study(target, probe, out, options, name, config.seed, config.device, config.limit, study.probe_spec)


def _match_group(
    study: Study, other: Study, layers: Sequence[str], other_layers: Sequence[str], config: MatchConfig
) -> list[UnitMatch]:
    mine, values = _load_activations(study, layers, config)
    theirs, other_values = _load_activations(other, other_layers, config)
    pairs, rows, columns = match_units(values, other_values)
    for name, known, varying in ((study.target.name, mine, rows), (other.name, theirs, columns)):
        if not varying:
            text = (
                f"no unit of {', '.join(layers)} of {name} varies over the probe ({len(known)} units): none is matched"
            )
            warnings.warn(text, MilanWarning, stacklevel=2)
    matched = {row: (column, value) for row, column, value in pairs if value >= config.changed}
    assigned = {row: value for row, _, value in pairs}
    assigned_others = {column: value for _, column, value in pairs}
    found = []
    for row in rows:
        if row in matched:
            column, value = matched[row]
            found.append(UnitMatch("same" if value >= config.same else "changed", mine[row], theirs[column], value))
        else:
            found.append(UnitMatch("new", mine[row], None, assigned.get(row, float("nan"))))
    taken = {column for column, _ in matched.values()}
    lost = [column for column in columns if column not in taken]
    return found + [
        UnitMatch("lost", None, theirs[column], assigned_others.get(column, float("nan"))) for column in lost
    ]


def _load_activations(
    study: Study, layers: Sequence[str], config: MatchConfig
) -> tuple[list[Unit], Float[np.ndarray, "images units"]]:
    """Return the selected units of some layers and their pooled activations; those of one whole layer stay on disk."""
    values, units = [], []
    for layer in layers:
        dissection, selected = study.dissections[layer], study.units[layer]
        whole = selected == dissection.units
        values.append(dissection.activations(config.pooling, None if whole else selected).numpy())
        units += selected
    return units, values[0] if len(values) == 1 else np.concatenate(values, axis=1)


def _compare_pair(
    found: UnitMatch, study: Study, other: Study, texts: Mapping[Unit, str], other_texts: Mapping[Unit, str]
) -> UnitMatch:
    """Add how similar exemplars and descriptions of a pair are."""
    if found.unit is None or found.other is None:
        return found
    ids = study.dissections[found.unit.layer].exemplars(found.unit).ids.tolist()
    other_ids = other.dissections[found.other.layer].exemplars(found.other).ids.tolist()
    common = len(set(ids) & set(other_ids)) / max(1, len(set(ids) | set(other_ids)))
    described = found.unit in texts and found.other in other_texts
    words = compute_rouge_l(texts[found.unit], other_texts[found.other]) if described else float("nan")
    return replace(found, exemplars=common, words=words)


def _make_rows(name: str, found: Sequence[UnitMatch], study: Study, other: Study, config: MatchConfig) -> list[Row]:
    """Return a row for each layer, one for all, and the floor."""
    layers = list(dict.fromkeys(each.layer for each in found))
    rows = [_make_row(f"{name}: {layer}", [each for each in found if each.layer == layer], config) for layer in layers]
    if len(layers) > 1:
        rows.append(_make_row(f"{name}: all layers", found, config))
    return [*rows, _make_row(f"{name}: images shuffled", _match_shuffled(study, other, config), config, "floor")]


def _match_shuffled(study: Study, other: Study, config: MatchConfig) -> list[UnitMatch]:
    """Return what is matched in the first layer if the other network saw the images in another order."""
    mine, values = _load_activations(study, list(study.units)[:1], config)
    theirs, other_values = _load_activations(other, list(other.units)[:1], config)
    order = np.random.default_rng(config.seed).permutation(len(other_values))
    pairs, _, _ = match_units(values, other_values[order])
    limits = ((config.same, "same"), (config.changed, "changed"), (-2.0, "new"))
    found: list[UnitMatch] = []
    for row, column, value in pairs:
        status: Any = next(word for limit, word in limits if value >= limit)
        found.append(UnitMatch(status, mine[row], None if status == "new" else theirs[column], value))
    return found


def _make_row(name: str, found: Sequence[UnitMatch], config: MatchConfig, role: Role = "") -> Row:
    mine = [each for each in found if each.unit is not None]
    values: dict[str, Value] = {
        word: estimate_share([each.status == word for each in mine]) for word in ("same", "changed", "new")
    }
    values |= {"units": len(mine), "lost": None if role else len(found) - len(mine)}
    values["correlation"] = estimate_mean([each.correlation for each in mine], config.seed)
    if not role:
        values["exemplars"] = estimate_mean([each.exemplars for each in mine], config.seed)
        if config.describer:
            values["words"] = estimate_mean([each.words for each in mine], config.seed)
    return Row(name, values, role)


def _make_pair(name: str, found: UnitMatch, study: Study, other: Study) -> dict[str, Any]:
    """Return a pair as a row of ``pairs.csv``."""
    numbers = {part: getattr(found, part) for part in ("correlation", "exemplars", "words")}
    return {
        "network": name,
        "status": found.status,
        "target unit": str(found.unit or ""),
        "unit of the network": str(found.other or ""),
        **{part: float(f"{value:.6g}") if np.isfinite(value) else None for part, value in numbers.items()},
        "target description": _get_text(study, found.unit),
        "description in the network": _get_text(other, found.other),
    }


def _get_text(study: Study, unit: Unit | None) -> str:
    return study.texts.get(unit, "") if study.describers and unit is not None else ""


def _make_view(name: str, found: UnitMatch, study: Study, other: Study) -> dict[str, Any]:
    """Return what the page shows of a match: both units' exemplars, the target's in the first row, and texts."""
    sides = [(study, found.unit), (other, found.other)]
    pictures = [
        write_exemplar_views(one.dissections, [unit], study.out / "page")[unit].first(PICTURES_PER_ROW)
        for one, unit in sides
        if unit is not None
    ]
    rows = [
        make_text_view(
            one.target.name if one is study else name,
            f"{unit} {_get_text(one, unit)}".strip() if unit is not None else "",
            reason="no counterpart",
            score=format_score(found.correlation),
        )
        for one, unit in sides
    ]
    unit = found.unit or found.other
    assert unit is not None
    return make_unit_view(unit, found.status, "", rows) | {"pictures": pictures}
