"""Print what describe.py would do, and what it has done."""

import math
import time
import warnings
from collections.abc import Iterator
from itertools import groupby, islice

from rich.table import Table
from torch import Tensor

from milan.cli.describe_run import DescribeRun
from milan.console.command_line import terminal
from milan.console.text_cleaning import escape_markup
from milan.dissection.determinism import examine
from milan.errors import MilanWarning
from milan.results.catalogue import Catalogue, Entry
from milan.storage.provenance import sources_note
from milan.targets.dictionary_quality import format_quality, measure_dictionaries
from milan.targets.hooks import recorded
from milan.targets.preprocessing import pixel_count, size_text

PRINTED_UNITS = 15  # units in the table that is printed
WIDTH = 160  # columns of what is printed where there is no terminal
SHEET_BYTES = 45_000  # of 15 photographs, found on ImageNet


def print_result(catalogue: Catalogue, out: "str | object") -> None:
    """Print a table of the best described units of each layer, where their words come from, and the output files."""
    console = terminal(WIDTH)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("unit", style="cyan", overflow="fold")
    table.add_column("score", style="dim", justify="right")
    table.add_column("description", overflow="fold")
    for entry in select_best_entries(catalogue, PRINTED_UNITS):
        description = entry.description
        table.add_row(
            escape_markup(str(entry.unit)),
            f"{description.score:.2f}" if description else "",
            escape_markup(description.text if description else entry.status),
        )
    console.print(table)
    console.print()
    counts = ", ".join(f"{count} {status}" for status, count in catalogue.counts.items() if status != "ok")
    shown = min(PRINTED_UNITS, len(catalogue.descriptions))
    console.print(
        f"{len(catalogue.descriptions)} of {len(catalogue)} units described{counts and f' ({counts})'}; {shown} of them"
        " above"
    )
    if made_from := sources_note(catalogue.facts.get("sources") or {}):
        console.print(f"[dim]{escape_markup(made_from)}[/]", soft_wrap=True)
    if note := catalogue.facts.get("simulated"):
        console.print(f"[dim]{escape_markup(str(note))}[/]", soft_wrap=True)
    for name, file in (("table", "descriptions.csv"), ("page", "page/index.html")):
        console.print(f"{name:5}  {escape_markup(f'{out}/{file}')}", soft_wrap=True)


def select_best_entries(catalogue: Catalogue, count: int) -> list[Entry]:
    """Return the entries with the best descriptions, the same number for each layer, by layer and score."""
    layers = [
        sorted(entries, key=_entry_score, reverse=True)
        for _, entries in groupby(catalogue.entries, key=lambda entry: entry.unit.layer)
    ]
    layers = [[entry for entry in layer if entry.description is not None] for layer in layers]
    each = max(1, count // max(1, len(layers)))
    return [entry for layer in layers for entry in layer[:each]][:count]


def _entry_score(entry: Entry) -> float:
    return entry.description.score if entry.description is not None else -math.inf


def print_plan(plan: DescribeRun) -> None:
    """Print what a run would do and its estimated cost, for which the target is run on a few images; write nothing."""
    for fault in examine(plan.target, plan.layers, plan.probe.size).faults.values():
        warnings.warn(fault, MilanWarning, stacklevel=2)
    console = terminal(WIDTH)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("layer", "units", "asked for", "map"):
        table.add_column(name, justify="left" if name == "layer" else "right", overflow="fold")
    for name, chosen in plan.units.items():
        layer = plan.target.layer(name)
        table.add_row(escape_markup(name), str(layer.units), str(len(chosen)), f"{layer.grid[0]} x {layer.grid[1]}")
    console.print(table)
    console.print()
    units = sum(map(len, plan.units.values()))
    for name, text in (
        ("target", str(plan.target)),
        ("images", plan.probe.preprocessing.geometry_text),
        (
            "probe",
            f"{plan.probe.spec or plan.probe.name}, {len(plan.probe):,} images of {size_text(plan.probe.size)} pixels",
        ),
        ("describe", f"{units:,} units by {plan.describer.name}{plan.reason and f' ({plan.reason})'}"),
        ("models", sources_note(plan.describer.planned_sources()) or "none"),
        *_describe_dictionaries(plan),
        *_describe_requests(plan, units),
        ("disk", f"about {_estimate_bytes(plan) / 2**20:,.0f} MiB in {plan.out}"),
        (
            "time",
            (
                f"about {_estimate_seconds(plan) / 60:.1f} minutes to dissect on {plan.target.device}; then the"
                " describer's own"
            ),
        ),
        (
            "kept",
            (
                "an earlier run is there: what fits this one is not done again"
                if (plan.out / "journal.sqlite").exists()
                else "nothing from before"
            ),
        ),
    ):
        console.print(f"{name:9} {escape_markup(text)}", soft_wrap=True)
    console.print("\nnothing was written (--dry_run)")


def _describe_dictionaries(plan: DescribeRun) -> list[tuple[str, str]]:
    """Return a line on the quality of each dictionary on the first images."""
    qualities = measure_dictionaries(plan.target, plan.layers, plan.probe.inputs(8))
    return [("sae", f"{layer}: {format_quality(quality)}") for layer, quality in qualities.items()]


def _describe_requests(plan: DescribeRun, units: int) -> list[tuple[str, str]]:
    """Return a line on what the describer sends to an endpoint; none if it has none."""
    text = plan.describer.estimate_requests(plan.probe, units, plan.dissection_options.get("k", 15))
    url = plan.describer.image_endpoint()
    return [("send", text or f"images to {url}")] if text or url else []


def _estimate_bytes(plan: DescribeRun) -> int:
    """Return an upper bound of the size of the dissection and the page."""
    k = min(plan.dissection_options.get("k", 15), len(plan.probe))
    layers = [plan.target.layer(name) for name in plan.layers]
    found = sum(layer.units * (k * layer.grid[0] * layer.grid[1] + 2 * len(plan.probe)) * 4 for layer in layers)
    images = min(len(plan.probe), sum(layer.units for layer in layers) * k) * 3 * pixel_count(plan.probe.size)
    return found + images + sum(map(len, plan.units.values())) * SHEET_BYTES * k // 15


def _estimate_seconds(plan: DescribeRun) -> float:
    """Return the time to dissect all images, from the time for a few, decoding included."""

    def nothing(layer: str, maps: Tensor, cls: Tensor | None) -> None: ...

    start, seen = time.monotonic(), 0
    with recorded(plan.target, plan.layers, nothing) as look:
        for ids, images in _iter_few_batches(plan):
            look(plan.target.make_input(ids, images))
            seen += len(ids)
    return (time.monotonic() - start) / max(1, seen) * len(plan.probe)


def _iter_few_batches(plan: DescribeRun) -> Iterator[tuple[Tensor, Tensor]]:
    return islice(plan.probe.inputs(8, 0, 16), 2)
