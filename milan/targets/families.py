"""One function per family of networks: a name and a source of weights in, the network and how it wants its pictures out."""

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from milan.errors import BadInput, MilanError, UnknownName
from milan.preprocessing import IMAGE_SIZE, Crop, Interpolation, Preprocessing, as_size
from milan.targets.detectors import assumed_preprocessing
from milan.targets.hubs import only_cached, out_of_reach, reachable
from milan.targets.latents import Latents
from milan.targets.library_transforms import Frame, Reproduction, declared, reproduced
from milan.targets.sources import Network, Source
from milan.targets.weights import Weights, classes_in, fitted, put_weights, read_weights


def from_torchvision(name: str, source: Source) -> Network:
    """A network of ``torchvision.models``, its pretrained weights downloaded and checked by torchvision."""
    from torchvision import models

    if name not in models.list_models():
        raise UnknownName("torchvision model", name, models.list_models(), "torchvision.models.list_models() has them all")
    builder = models.get_model_builder(name)
    published = getattr(models.get_model_weights(name), "DEFAULT", None)
    tensors = _published(name, published) if source.pretrained else source.tensors
    model = _built(builder, _plain_options(builder, tensors), tensors, str(source.path or f"torchvision:{name}"))
    return Network(model, **_torchvision_preprocessing(model, published))


def _plain_options(builder: Any, tensors: Weights) -> dict[str, Any]:
    """Options of the builders (GoogLeNet, Inception, segmentation) whose defaults without weights do not fit their published weights."""
    known = inspect.signature(inspect.unwrap(builder)).parameters
    auxiliary = any("aux" in key.lower() for key in tensors)  # heads that serve training only
    wanted = {"weights": None, "weights_backbone": None, "transform_input": True, "init_weights": False}
    wanted |= {"aux_logits": auxiliary, "aux_loss": auxiliary}
    inception = builder.__name__ in ("googlenet", "inception_v3")
    return {key: value for key, value in wanted.items() if key in known or (inception and key not in ("weights_backbone", "aux_loss"))}


def _published(name: str, published: Any) -> Weights:
    """torchvision's pretrained weights, from its cache or downloaded by it."""
    if published is None:
        raise BadInput(f"torchvision has no pretrained weights of {name}; give --weights FILE (or --weights random)")
    cached = _torch_cache(published.url)
    if cached.is_file():
        return read_weights(cached)
    if not reachable(published.url):
        raise out_of_reach(f"torchvision:{name}", published.url, cached)
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu"))
    except (OSError, RuntimeError) as error:
        raise BadInput(f"the weights of torchvision:{name} could not be had from {published.url}: {_line(error)}") from error


def _built(build: Any, options: dict[str, Any], tensors: Weights, origin: str) -> nn.Module:
    """The network with the weights given, and as many classes as they have; without any, with random ones."""
    model: nn.Module = build(**options)
    if tensors:
        classes = classes_in(tensors, model)
        model = build(**options, num_classes=classes) if classes is not None else model
        put_weights(model, tensors, origin)
    return model


def _torchvision_preprocessing(model: nn.Module, published: Any) -> dict[str, Any]:
    if published is None:
        return {"preprocessing": None}
    wanted = published.transforms()
    filter = getattr(getattr(wanted, "interpolation", None), "value", None)
    colours = {name: declared(getattr(wanted, name, None)) for name in ("mean", "std")}
    guess = assumed_preprocessing(model).changed(interpolation=filter, **colours)
    frame = getattr(wanted, "resize_size", None)
    if frame and not hasattr(wanted, "crop_size"):  # of semantic segmentation
        guess = guess.changed(image_size=frame)
    return _reproduction("torchvision", reproduced(wanted, guess, [(guess.crop, frame)]))


def _reproduction(what: str, found: Reproduction) -> dict[str, Any]:
    """The preprocessing of a ``Network``, with what is to be said of it."""
    told = {name: f"the transform of {what} {text}" if text else "" for name, text in (("fault", found.fault), ("note", found.note))}
    return {"preprocessing": found.preprocessing, **told}


