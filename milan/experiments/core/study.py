"""One study: a target, its probe and its dissected layers, the descriptions of its units, and what a report says of
them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from milan.describers import Describer, sources_of
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.experiments.core.config import DissectionOptions, TargetConfig
from milan.experiments.core.evaluated_describers import EvaluatedDescriber, load_evaluated_describer, run_describer
from milan.experiments.core.report import Report, Table
from milan.probes import Probe, load_probe
from milan.results.catalogue import OK
from milan.storage.files import lock_folder
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.targets.unit_selection import default_out, get_default_probe, select_units
from milan.units import Unit


@dataclass
class Study:
    """A target that is dissected on a probe and described, in a folder of its own.

    Dissection and descriptions are resumable: what an earlier run into the same folder has finished is not repeated.

    Attributes:
        target: the network under study.
        probe: the images that it is dissected on.
        out: the folder of all results.
        dissection: which units are dissected, and how.
        name: the experiment's name.
        seed: the random seed of the experiment.
        device: where describers run.
        limit: how many images of each probe are used; None for all.
        probe_spec: the spec of the whole probe, of which ``probe`` may be a split.
        describers: those that have described the units, in order.
    """

    target: Target
    probe: Probe
    out: Path
    dissection: DissectionOptions = field(default_factory=DissectionOptions)
    name: str = ""
    seed: int = 0
    device: str = "cpu"
    limit: int | None = None
    probe_spec: str = ""
    describers: list[EvaluatedDescriber] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(
        cls, config: TargetConfig, dissection: DissectionOptions | None = None, split: str = ""
    ) -> Iterator["Study"]:
        """Load target and probe, and hold the folder of results for this process alone.

        Args:
            dissection: which units are dissected; by default as ``config`` says.
            split: the split of the probe to dissect on, such as "learn"; empty for the whole probe.

        Raises:
            MilanError: the target or the probe cannot be loaded, or another process uses the folder.
        """
        target = load_target(config.target, weights=config.weights, device=config.device, **config.target_options.given)
        spec = config.probe or get_default_probe(target)
        probe = load_probe(f"{spec}@{split}" if split else spec, target=target, limit=config.limit)
        out = config.out or default_out(config.experiment.replace("_", "-"), target)
        if dissection is None:
            dissection = config if isinstance(config, DissectionOptions) else DissectionOptions()
        run = {"name": config.experiment, "seed": config.seed, "device": config.device, "limit": config.limit}
        with lock_folder(out):
            yield cls(target, probe, out, dissection, probe_spec=spec, **run)  # type: ignore[arg-type]

    def load_probe(self, spec: str = "", split: str = "") -> Probe:
        """Load further images for the target: those of a spec, or else of a split of the study's probe."""
        return load_probe(spec or f"{self.probe_spec}@{split}", target=self.target, limit=self.limit)

    @cached_property
    def units(self) -> dict[str, list[Unit]]:
        """The selected units of each layer."""
        selected = select_units(self.target, self.dissection.layers or (), self.dissection.units)
        return {layer: [Unit(layer, index) for index in indices] for layer, indices in selected.items()}

    @cached_property
    def dissections(self) -> dict[str, Dissection]:
        """The dissections of the selected layers, by layer."""
        options = {name: getattr(self.dissection, name) for name in ("k", "quantile", "rank_by")}
        return self.dissect_on(self.probe, "dissection", **options)

    def dissect_on(self, probe: Probe, name: str, **options: Any) -> dict[str, Dissection]:
        """Dissect the selected layers on other images, into a folder of that name, with options of ``dissect``."""
        return dissect(self.target, probe, list(self.units), self.out / name, **options)

    def describe(self, *specs: str | EvaluatedDescriber) -> list[EvaluatedDescriber]:
        """Describe the selected units with each describer; all are loaded before the first image is read.

        Args:
            specs: names, files of options or tables of descriptions (see ``load_evaluated_describer``), or describers
                that are loaded already.
        """
        loaded = [
            load_evaluated_describer(spec, self.target, self.probe, self.device) if isinstance(spec, str) else spec
            for spec in specs
        ]
        for each in loaded:
            run_describer(each, self.dissections, self.units, self.out / "describers" / each.name)
        # Not in place: copies of a study share the list.
        self.describers = [*self.describers, *loaded]
        return loaded

    @property
    def evaluated(self) -> EvaluatedDescriber:
        """The first describer: the only one of most experiments."""
        return self.describers[0]

    @property
    def texts(self) -> dict[Unit, str]:
        """The first describer's description of each unit that it described, in the order of layers and units."""
        return self.evaluated.texts

    @property
    def described_units(self) -> dict[str, list[Unit]]:
        """The units that the first describer described, by layer, without layers that have none."""
        found: dict[str, list[Unit]] = {}
        for unit in self.texts:
            found.setdefault(unit.layer, []).append(unit)
        return found

    @property
    def active_units(self) -> list[Unit]:
        """The selected units that are not dead, described or not."""
        return [
            unit for layer, units in self.units.items() for unit in units if self.dissections[layer].status[unit] == OK
        ]

    def find_units_mentioning(self, words: Iterable[str]) -> list[Unit]:
        """Return the units whose description has one of the words."""
        return [unit for unit, text in self.texts.items() if mentions(text, words)]

    def sources_with(self, describers: Mapping[str, Describer] | None = None) -> dict[str, str]:
        """Return what the dissections, the descriptions and further describers were made from, by role."""
        owners = {each.name: each.describer for each in self.describers}
        return sources_of(self.dissections.values(), owners | dict(describers or {}))

    @property
    def facts(self) -> dict[str, Any]:
        """What another run needs for the same descriptions."""
        facts: dict[str, Any] = {
            "target": self.target.name,
            "weights": self.target.weights,
            "probe": self.probe.spec,
            "seed": self.seed,
            "device": str(self.target.device),
        }
        if not self.describers:
            return facts
        first = next(iter(self.dissections.values()))
        return facts | {
            "images": len(first.activations("max", first.units[:1])),
            "layers": list(self.dissections),
            "units": sum(map(len, self.units.values())),
            "k": first.k,
            "quantile": first.quantile,
            "describers": {
                each.name: {name: str(value) for name, value in each.describer.settings.items()}
                for each in self.describers
            },
            "hashes": {layer: one.key for layer, one in self.dissections.items()}
            | {each.name: each.describer.key for each in self.describers},
        }

    def report(self, title: str, lede: str, tables: Sequence[Table], **parts: Any) -> Report:
        """Return the experiment's report, with the study's facts and sources.

        Args:
            parts: further attributes of ``Report``; ``facts`` and ``sources`` are added to those of the study.
        """
        facts = self.facts | dict(parts.pop("facts", {}))
        own = self.sources_with() if self.describers else {"target": self.target.spec, "probe": self.probe.spec}
        sources: Mapping[str, str] = own | dict(parts.pop("sources", {}))
        return Report(self.name, title, lede, tuple(tables), facts=facts, sources=sources, **parts)


def mentions(text: str, words: Iterable[str]) -> bool:
    """Return whether a text has one of the words, as a whole word in any case.

    The code of 2022 searched for parts of words, so that "textured" counted as text.

    >>> mentions("Textured signs", ["text"]), mentions("the TEXT on signs", ["word", "text"])
    (False, True)
    """
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)
