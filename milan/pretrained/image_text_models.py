"""Image-text models of open_clip and transformers."""

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from milan.errors import BadInput, MilanError, UnknownName
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.masked_attention import find_patch_grid, masked_class_token, resize_masks
from milan.pretrained.model_sources import Precision, get_dtype, resolve_model
from milan.storage.file_kinds import check_model_folder
from milan.storage.files import content_key
from milan.storage.hub_access import (
    find_cached_if_offline,
    format_error_line,
    is_reachable,
    make_unreachable_error,
    quiet,
)
from milan.targets.fingerprints import network_hash

LOCAL_PREFIX = "local-dir:"
OPEN_CLIP_PRECISIONS = {
    "float32": "fp32",
    "bfloat16": "pure_bf16",
    "float16": "pure_fp16",
}  # as open_clip names them: factory.py, create_model
LOCAL_HINT = "the folder of a local copy, as in open_clip:local-dir:FOLDER"


class ComputeSettings(NamedTuple):
    """Device, precision and batch size of a model."""

    device: str
    precision: Precision
    batch_size: int


class DualEncoder(Embedder):
    """Base class: an image tower, a text tower, and scale and bias of the logits.

    Args:
        preprocessing: plain values that decide, besides the weights, how images and texts are read.
    """

    def __init__(self, name: str, model: nn.Module, preprocessing: dict[str, Any], compute: ComputeSettings):
        self.name, self.device, self.dtype, self.batch_size = (
            name,
            compute.device,
            get_dtype(compute.precision),
            compute.batch_size,
        )
        self.model: Any = model.to(self.device).eval().requires_grad_(False)
        self.key = content_key(weights=network_hash(self.model), precision=compute.precision, reading=preprocessing)
        scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
        self.scale = float(scale.float().exp()) if scale is not None else None
        self.bias = float(bias.float()) if bias is not None else None
        self.features = self._text_features(["a"]).shape[1]

    @abstractmethod
    def _image_features(self, images: Tensor) -> Tensor:
        """Return the image tower's output for pixels 0..255, (b, 3, height, width)."""

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Return the text tower's output for texts."""

    @torch.no_grad()
    def encode_images(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b features"]:
        """Return the image tower's unit vectors, in batches of ``batch_size``."""
        starts = range(0, len(images), self.batch_size)
        return self._concatenate(
            [self._image_features(images[start : start + self.batch_size]) for start in starts], "a picture"
        )

    @property
    def masks_attention(self) -> bool:  # type: ignore[override]
        """Whether the vision encoder has a class token whose attention can be masked."""
        return find_patch_grid(self.model) is not None

    @torch.no_grad()
    def encode_masked_images(
        self, images: UInt8[Tensor, "b 3 h w"], masks: Bool[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b features"]:
        """Return vectors whose class token attends to masked patches; a tower without patches gets masked pixels."""
        grid = find_patch_grid(self.model)
        if grid is None:
            return super().encode_masked_images(images, masks)
        parts = []
        for some, some_masks in zip(images.split(self.batch_size), masks.split(self.batch_size), strict=True):
            with masked_class_token(self.model, resize_masks(some_masks, grid).to(self.device)):
                parts.append(self._image_features(some))
        return self._concatenate(parts, "a picture")

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Return the text tower's unit vectors, in batches of ``batch_size``."""
        starts = range(0, len(texts), self.batch_size)
        return self._concatenate(
            [self._text_features(list(texts[start : start + self.batch_size])) for start in starts], "a text"
        )

    def _concatenate(self, parts: list[Tensor], what: str) -> Tensor:
        vectors = torch.cat([part.float().cpu() for part in parts]) if parts else torch.zeros(0, self.features)
        if not vectors.isfinite().all():
            raise BadInput(
                f"{self.name} in {str(self.dtype).removeprefix('torch.')} makes numbers of {what} that are not finite;"
                " use float32"
            )
        return torch.nn.functional.normalize(vectors, dim=1)


class OpenClipEmbedder(DualEncoder):
    """A model of open_clip with the preprocessing and the tokenizer of its configuration.

    Args:
        name: ``MODEL/PRETRAINED``, ``hf-hub:ID`` or ``local-dir:FOLDER``.
    """

    def __init__(self, name: str, compute: ComputeSettings):
        import open_clip  # type: ignore[import-untyped]

        model_name, pretrained = _resolve_name(name)
        try:
            with _silence_open_clip():
                options = {"pretrained": pretrained, "precision": OPEN_CLIP_PRECISIONS[compute.precision]}
                model, self.preprocess = open_clip.create_model_from_pretrained(model_name, **options)
                self.tokenizer = open_clip.get_tokenizer(model_name)
        except MilanError:
            raise
        except Exception as error:  # the hub's client, the network and open_clip each raise their own
            raise BadInput(f"open_clip:{name} cannot be loaded: {format_error_line(error)}") from error
        printed = re.sub(r" at 0x[0-9a-f]+", "", repr(self.preprocess))  # functions print where they lie in memory
        reading = {"pictures": printed, "texts": _describe_tokenizer(self.tokenizer), "settings": _settings(model_name)}
        super().__init__(f"open_clip:{name}", model, reading, compute)

    def _image_features(self, images: Tensor) -> Tensor:
        from torchvision.transforms.functional import to_pil_image

        pictures = torch.stack([self.preprocess(to_pil_image(image)) for image in images])
        return self.model.encode_image(pictures.to(self.device, self.dtype))

    def _text_features(self, texts: list[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(texts).to(self.device))


def _resolve_name(name: str) -> tuple[str, str | None]:
    """Return the model's name and the tag of its weights, after checking that they are available."""
    import open_clip

    if name.startswith(LOCAL_PREFIX):
        return f"{LOCAL_PREFIX}{_check_folder(name.removeprefix(LOCAL_PREFIX))}", None
    if name.startswith("hf-hub:"):
        find_cached_if_offline(name.removeprefix("hf-hub:"), ("open_clip_config.json",), LOCAL_HINT)
        return name, None
    model, slash, tag = name.rpartition("/")
    if not slash:
        raise BadInput(
            f"open_clip:{name} does not say which weights; write open_clip:MODEL/PRETRAINED, as in"
            " open_clip:ViT-B-16/openai"
        )
    if model not in open_clip.list_models():
        raise UnknownName("open_clip model", model, open_clip.list_models(), "open_clip.list_models() has them all")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise UnknownName("open_clip weights", tag, tags, f"{model} has " + ", ".join(tags))
    _check_available(name, open_clip.get_pretrained_cfg(model, tag))
    return model, tag


def _check_folder(path: str) -> Path:
    """Return a folder after checking that it holds weights; open_clip would use random ones without a message."""
    folder = Path(path).expanduser()
    if not (folder / "open_clip_config.json").is_file():
        raise BadInput(
            f"no open_clip_config.json in {path!r}; local-dir: takes a folder with one and with"
            " open_clip_model.safetensors"
        )
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        raise BadInput(
            f"no weights in {path!r}; local-dir: takes a folder with open_clip_config.json and"
            " open_clip_model.safetensors"
        )
    check_model_folder(folder)
    return folder


def _settings(name: str) -> str:
    """Return the settings in a model's folder. Neither the weights nor the printed network show, say, its heads."""
    return (
        (Path(name.removeprefix(LOCAL_PREFIX)) / "open_clip_config.json").read_text()
        if name.startswith(LOCAL_PREFIX)
        else ""
    )


def _check_available(name: str, published: dict[str, Any]) -> None:
    """Check that published weights are cached or can be downloaded.

    Raises:
        BadInput: neither; raised within seconds.
    """
    if published.get("hf_hub"):
        repository, _, file = published["hf_hub"].rpartition("/")
        files = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        find_cached_if_offline(repository, files, LOCAL_HINT)
    elif url := published.get("url"):
        cached = Path("~/.cache/clip").expanduser() / Path(url).name
        if not cached.is_file() and not is_reachable(url):
            raise make_unreachable_error(f"open_clip:{name}", url, cached, LOCAL_HINT)


def _describe_tokenizer(tokenizer: Any) -> str:
    """Return a text that identifies what a tokenizer of open_clip does."""
    inner: Any = getattr(tokenizer, "tokenizer", None)  # of transformers, inside open_clip's wrapper
    vocabulary = _describe_vocabulary(inner) if inner is not None else len(getattr(tokenizer, "encoder", ()))
    cleaning = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "")
    return f"{type(tokenizer).__name__} {tokenizer.context_length} {cleaning} {vocabulary}"


@contextmanager
def _silence_open_clip() -> Iterator[None]:
    """Suppress open_clip's messages on the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with quiet():
            yield
    finally:
        root.setLevel(before)


class TransformersEmbedder(DualEncoder):
    """A CLIP, SigLIP or SigLIP 2 of transformers with its own processor.

    Args:
        name: folder written by ``save_pretrained``, or a hub id.
    """

    def __init__(self, name: str, compute: ComputeSettings):
        import transformers

        source, local = resolve_model(name)
        try:
            with quiet():
                options = {"local_files_only": local, "trust_remote_code": False}
                self.processor = transformers.AutoProcessor.from_pretrained(source, **options)
                model = transformers.AutoModel.from_pretrained(source, dtype=get_dtype(compute.precision), **options)
        except Exception as error:  # the hub's client, the network and transformers each raise their own
            raise BadInput(f"hf:{name} cannot be loaded: {format_error_line(error)}") from error
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise BadInput(
                f"hf:{name} is a {type(model).__name__}, which does not embed pictures and texts; give a CLIP or SigLIP"
            )
        tokenizer = self.processor.tokenizer
        # No text is longer than the model has places for, whatever the tokenizer was saved with.
        self.longest = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
        reading = {
            "pictures": self.processor.image_processor.to_json_string(),
            "texts": _describe_vocabulary(tokenizer),
            "longest": self.longest,
        }
        super().__init__(f"hf:{name}", model, reading, compute)

    def _image_features(self, images: Tensor) -> Tensor:
        # The whole processor is used: that of SigLIP 2 sets the number of patches (processing_siglip2.py).
        pictures = self.processor(images=list(images), return_tensors="pt", input_data_format="channels_first")
        return _unwrap_features(self.model.get_image_features(**pictures.to(self.device, self.dtype)))

    def _text_features(self, texts: list[str]) -> Tensor:
        # SigLIP was trained on texts padded to the full length; a CLIP ignores padding.
        words = self.processor.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.longest, return_tensors="pt"
        )
        return _unwrap_features(self.model.get_text_features(**words.to(self.device)))


def _describe_vocabulary(tokenizer: Any) -> str:
    """Return a text that identifies what a tokenizer of transformers does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (
        f"{backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())}"
        f" {tokenizer.model_input_names}"
    )


def _unwrap_features(output: Any) -> Tensor:
    """Return the vector of each input, which transformers 5 wraps."""
    return output if isinstance(output, Tensor) else output.pooler_output
