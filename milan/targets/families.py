"""One function per family of networks, which loads a network by name, with its preprocessing."""

import inspect
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from milan.errors import BadInput, MilanError, MilanWarning, UnknownName
from milan.storage.file_kinds import check_model_folder
from milan.storage.hub_access import (
    find_cached_if_offline,
    format_error_line,
    is_reachable,
    make_unreachable_error,
    quiet,
)
from milan.storage.model_places import resolve_model
from milan.targets.checkpoints import Weights, read_weights
from milan.targets.latents import Latents
from milan.targets.library_preprocessing import processor_preprocessing, timm_preprocessing, torchvision_preprocessing
from milan.targets.library_transforms import KnownPreprocessing
from milan.targets.preprocessing import Preprocessing
from milan.targets.target_specs import check_network_name
from milan.targets.weight_files import infer_class_count, load_weights_into, match_weight_names
from milan.targets.weight_source import LoadedNetwork, WeightSource


def load_torchvision(name: str, source: WeightSource) -> LoadedNetwork:
    """Load a network of ``torchvision.models``; torchvision downloads and checks its pretrained weights."""
    from torchvision import models

    check_network_name("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    published = getattr(models.get_model_weights(name), "DEFAULT", None)
    tensors = _load_published_weights(name, published) if source.pretrained else source.tensors
    model = _build_network(
        builder, _builder_options(builder, tensors), tensors, str(source.path or f"torchvision:{name}")
    )
    return LoadedNetwork(model, torchvision_preprocessing(model, published))


def _builder_options(builder: Any, tensors: Weights) -> dict[str, Any]:
    """Return options of builders whose defaults do not fit the published weights, as GoogLeNet and Inception."""
    known = inspect.signature(inspect.unwrap(builder)).parameters
    # Auxiliary heads serve training only.
    auxiliary = any("aux" in key.lower() for key in tensors)
    wanted = {"weights": None, "weights_backbone": None, "transform_input": True, "init_weights": False}
    wanted |= {"aux_logits": auxiliary, "aux_loss": auxiliary}
    inception = builder.__name__ in ("googlenet", "inception_v3")
    return {
        key: value
        for key, value in wanted.items()
        if key in known or (inception and key not in ("weights_backbone", "aux_loss"))
    }


def _load_published_weights(name: str, published: Any) -> Weights:
    """Return torchvision's pretrained weights from its cache, or let it download them."""
    if published is None:
        raise BadInput(f"torchvision has no pretrained weights of {name}; give --weights FILE (or --weights random)")
    cached = _torch_cache_path(published.url)
    if cached.is_file():
        return read_weights(cached)
    if not is_reachable(published.url):
        raise make_unreachable_error(f"torchvision:{name}", published.url, cached)
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError) as error:
        reason = f"could not be downloaded from {published.url}: {format_error_line(error)}"
        raise BadInput(f"the weights of torchvision:{name} {reason}") from error


def _build_network(build: Any, options: dict[str, Any], tensors: Weights, origin: str) -> nn.Module:
    """Build a network with weights and with as many classes as they have; without weights, with random ones."""
    model: nn.Module = build(**options)
    if tensors:
        classes = infer_class_count(tensors, model)
        model = build(**options, num_classes=classes) if classes is not None else model
        load_weights_into(model, tensors, origin)
    return model


def load_timm(name: str, source: WeightSource) -> LoadedNetwork:
    """Load a network of timm, by NAME, NAME.TAG, hf_hub:ID or local-dir:FOLDER, with its data configuration."""
    try:
        import timm
    except ImportError as error:
        raise BadInput("timm is not installed; pip install 'milan[timm]'") from error
    _check_timm_name(name)
    if source.pretrained:
        model = _load_pretrained_timm(name)
    else:
        model = _build_network(partial(timm.create_model, name, pretrained=False), {}, source.tensors, str(source.path))
    return LoadedNetwork(model, timm_preprocessing(timm.data.resolve_data_config({}, model=model)))


def _check_timm_name(name: str) -> None:
    """Raise UnknownName or BadInput for a network, a tag of weights or a folder that timm does not have."""
    import timm

    kind, _, place = name.partition(":")
    if kind in ("hf_hub", "hf-hub") and place:
        find_cached_if_offline(
            place.partition("@")[0], ("config.json",), "the path of a local copy, as in timm:local-dir:FOLDER"
        )
        return
    if kind == "local-dir" and place:
        if not (Path(place) / "config.json").is_file():
            raise BadInput(f"{place} holds no config.json, so it is no folder of a timm model")
        check_model_folder(Path(place))
        return
    network = name.partition(".")[0]
    check_network_name("timm", network, timm.list_models())
    if name not in (tagged := timm.list_models(f"{network}.*", include_tags=True)) and name != network:
        tags = [known.partition(".")[2] for known in tagged]
        raise UnknownName("timm weights", name.partition(".")[2], tags, f"{network} has: {', '.join(tags) or 'none'}")


