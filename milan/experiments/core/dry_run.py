"""What an experiment would use and download, without running it."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from milan.describers import load_describer
from milan.describers._shared.describer_specs import AUTO, parse_spec, resolve_settings
from milan.experiments.core.config import ReportConfig
from milan.experiments.core.early_checks import DESCRIBERS, IMAGES, NO_FILES, TARGETS, WEIGHTS, list_values
from milan.pretrained.published_models import MissingModel, ModelFacts, find_missing_model
from milan.storage.hub_access import assume_unreachable

# Options of experiments by what they name.
MODELS = ("embedder", "vectors", "simulator", "sentence_encoder", "encoder")
LANGUAGE = "language"


def format_plan(config: ReportConfig) -> str:
    """Return what an experiment would use, and what of it would be downloaded, for people.

    Raises:
        MilanError: a describer or one of its settings is unknown.
    """
    targets, describers, images = (list_values(config, names) for names in (TARGETS, DESCRIBERS, IMAGES))
    with assume_unreachable():
        missing = [str(each) for each in _find_missing(config, targets, describers, images)]
    rows = [("experiment", [config.experiment]), ("targets", targets), ("describers", describers)]
    rows += [("images", [_format_images(spec) for spec in images])]
    rows += [("to download", list(dict.fromkeys(missing)) or ["nothing"])]
    lines = [f"{name if not number else '':12} {text}" for name, texts in rows for number, text in enumerate(texts)]
    return "\n".join([*lines, "", "nothing was downloaded or written (--dry_run)"])


def _find_missing(
    config: ReportConfig, targets: Sequence[str], describers: Sequence[str], images: Sequence[str]
) -> Iterator[MissingModel]:
    weights = bool(list_values(config, WEIGHTS))
    for spec in targets:
        # Files of weights take the place of downloaded ones; with several targets each may have its own.
        if not weights or len(targets) > 1:
            yield from _find_missing_weights(spec)
    sources = (targets[0] if targets else "", images[0] if images else "")
    for spec in describers:
        yield from _find_missing_models(spec, sources)
    for name in MODELS:
        for spec in list_values(config, (name,)):
            missing = find_missing_model(name, spec)
            yield from [missing] if missing else []
    for pipeline in list_values(config, (LANGUAGE,)):
        if pipeline.startswith("en_core") and importlib.util.find_spec(pipeline) is None:
            hint = f"python -m spacy download {pipeline}"
            yield MissingModel("spaCy pipeline", pipeline, hint=hint)


def _find_missing_models(spec: str, sources: tuple[str, str]) -> list[MissingModel]:
    """Return the models of a describer that would be downloaded, with the settings that suit target and images."""
    if spec == AUTO:
        return []
    parsed = parse_spec(spec)
    settings: dict[str, Any] = resolve_settings(parsed.name, parsed.settings, sources)
    return load_describer(parsed.name, **settings).find_missing_models()


def _find_missing_weights(spec: str) -> list[MissingModel]:
    """Return the weights of a target that its library would download."""
    family, _, name = spec.partition(":")
    found = None
    if family == "torchvision":
        found = _find_missing_torchvision(spec, name)
    elif family == "timm":
        import timm

        published = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        found = find_missing_model("weights", f"hf:{published.hf_hub_id}") if published else None
    elif family == "hf":
        found = find_missing_model("weights", spec)
    return [found] if found else []


def _find_missing_torchvision(spec: str, name: str) -> MissingModel | None:
    import torch
    from torchvision.models import get_model_weights

    weights = getattr(get_model_weights(name), "DEFAULT", None)
    if weights is None:
        return None
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    facts = ModelFacts(f"about {weights.meta['_file_size']:.0f} MB")
    return None if cached.is_file() else MissingModel("weights", spec, weights.url, str(cached), facts)


def _format_images(spec: str) -> str:
    if spec.partition(":")[0] in NO_FILES or Path(spec.partition("@")[0]).expanduser().exists():
        return spec
    return f"{spec} (no such folder or file)"
