"""Describe the neurons of vision networks in natural language.

Names are imported on first use, so that ``import milan`` and each ``--help`` are fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from milan.storage.version import __version__

_HOMES = {
    "Unit": "milan.units",
    "Exemplars": "milan.units",
    "Description": "milan.units",
    "Candidate": "milan.units",
    "Target": "milan.targets.target",
    "load_target": "milan.targets.loading",
    "GeneratorTarget": "milan.targets.generator_target",
    "Dictionary": "milan.targets.dictionary",
    "load_dictionary": "milan.targets.dictionary_files",
    "Latents": "milan.targets.latents",
    "Preprocessing": "milan.targets.preprocessing",
    "Probe": "milan.probes",
    "load_probe": "milan.probes",
    "dissect": "milan.dissection.dissect",
    "Dissection": "milan.dissection.dissection",
    "load_dissection": "milan.dissection.loading",
    "record": "milan.targets.hooks",
    "ablate": "milan.targets.hooks",
    "steer": "milan.targets.hooks",
    "recorded": "milan.targets.hooks",
    "ablated": "milan.targets.hooks",
    "Describer": "milan.describers",
    "load_describer": "milan.describers",
    "check_describer": "milan.describers",
    "DescriptionFailure": "milan.describers",
    "select_active": "milan.describers",
    "Milan": "milan.describers.milan",
    "BestConcept": "milan.describers.best_concept",
    "Catalogue": "milan.results.catalogue",
    "read_descriptions": "milan.results.catalogue",
    "describe": "milan.cli.describe",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from milan.cli.describe import describe
    from milan.describers import Describer, DescriptionFailure, check_describer, load_describer, select_active
    from milan.describers.best_concept import BestConcept
    from milan.describers.milan import Milan
    from milan.dissection.dissect import dissect
    from milan.dissection.dissection import Dissection
    from milan.dissection.loading import load_dissection
    from milan.probes import Probe, load_probe
    from milan.results.catalogue import Catalogue, read_descriptions
    from milan.targets.dictionary import Dictionary
    from milan.targets.dictionary_files import load_dictionary
    from milan.targets.generator_target import GeneratorTarget
    from milan.targets.hooks import ablate, ablated, record, recorded, steer
    from milan.targets.latents import Latents
    from milan.targets.loading import load_target
    from milan.targets.preprocessing import Preprocessing
    from milan.targets.target import Target
    from milan.units import Candidate, Description, Exemplars, Unit


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'milan' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
