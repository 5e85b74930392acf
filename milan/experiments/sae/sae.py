"""Train a top-k sparse autoencoder on a layer of a target, and measure how well it represents held-out images."""

import shlex
from typing import Any

import numpy as np
import torch

from milan.errors import BadInput
from milan.experiments.core.report import Column, Report, Row, Table, Value
from milan.experiments.core.study import Study
from milan.experiments.sae.activation_files import ActivationVectors, ImageRows, store_activations
from milan.experiments.sae.autoencoder import build_autoencoder, make_dictionary, train_autoencoder
from milan.experiments.sae.config import SaeConfig
from milan.scores.bootstrap import bootstrap_mean, bootstrap_pooled
from milan.scores.confidence_intervals import estimate_share
from milan.targets.dictionary import Dictionary
from milan.targets.dictionary_layers import DictionaryLayer
from milan.targets.layers import Layer
from milan.targets.saelens_formats import write_saelens

HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 1000
# Codes held at a time in evaluation (64 MiB).
_MAX_CODES = 2**24
COLUMNS = (
    Column(
        "explained variance", "1 minus the squared error divided by the variance of the activations.", "", 3, "more"
    ),
    Column("active", "Mean number of active latents per place (L0).", "", 1),
    Column("dead", "Share of the latents that are active at none of the places.", "%", 1, "less"),
    Column("images", "Number of images."),
)
NOTES = (
    "Intervals are 95% intervals: bootstrap intervals over images, Wilson's of shares.",
    "Untrained: random directions, with which training began.",
    "The held-out images are the last of the probe, and were not trained on.",
)


def sae(config: SaeConfig) -> Report:
    """Train the autoencoder, save it in the format of SAELens in the output folder, and evaluate it.

    Raises:
        BadInput: an option is out of range, the layer consists of latents, or the probe has fewer than two images.
    """
    _check_options(config)
    with Study.open(config) as study:
        layer = study.target.layer(config.layer)
        if isinstance(layer, DictionaryLayer):
            raise BadInput(f"{layer.name} consists of the latents of a dictionary; name a layer of the network")
        if config.top_k > config.expansion * layer.units:
            latents = config.expansion * layer.units
            raise BadInput(f"top_k is {config.top_k} and there are {latents} latents; give --top_k {latents} or less")
        training, held_out = _store_vectors(study, layer, config)
        weights = train_autoencoder(training, config, study.out / "training")
        named: dict[str, Any] = {"model": study.target.name, "hook_point": layer.name, "k": config.top_k}
        trained = make_dictionary(weights, name=study.out.name, **named)
        write_saelens(trained, study.out)
        untrained = make_dictionary(build_autoencoder(training, config).export(), k=config.top_k)
        table = _make_table(config, trained, untrained, training, held_out)
        report = study.report(
            f"{study.target.name}, {layer.name}",
            f"A top-k autoencoder of {trained.latents:,} latents of a layer of {layer.units:,} units, trained on"
            f" {len(training):,} activation vectors.",
            [table],
            notes=(*NOTES, f"Describe its latents with: {_format_command(study, config)}"),
            facts={"layer": layer.name, "latents": trained.latents, "stored": len(training), **_options(config)},
        )
        report.write(study.out)
    return report


def _check_options(config: SaeConfig) -> None:
    for name, value in _options(config).items():
        if value <= 0:
            raise BadInput(f"{name} is {value}; it must be positive")


def _options(config: SaeConfig) -> dict[str, int | float]:
    names = ("expansion", "top_k", "vectors", "updates", "batch_size", "learning_rate")
    return {name: getattr(config, name) for name in names}


def _store_vectors(study: Study, layer: Layer, config: SaeConfig) -> tuple[ActivationVectors, ActivationVectors]:
    """Store the activation vectors of the training images and of the held-out images."""
    count = len(study.probe)
    if count < 2:
        raise BadInput(f"{study.probe.spec} has {count} image; give two or more, since a tenth is held out")
    split = count - min(MAX_HELD_OUT, max(1, int(count * HELD_OUT_SHARE)))
    training, held_out = (
        store_activations(
            study.target, study.probe, layer, first, stop,
            most=config.vectors, seed=config.seed, folder=study.out / "activations",
        )
        for first, stop in ((0, split), (split, count))
    )  # fmt: skip
    return training, held_out


def _make_table(
    config: SaeConfig,
    trained: Dictionary,
    untrained: Dictionary,
    training: ActivationVectors,
    held_out: ActivationVectors,
) -> Table:
    images = held_out.images(MAX_HELD_OUT)
    rows = (
        Row("held-out images", _evaluate(trained, images, config)),
        Row("training images", _evaluate(trained, training.images(MAX_HELD_OUT), config)),
        Row("untrained, held-out images", _evaluate(untrained, images, config), "floor"),
    )
    return Table("quality", COLUMNS, rows, "measured on")


@torch.inference_mode()
def _evaluate(dictionary: Dictionary, images: ImageRows, config: SaeConfig) -> dict[str, Value]:
    """Return the values of ``COLUMNS`` for the activation vectors of some images."""
    dictionary = dictionary.to(config.device)
    mean = torch.tensor(images.mean((0, 1), dtype=np.float64), device=config.device)
    active = torch.zeros(dictionary.latents, dtype=torch.bool, device=config.device)
    sums: dict[str, tuple[float, float]] = {}
    counts: dict[str, float] = {}
    step = max(1, _MAX_CODES // (images.shape[1] * dictionary.latents))
    for start in range(0, len(images), step):
        vectors = torch.tensor(images[start : start + step], device=config.device)
        codes = dictionary.encode(vectors)
        active |= (codes != 0).any(0).any(0)
        errors = (vectors - dictionary.decode(codes)).double().square().sum((1, 2))
        variances = (vectors - mean).square().sum((1, 2))
        for number, each in enumerate(zip(errors.tolist(), variances.tolist(), strict=True), start):
            sums[str(number)] = each
        counts |= {str(at): value for at, value in enumerate((codes != 0).sum(-1).double().mean(1).tolist(), start)}
    return {
        "explained variance": bootstrap_pooled([sums], _explained_variance, config.seed),
        "active": bootstrap_mean([counts], config.seed),
        "dead": estimate_share((~active).tolist()),
        "images": len(images),
    }


def _explained_variance(sums: np.ndarray) -> np.ndarray:
    errors, variances = sums.T
    return 1 - np.divide(errors, variances, out=np.full(len(sums), np.nan), where=variances > 0)


def _format_command(study: Study, config: SaeConfig) -> str:
    given = {name: value for name, value in config.target_options.given.items() if name != "dictionary_layer"}
    options = {"target": config.target, "weights": config.weights, "probe": config.probe, "dictionary": study.out}
    words = ["python", "describe.py"]
    for name, value in ({**options, **given} | options).items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)
