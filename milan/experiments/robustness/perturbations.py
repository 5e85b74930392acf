"""The perturbations: one thing that changes, with the dissections and the describer that there are then."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from milan.describers import Describer
from milan.dissection.dissection import Dissection
from milan.dissection.top_k_view import TopKView
from milan.errors import BadInput, MissingEvidence
from milan.experiments.core.evaluated_describers import EvaluatedDescriber, load_evaluated_describer, run_describer
from milan.experiments.core.study import Study
from milan.experiments.robustness.config import RobustnessConfig
from milan.probes import Probe
from milan.units import Unit

DEFAULT_KS, DEFAULT_QUANTILES, DEFAULT_SEEDS = (5, 10, 30), (0.98, 0.995), (1, 2)
DEFAULT_ETAS = (0.05, 0.15, 0.2)
UNCHANGED = "unchanged"
Number = int | float


@dataclass(frozen=True)
class Perturbation:
    """One thing that changes.

    Attributes:
        kind: "again" (nothing changes), "images", "k", "quantile", "seed", or the name of a setting; empty for the
            unchanged study.
        value: of k, the quantile, the seed or the setting.
    """

    name: str
    kind: str
    describer: Describer
    dissections: Mapping[str, Dissection]
    value: Number = math.nan


class Perturbations:
    """All perturbations of a study, the first of which is none.

    Attributes:
        dissections: those of the unchanged study, which show k exemplars.
        refusals: why the describer could not describe under a perturbation.
    """

    def __init__(self, study: Study, config: RobustnessConfig):
        self.study, self.config = study, config
        self.describer = load_evaluated_describer(config.describer, study.target, study.probe, config.device).describer
        self.refusals: list[str] = []
        # Fewer exemplars than the most that are dissected are shown from the same dissection.
        self._ks = [each for each in (DEFAULT_KS if config.ks is None else config.ks) if each != config.k]
        self.dissections = self._dissect("plain", study.probe, config.quantile)
        self.all = self._list()

    def describe(self, perturbation: Perturbation) -> dict[Unit, str]:
        """Return the texts under a perturbation; none, and a refusal, if the describer lacks evidence."""
        evaluated = EvaluatedDescriber(perturbation.name, perturbation.describer)
        folder = self.study.out / "described" / _to_file_name(perturbation.name)
        try:
            run_describer(evaluated, perturbation.dissections, self.study.units, folder)
        except MissingEvidence as reason:
            self.refusals.append(f"{perturbation.name}: {reason}")
        return evaluated.texts

    def _list(self) -> list[Perturbation]:
        config, same, settings = self.config, self.describer, self.describer.settings
        perturbations = [
            Perturbation(UNCHANGED, "", same, self.dissections),
            Perturbation("again", "again", same, self.dissections),
        ]
        for name, probe in {**self._sample_halves(), **self._load_other_probes()}.items():
            dissections = self._dissect(_to_file_name(name), probe, config.quantile)
            perturbations.append(Perturbation(name, "images", same, dissections))
        for k in self._ks:
            views: dict[str, Dissection] = {
                layer: TopKView(unwrap_view(one), k) for layer, one in self.dissections.items()
            }
            perturbations.append(Perturbation(f"k {k}", "k", same, views, k))
        for quantile in DEFAULT_QUANTILES if config.quantiles is None else config.quantiles:
            dissections = self._dissect(f"quantile-{quantile}", self.study.probe, quantile)
            perturbations.append(Perturbation(f"quantile {quantile}", "quantile", same, dissections, quantile))
        seeds = DEFAULT_SEEDS if config.seeds is None else config.seeds
        values: dict[str, Sequence[Number]] = {}
        if "seed" in settings:
            values["seed"] = [each for each in seeds if each != settings["seed"]]
        if config.setting_values is not None:
            values |= config.setting_values
        elif "eta" in settings:
            values["eta"] = DEFAULT_ETAS
        for name, numbers in values.items():
            perturbations += [
                Perturbation(f"{name} {each:g}", name, self._change_setting(name, each), self.dissections, each)
                for each in numbers
            ]
        return perturbations

    def _dissect(self, name: str, probe: Probe, quantile: Number) -> dict[str, Dissection]:
        """Dissect the units on some images, and show k exemplars."""
        units = {layer: [unit.index for unit in units] for layer, units in self.study.units.items()}
        most = max([self.config.k, *self._ks])
        dissections = self.study.dissect_on(
            probe, f"dissections/{name}", k=most, quantile=quantile, rank_by=self.config.rank_by, units=units
        )
        return {layer: TopKView(one, min(self.config.k, one.k)) for layer, one in dissections.items()}

    def _sample_halves(self) -> dict[str, Probe]:
        """Sample halves of the probe. Labels that are found by the probe's name are not those of a half, which
        therefore has no name.
        """
        probe, halves = self.study.probe, {}
        for number in range(self.config.probe_halves):
            order = np.random.default_rng([self.config.seed, number]).permutation(len(probe))
            half = probe.subset(sorted(order[: len(order) // 2].tolist()))
            half.spec = ""
            halves[f"half {number + 1}"] = half
        return halves

    def _load_other_probes(self) -> dict[str, Probe]:
        names, spec = self.config.other_probes, self.study.probe_spec
        if names is None:
            names = [f"{spec}@judge"] if spec.startswith("diorama:") and "@" not in spec else []
        return {name: self.study.load_probe(name) for name in names}

    def _change_setting(self, name: str, value: Number) -> Describer:
        """Return the describer with another value of one of its settings.

        Raises:
            BadInput: it has no such setting.
        """
        settings = self.describer.settings
        if name not in settings:
            raise BadInput(f"{self.describer.name} has no setting {name!r}; it has {', '.join(settings)}")
        kind = type(settings[name])
        return type(self.describer)(**settings | {name: kind(value) if kind in (int, float) else value})


def unwrap_view(dissection: Dissection) -> Dissection:
    """Return the dissection of which a view shows fewer exemplars."""
    return dissection.inner if isinstance(dissection, TopKView) else dissection


def _to_file_name(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")