def _load_pretrained_timm(name: str) -> nn.Module:
    import timm

    config = timm.get_pretrained_cfg(name)
    repository, url = getattr(config, "hf_hub_id", None), getattr(config, "url", None)
    offline: dict[str, Any] = {}
    # A hub or a folder was checked before.
    if ":" in name:
        pass
    elif repository:
        cached = find_cached_if_offline(repository, ("model.safetensors", "pytorch_model.bin"))
        offline = {"pretrained_cfg_overlay": {"state_dict": read_weights(cached)}} if cached else {}
    elif not url:
        raise BadInput(f"timm has no pretrained weights of {name}; give --weights FILE (or --weights random)")
    elif not (place := _torch_cache_path(url)).is_file() and not is_reachable(url):
        raise make_unreachable_error(f"timm:{name}", url, place)
    try:
        return timm.create_model(name, pretrained=True, **offline)
    # The hub's client, the network and timm raise anything.
    except Exception as error:
        raise BadInput(f"the weights of timm:{name} could not be loaded: {format_error_line(error)}") from error


def _torch_cache_path(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def load_diorama(name: str, source: WeightSource) -> LoadedNetwork:
    """Load a network of Diorama; a generator comes with its latents."""
    from milan.diorama.generator_networks import LATENT_SIZE, SceneGenerator
    from milan.diorama.networks import load_network
    from milan.diorama.scene_classifiers import CLASSES, IMAGE_SIZE, MEAN, STD

    model = source.load_into(load_network(name, weights=source.pretrained))
    latents = Latents(LATENT_SIZE, CLASSES[name.partition("-")[2]]) if isinstance(model, SceneGenerator) else None
    known = Preprocessing(IMAGE_SIZE, mean=MEAN, std=STD)
    return LoadedNetwork(model, KnownPreprocessing(known), latents)


def load_huggingface(name: str, source: WeightSource) -> LoadedNetwork:
    """Load a vision network of transformers, or the vision part of an image-text network, by hub id or folder."""
    import transformers

    name, local = resolve_model(name)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
            model = _load_transformers_model(name, config, source, local)
        known = processor_preprocessing(name, model.config, local)
    except MilanError:
        raise
    # The hub's client, the network and transformers raise anything.
    except Exception as error:
        raise BadInput(f"hf:{name} cannot be loaded: {format_error_line(error)}") from error
    return LoadedNetwork(model, known)


def _load_transformers_model(name: str, config: Any, source: WeightSource, local: bool) -> nn.Module:
    kind = _find_auto_class(config)
    if source.pretrained:
        safely = {"local_files_only": local, "trust_remote_code": False}
        model, loading_info = kind.from_pretrained(name, output_loading_info=True, **safely)
        if missing := sorted(loading_info["missing_keys"]):
            text = f"hf:{name} has no weights for {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            effect = f"these {len(missing)} are random, so layers that depend on them are meaningless"
            warnings.warn(f"{text}; {effect}", MilanWarning, stacklevel=5)
        return _extract_vision_part(model, name)
    model = kind.from_config(config, trust_remote_code=False)
    if source.path is not None and (filled := _load_with_saved_names(model, source)) is not None:
        return _extract_vision_part(filled, name)
    return source.load_into(_extract_vision_part(model, name))


def _load_with_saved_names(model: Any, source: WeightSource) -> nn.Module | None:
    """Return the network with the file's weights if their names are those of transformers' files; else None.

    These differ from the names of the network's modules.
    """
    tensors = match_weight_names(source.tensors, model.state_dict())
    filled, loading_info = type(model).from_pretrained(
        None, config=model.config, state_dict=tensors, output_loading_info=True
    )
    return (
        None if any(loading_info[fault] for fault in ("missing_keys", "unexpected_keys", "mismatched_keys")) else filled
    )


def _find_auto_class(config: Any) -> Any:
    import transformers

    architecture = (getattr(config, "architectures", None) or [""])[0] or ""
    classes = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    head = architecture.endswith("ForImageClassification") and type(config) in classes
    return transformers.AutoModelForImageClassification if head else transformers.AutoModel


def _extract_vision_part(model: nn.Module, name: str) -> nn.Module:
    if getattr(model, "main_input_name", "pixel_values") == "pixel_values" and not hasattr(model, "text_model"):
        return model
    for part in ("vision_model", "vision_tower", "visual"):
        if isinstance(getattr(model, part, None), nn.Module):
            return getattr(model, part)
    raise BadInput(
        f"hf:{name} is a {type(model).__name__}, which does not take images alone and has no known vision part"
    )
