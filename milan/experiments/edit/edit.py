"""Spurious features: units described as detecting text are removed from a network that relies on it (Hernandez et al.
2022, section 7).
"""

from dataclasses import replace
from pathlib import Path

from milan.experiments.core.report import Report
from milan.experiments.core.study import Study
from milan.experiments.edit.config import EditConfig
from milan.experiments.edit.spurious_networks import SpuriousNetwork, build_networks, load_diorama_networks
from milan.experiments.edit.tables import make_report
from milan.experiments.edit.unit_removal import make_unit_views, measure_removal
from milan.results.page import write_exemplar_views
from milan.storage.files import lock_folder
from milan.targets.dictionary_files import load_dictionary
from milan.targets.preprocessing import TargetOptions
from milan.targets.unit_selection import get_default_layers


def edit(config: EditConfig) -> Report:
    """Remove text units one by one, and measure the accuracy on images with misleading text.

    Raises:
        BadInput: no description mentions text, or the images have no classes.
    """
    out = config.out or Path("runs") / "edit"
    with lock_folder(out):
        is_diorama = config.images == "diorama:objects"
        network = load_diorama_networks(config) if is_diorama else build_networks(config, out)
        if config.target_options.dictionary:
            network = _with_dictionary(network, config.target_options)
        dissection = replace(config, layers=config.layers or list(network.layers) or None)
        run = config.experiment, config.seed, config.device
        study = Study(network.target, network.dissection_images, out, dissection, *run)
        study.describe(config.describer)
        result = measure_removal(network, study, config)
        report = make_report(result)
        views = write_exemplar_views(study.dissections, result.text_units, out / "page")
        report.write(out, [view | {"pictures": [views.get(unit)]} for unit, view in make_unit_views(result)])
    return report


def _with_dictionary(network: SpuriousNetwork, options: TargetOptions) -> SpuriousNetwork:
    """Return the networks with the latents of a dictionary as the layer to dissect by default."""
    target = network.target
    # A target of one's own is loaded with it.
    if not target.dictionaries:
        target = target.with_dictionary(load_dictionary(options.dictionary or ""), options.dictionary_layer or "")
    return replace(network, target=target, layers=get_default_layers(target))