def from_timm(name: str, source: Source) -> Network:
    """A network of timm, with the data configuration of its pretrained weights."""
    try:
        import timm
    except ImportError as error:
        raise BadInput("timm is not installed; pip install 'milan[timm]'") from error
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models(), "timm.list_models() has them all")
    config = timm.get_pretrained_cfg(name)
    if source.pretrained:
        model = _timm_pretrained(name, config)
    else:
        model = _built(partial(timm.create_model, name, pretrained=False), {}, source.tensors, str(source.path))
    return Network(model, **_timm_preprocessing(timm.data.resolve_data_config({}, model=model)))


def _timm_preprocessing(data: Mapping[str, Any]) -> dict[str, Any]:
    """That of a data configuration of timm."""
    import timm

    size = data["input_size"][-2:]
    colours = {name: declared(data[name]) for name in ("mean", "std")}
    guess = Preprocessing().changed(image_size=size, interpolation=data["interpolation"], **colours)
    frame = as_size([math.floor(side / data["crop_pct"]) for side in size])
    crop: Crop = "squash" if data["crop_mode"] == "squash" else "center"
    return _reproduction("timm", reproduced(timm.data.create_transform(**data, is_training=False), guess, [(crop, frame)]))


def _timm_pretrained(name: str, config: Any) -> nn.Module:
    import timm

    repository, url = getattr(config, "hf_hub_id", None), getattr(config, "url", None)
    offline: dict[str, Any] = {}
    if repository:
        cached = only_cached(repository, ("model.safetensors", "pytorch_model.bin"))
        offline = {"pretrained_cfg_overlay": {"state_dict": read_weights(cached)}} if cached else {}
    elif not url:
        raise BadInput(f"timm has no pretrained weights of {name}; give --weights FILE (or --weights random)")
    elif not (place := _torch_cache(url)).is_file() and not reachable(url):
        raise out_of_reach(f"timm:{name}", url, place)
    try:
        return timm.create_model(name, pretrained=True, **offline)
    except Exception as error:  # the hub's client, the network and timm each raise their own
        raise BadInput(f"the weights of timm:{name} could not be had: {_line(error)}") from error


def _torch_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def from_diorama(name: str, source: Source) -> Network:
    """A network of the embedded world; generators with the latents that they are fed."""
    from milan.diorama import networks
    from milan.diorama.generators import LATENT, Generator

    model = source.fill(networks.network(name, weights=source.pretrained))
    latents = Latents(LATENT, networks.CLASSES[name.partition("-")[2]]) if isinstance(model, Generator) else None
    return Network(model, Preprocessing(networks.IMAGE_SIZE, mean=tuple(networks.MEAN), std=tuple(networks.STD)), latents)


def from_huggingface(name: str, source: Source) -> Network:
    """A vision network of transformers, by hub id or folder; of an image-text network its vision part."""
    import transformers

    name, local = _place(name)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
            model = _transformers_model(name, config, source, local)
        preprocessing = _processor_preprocessing(name, model.config, local)
    except MilanError:
        raise
    except Exception as error:  # the hub's client, the network and transformers each raise their own
        raise BadInput(f"hf:{name} cannot be loaded: {_line(error)}") from error
    return Network(model, **preprocessing)


