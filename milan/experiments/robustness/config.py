"""Options of the robustness experiment."""

from dataclasses import dataclass

from milan.experiments.core.config import DissectedTargetConfig


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig(DissectedTargetConfig):
    """Count the descriptions that change with images, seed, k, quantile, or a setting of the describer.

    Attributes:
        describer: The describer: a name, NAME:KEY=VALUE,..., a file of
            options, or a table of descriptions.
        embedder: The image-text model whose text encoder measures how similar descriptions are.
        other_probes: Further images to dissect the units on. By default PROBE@judge if the probe is Diorama's.
        probe_halves: The number of random halves of the probe to dissect the units on.
        ks: The numbers of exemplars to compare with k. By default 5, 10 and 30.
        quantiles: The quantiles to compare with the quantile. By default 0.98 and 0.995.
        seeds: The seeds to compare with the describer's own, if it has one. By default 1 and 2.
        setting_values: Settings of the describer and the values to compare, as '{"eta":[0.05,0.15]}'. By default 0.05,
            0.15 and 0.2 for a describer with the setting eta.
    """

    describer: str = "sand"
    embedder: str = "diorama"
    other_probes: list[str] | None = None
    probe_halves: int = 2
    ks: list[int] | None = None
    quantiles: list[float] | None = None
    seeds: list[int] | None = None
    setting_values: dict[str, list[float]] | None = None
