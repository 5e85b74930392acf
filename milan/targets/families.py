"""One function per family of networks: a name and a source of weights in, the network and how it wants its pictures out."""

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from milan.errors import BadInput, UnknownName
from milan.targets.hubs import check_huggingface, out_of_reach, reachable
from milan.targets.sources import Network, Preprocessing, Source
from milan.targets.weights import classes_in, fitted


def from_torchvision(name: str, source: Source) -> Network:
    """A network of ``torchvision.models``, its pretrained weights downloaded and checked by torchvision."""
    from torchvision import models

    if name not in models.list_models():
        raise UnknownName("torchvision model", name, models.list_models(), "torchvision.models.list_models() has them all")
    builder = models.get_model_builder(name)
    published = getattr(models.get_model_weights(name), "DEFAULT", None)
    options = _plain_options(builder, set(source.tensors))
    if source.pretrained:
        if published is None:
            raise BadInput(f"torchvision has no pretrained weights of {name}; give --weights FILE (or --weights random)")
        model = _downloaded(name, published, builder, options)
    else:
        model = _with_classes(builder, options, source)
    return Network(model, _torchvision_preprocessing(published))


def _plain_options(builder: Any, keys: set[str]) -> dict[str, Any]:
    """Options of the few builders (GoogLeNet, Inception) whose weightless defaults differ from those of their published weights."""
    known = inspect.signature(getattr(inspect.unwrap(builder), "__wrapped__", builder)).parameters
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in known:
        options["weights_backbone"] = None
    if builder.__name__ in ("googlenet", "inception_v3"):
        options |= {"transform_input": True, "init_weights": False}
        options["aux_logits"] = any("aux" in key.lower() for key in keys)
    return options


def _downloaded(name: str, published: Any, builder: Any, options: dict[str, Any]) -> nn.Module:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    if not cached.is_file() and not reachable(published.url):
        raise out_of_reach(f"torchvision:{name}", published.url, cached)
    try:
        weights = published.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise BadInput(f"the weights of torchvision:{name} could not be had from {published.url}: {_line(error)}") from error
    if "aux_logits" in options:
        options["aux_logits"] = True  # the published weights hold the auxiliary heads
    if "num_classes" in inspect.signature(builder).parameters or published.meta.get("categories"):
        options["num_classes"] = len(published.meta["categories"])
    model = builder(**options)
    model.load_state_dict(weights)
    return model


def _with_classes(build: Any, options: dict[str, Any], source: Source) -> nn.Module:
    """The network with as many classes as the weights file has."""
    model = build(**options)
    classes = classes_in(source.tensors, model) if source.tensors else None
    if classes is not None:
        model = build(**options, num_classes=classes)
    return source.fill(model)


def _torchvision_preprocessing(published: Any) -> Preprocessing:
    if published is None:
        return Preprocessing()
    wanted = published.transforms()
    size, resize = getattr(wanted, "crop_size", None), getattr(wanted, "resize_size", None)
    if not size or not hasattr(wanted, "mean"):
        return Preprocessing()
    return Preprocessing(_last(size), _last(resize) if resize else None, tuple(wanted.mean), tuple(wanted.std))


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
        model = _with_classes(lambda **options: timm.create_model(name, pretrained=False, **options), {}, source)
    data = timm.data.resolve_data_config({}, model=model)
    size = int(data["input_size"][-1])
    return Network(model, Preprocessing(size, round(size / data["crop_pct"]), tuple(data["mean"]), tuple(data["std"])))


def _timm_pretrained(name: str, config: Any) -> nn.Module:
    import timm

    repository, url = getattr(config, "hf_hub_id", None), getattr(config, "url", None)
    if repository:
        full = f"timm/{name}" if repository == "timm/" else repository
        check_huggingface(full, ("model.safetensors", "pytorch_model.bin"))
    elif url:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        if not cached.is_file() and not reachable(url):
            raise out_of_reach(f"timm:{name}", url, cached)
    else:
        raise BadInput(f"timm has no pretrained weights of {name}; give --weights FILE (or --weights random)")
    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise BadInput(f"the weights of timm:{name} could not be had: {_line(error)}") from error


def from_diorama(name: str, source: Source) -> Network:
    """A classifier of the embedded world."""
    from milan.diorama import networks

    model = networks.network(name, weights=source.pretrained)
    return Network(source.fill(model), Preprocessing(networks.IMAGE_SIZE, None, tuple(networks.MEAN), tuple(networks.STD)))


def from_huggingface(name: str, source: Source) -> Network:
    """A vision network of transformers, by hub id or folder; of an image-text network its vision part."""
    import transformers

    local = _local_only(name)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(name, local_files_only=local)
            model = _transformers_model(name, config, source, local)
        preprocessing = _processor(name, model.config, local)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise BadInput(f"hf:{name} cannot be loaded: {_line(error)}") from error
    return Network(model, preprocessing)


def _local_only(name: str) -> bool:
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BadInput(f"{name} holds no config.json, so it is no folder of a transformers model")
        return True
    if looks_like_path(name):
        raise BadInput(f"no folder {name!r}; hf: takes a folder written by save_pretrained or a hub id (google/vit-base-patch16-224)")
    return check_huggingface(name, ("config.json",), "the path of a local copy, as in hf:FOLDER")


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


def _processor(name: str, config: Any, local: bool) -> Preprocessing:
    import transformers

    fallback = Preprocessing(_last(getattr(config, "image_size", None) or 224))
    try:
        with _quiet():
            wanted = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError, KeyError, ImportError):
        return fallback  # saved without a processor
    size, resize = _sizes(wanted, fallback.image_size)
    rescale = getattr(wanted, "rescale_factor", None) if getattr(wanted, "do_rescale", True) else 1.0
    factor = 255 * (rescale if rescale is not None else 1 / 255)  # prepare() divides by 255; the processor may not
    mean, std = (wanted.image_mean, wanted.image_std) if getattr(wanted, "do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
    mean, std = mean or (0.0,) * 3, std or (1.0,) * 3
    return Preprocessing(size, resize, tuple(value / factor for value in mean), tuple(value / factor for value in std))


def _sizes(wanted: Any, fallback: int) -> tuple[int, int | None]:
    """Side of the picture and, where its centre is cut out, the short side it is scaled to before."""
    size = _side(getattr(wanted, "size", None)) or fallback
    crop = _side(getattr(wanted, "crop_size", None)) if getattr(wanted, "do_center_crop", False) else None
    if crop:
        return crop, size
    share = getattr(wanted, "crop_pct", None)
    if share and size < 384:  # ConvNeXt's processor: larger pictures are squashed, not cut
        return size, int(size / share)
    return size, None


def _side(size: Any) -> int | None:
    if size is None or isinstance(size, int):
        return size
    found = [size.get(key) if hasattr(size, "get") else getattr(size, key, None) for key in ("height", "shortest_edge", "longest_edge")]
    return next((int(value) for value in found if value), None)


def _last(size: Any) -> int:
    return int(size if isinstance(size, int) else list(size)[-1])


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