def _place(name: str) -> tuple[str, bool]:
    """The folder or hub id that is meant, and whether no hub is to be asked for it."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BadInput(f"{name} holds no config.json, so it is no folder of a transformers model")
        return str(path), True
    if looks_like_path(name):
        raise BadInput(f"no folder {name!r}; hf: takes a folder written by save_pretrained or a hub id (google/vit-base-patch16-224)")
    return name, only_cached(name, ("config.json",), "the path of a local copy, as in hf:FOLDER") is not None


def looks_like_path(name: str) -> bool:
    """Whether a name can only have been meant as a path, so that no hub is asked for it.

    >>> [looks_like_path(name) for name in ("google/vit-base", "./vit", "a/b/c", "vit/", "~/vit", "C:\\\\vit")]
    [False, True, True, True, True, True]
    """
    spelt = name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1
    return spelt or Path(name.split("/")[0]).is_dir()


def _transformers_model(name: str, config: Any, source: Source, local: bool) -> nn.Module:
    kind = _auto_class(config)
    if source.pretrained:
        model = kind.from_pretrained(name, local_files_only=local, trust_remote_code=False)
        return _vision_part(model, name)
    model = kind.from_config(config)
    if source.path is not None and (filled := _with_saved_names(model, source)) is not None:
        return _vision_part(filled, name)
    return source.fill(_vision_part(model, name))


def _with_saved_names(model: Any, source: Source) -> nn.Module | None:
    """The network with the file's weights, if they go by the names that transformers saves under, which differ from its modules' names."""
    tensors = fitted(source.tensors, model.state_dict())
    filled, told = type(model).from_pretrained(None, config=model.config, state_dict=tensors, output_loading_info=True)
    return None if any(told[fault] for fault in ("missing_keys", "unexpected_keys", "mismatched_keys")) else filled


def _auto_class(config: Any) -> Any:
    import transformers

    architecture = (getattr(config, "architectures", None) or [""])[0] or ""
    classes = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    head = architecture.endswith("ForImageClassification") and type(config) in classes
    return transformers.AutoModelForImageClassification if head else transformers.AutoModel


def _vision_part(model: nn.Module, name: str) -> nn.Module:
    if getattr(model, "main_input_name", "pixel_values") == "pixel_values" and not hasattr(model, "text_model"):
        return model
    for part in ("vision_model", "vision_tower", "visual"):
        if isinstance(getattr(model, part, None), nn.Module):
            return getattr(model, part)
    raise BadInput(f"hf:{name} is a {type(model).__name__}, which takes no images alone and has no vision part that is known")


def _processor_preprocessing(name: str, config: Any, local: bool) -> dict[str, Any]:
    """That of the image processor saved beside a network of transformers."""
    import transformers

    fallback = Preprocessing(as_size(getattr(config, "image_size", None) or IMAGE_SIZE))
    try:
        with _quiet():
            processor = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        note = f"{name} has no image processor that can be loaded ({_line(error)[:100]}): assumed {fallback}"
        return {"preprocessing": fallback, "note": note}
    if isinstance(getattr(processor, "data_config", None), Mapping):  # timm's networks within transformers
        return _timm_preprocessing(processor.data_config)
    sides = _sides(processor)
    guess = fallback.changed(
        image_size=None if getattr(config, "image_size", None) or not sides else sides[0],
        interpolation=FILTERS.get(getattr(processor, "resample", None)),
        resampler="torch" if getattr(processor, "backend", "") == "torchvision" else "pillow",
        crop_rounding="down",
        **{key: declared(getattr(processor, f"image_{key}", None)) for key in ("mean", "std")},
    )
    with _quiet():
        found = reproduced(lambda picture: _pixel_values(processor, picture), guess, _frames(processor, sides))
    return _reproduction(type(processor).__name__, found)


FILTERS: dict[Any, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # as Pillow counts


def _pixel_values(processor: Any, picture: Any) -> Any:
    pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
    return pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels


def _frames(processor: Any, sides: Sequence[int]) -> list[Frame]:
    """The ways in which image processors of transformers scale to the sizes in their settings, the plainest first."""
    share = getattr(processor, "crop_pct", None) or 1  # ConvNeXt and PoolFormer
    scaled = [*sides, *(int(side / share) for side in sides), *(int(256 / 224 * side) for side in sides)]  # the last is LeViT's
    center: list[Frame] = [("center", (side, side)) for side in scaled]
    squash: list[Frame] = [("squash", None), *(("squash", (side, side)) for side in scaled)]
    return list(dict.fromkeys([*center, *squash]))


def _sides(processor: Any) -> list[int]:
    """The sizes in an image processor's settings, the one to which it scales first."""
    found = []
    for size in (getattr(processor, "size", None), getattr(processor, "crop_size", None)):
        named = [getattr(size, key, None) for key in ("shortest_edge", "height", "width", "longest_edge")]
        found += [int(side) for side in [size if isinstance(size, int) else None, *named] if side]
    return list(dict.fromkeys(found))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class _quiet:
    """transformers' bars and notices off while a model is loaded: what matters is told by our own errors."""

    def __enter__(self) -> None:
        from transformers.utils import logging as notices

        self.level, self.bar = notices.get_verbosity(), notices.is_progress_bar_enabled()
        notices.set_verbosity(logging.ERROR)
        notices.disable_progress_bar()

    def __exit__(self, *fault: object) -> None:
        from transformers.utils import logging as notices

        notices.set_verbosity(self.level)
        if self.bar:
            notices.enable_progress_bar()
