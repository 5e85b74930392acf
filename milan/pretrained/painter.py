"""Text-to-image models, and Diorama's own renderer in their place; pictures are cached."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from milan.console.progress import track_progress
from milan.errors import BadInput, MilanWarning, UnknownName, require_at_least
from milan.pretrained.model_sources import Precision, check_device, get_dtype, load_from_file, resolve_model
from milan.storage.files import atomic_write, cache_folder, content_key
from milan.storage.hub_access import format_error_line, quiet
from milan.targets.fingerprints import network_hash
from milan.targets.preprocessing import Preprocessing, Size, height_width

FAMILIES = ("diorama", "diffusers")
DENOISING_STEPS, GUIDANCE_SCALE = (
    50,
    7.5,
)  # steps of denoising as Describe-and-Dissect takes them; the guidance that Stable Diffusion's authors give


class PictureRequest(NamedTuple):
    """A picture to paint: its text, the random seed, and its number among the pictures of that text and seed."""

    text: str
    seed: int
    number: int


class Painter(ABC):
    """Paints pictures of texts.

    Attributes:
        key: content key of all that pictures depend on besides the request.
        side: height and width of a picture in pixels, before it is resized.
        batch_size: number of pictures per batch; changes no picture, except by rounding.
    """

    key: str
    side: int
    batch_size: int = 4

    @abstractmethod
    def draw(self, requests: Sequence[PictureRequest]) -> UInt8[Tensor, "b 3 side side"]:
        """Return one picture for each request, pixels 0..255; each depends on its own request alone."""

    def paint(
        self, text: str, count: int = 1, seed: int = 0, size: Size | None = None
    ) -> UInt8[Tensor, "count 3 height width"]:
        """Return ``count`` different pictures of a text, resized to ``size`` if given. See ``paint_texts``."""
        requests = [PictureRequest(text, seed, number) for number in range(count)]
        drawn = [self.draw(requests[start : start + self.batch_size]) for start in range(0, count, self.batch_size)]
        return resize_images(
            torch.cat(drawn) if drawn else torch.zeros(0, 3, self.side, self.side, dtype=torch.uint8), size
        )


def load_painter(
    spec: str = "diorama",
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    batch_size: int = 4,
    steps: int = DENOISING_STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
) -> Painter:
    """Load a painter by name or path.

    Args:
        spec: ``diffusers:ID_OR_FOLDER`` (Stable Diffusion and other text-to-image pipelines of diffusers), ``diorama``
            (no network: reads sentences of Diorama's language and renders exactly those scenes), or a custom one as
            ``PATH/FILE.py:NAME``, a class or function without arguments that handles device and precision itself.
        device: device of the model.
        precision: of weights and computation.
        batch_size: number of pictures per batch.
        steps: number of denoising steps.
        guidance_scale: weight of the text; ignored by pipelines without guidance.

    Raises:
        UnknownName: there is no such family or precision.
        BadInput: the path leads to no such pipeline, the hub lacks it or is out of reach, or the device cannot be used.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    get_dtype(precision)
    require_at_least(1, batch_size=batch_size, steps=steps)
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family == "diorama"):
        raise UnknownName(
            "painter", spec, ["diorama", "diffusers:"], "write diorama, diffusers:ID_OR_FOLDER or PATH/FILE.py:NAME"
        )
    if family == "diorama":
        return ExactPainter(batch_size)
    return DiffusionPainter(
        name, device=check_device(device), precision=precision, batch_size=batch_size, denoising=(steps, guidance_scale)
    )


def _load_custom(spec: str) -> Painter:
    custom = load_from_file(spec, "painter")
    if not isinstance(custom, Painter):
        raise BadInput(f"{spec} makes a {type(custom).__name__}; it must make a milan.pretrained.painter.Painter")
    return custom


class ExactPainter(Painter):
    """Diorama's own renderer: what a text states in Diorama's language is true of the picture."""

    side = 64

    def __init__(self, batch_size: int = 4):
        from milan.diorama.exact_painter import paint_text
        from milan.diorama.scene_cache import compute_drawing_checksum

        self.batch_size = batch_size
        samples = [
            paint_text(text).tobytes().hex()
            for text in ("a red and white dotted house beside a cat at the shore", "a sign that says go")
        ]
        self.key = content_key(painter="diorama", scenes=compute_drawing_checksum(), samples=samples)

    def draw(self, requests: Sequence[PictureRequest]) -> UInt8[Tensor, "b 3 side side"]:
        """Return Diorama scenes that show what each request's text states."""
        from milan.diorama.exact_painter import draw_scene_of

        return torch.from_numpy(np.stack([draw_scene_of(text, seed, number).image for text, seed, number in requests]))


class DiffusionPainter(Painter):
    """A text-to-image pipeline of diffusers without its safety checker; the noise is sampled on the CPU.

    Args:
        name: folder written by ``save_pretrained``, or a hub id.
        denoising: number of steps, and the guidance scale.
    """

    def __init__(self, name: str, *, device: str, precision: Precision, batch_size: int, denoising: tuple[int, float]):
        import diffusers

        source, local = resolve_model(name, "model_index.json", "pipeline of diffusers", "diffusers")
        self.name, self.device, self.batch_size = f"diffusers:{name}", device, batch_size
        self.steps, self.guidance = denoising
        try:
            with quiet(), _silence_diffusers():
                options = {"torch_dtype": get_dtype(precision), "local_files_only": local}
                self.pipeline: Any = diffusers.AutoPipelineForText2Image.from_pretrained(source, **options)
        except Exception as error:  # the hub's client, the network and diffusers each raise their own
            raise BadInput(f"{self.name} cannot be loaded as a painter: {format_error_line(error)}") from error
        if getattr(self.pipeline, "safety_checker", None) is not None:
            self.pipeline.safety_checker = None  # it would return black pictures
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._options = {"num_inference_steps": self.steps} | _supported_options(self.pipeline.__call__, self.guidance)
        parts = self.pipeline.components
        networks = {name: network_hash(part) for name, part in parts.items() if isinstance(part, nn.Module)}
        how = {"scheduler": repr(self.pipeline.scheduler.config), "precision": precision, **self._options}
        self.key = content_key(painter=networks, how=how)
        self.side = self._find_side()

    def _find_side(self) -> int:
        """Return the side of a picture that the pipeline chooses by itself."""
        core: Any = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        return int(core.config.sample_size) * int(getattr(self.pipeline, "vae_scale_factor", 1))

    @torch.no_grad()
    def draw(self, requests: Sequence[PictureRequest]) -> UInt8[Tensor, "b 3 side side"]:
        """Return the pipeline's images; each depends on its request's seed and number alone.

        Raises:
            BadInput: an image has values that are not finite.
        """
        self._warn_of_long_texts([each.text for each in requests])
        rng = [torch.Generator("cpu").manual_seed((each.seed << 20) + each.number) for each in requests]
        with _silence_diffusers():
            pixels = self.pipeline(
                prompt=[each.text for each in requests], generator=rng, output_type="np", **self._options
            ).images
        if not np.isfinite(pixels).all():
            raise BadInput(f"{self.name} draws numbers that are not finite; use float32")
        pictures = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        return (pictures * 255).round().clamp(0, 255).to(torch.uint8)

    def _warn_of_long_texts(self, texts: Sequence[str]) -> None:
        """Warn of texts that are longer than the network reads; diffusers cuts them."""
        tokenizer: Any = getattr(self.pipeline, "tokenizer", None)
        for text in texts if tokenizer is not None else ():
            if len(tokenizer(text).input_ids) > tokenizer.model_max_length:
                warning = f"{self.name} reads {tokenizer.model_max_length} tokens; the end of {text[:60]!r}... is cut"
                warnings.warn(warning, MilanWarning, stacklevel=4)


@contextmanager
def _silence_diffusers() -> Iterator[None]:
    """Suppress diffusers' progress bars and notices; our own errors and warnings report what matters."""
    from diffusers.utils import logging as notices

    level = notices.get_verbosity()
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*torch_dtype", category=FutureWarning
            )  # its new name is not known to older ones
            yield
    finally:
        notices.set_verbosity(level)
        notices.enable_progress_bar()


def _supported_options(call: Callable[..., Any], guidance: float) -> dict[str, Any]:
    """Return the options that a pipeline takes.

    Resolution binning would paint at the nearest published size instead of the pipeline's own.
    """
    wished = {"guidance_scale": guidance, "use_resolution_binning": False}
    return {name: value for name, value in wished.items() if name in inspect.signature(call).parameters}


def resize_images(images: UInt8[Tensor, "b 3 h w"], size: Size | None) -> UInt8[Tensor, "b 3 height width"]:
    """Return the centre of pictures after scaling them, antialiased, to cover ``size``; unchanged if it is None."""
    if size is None or images.shape[-2:] == height_width(size):
        return images
    preprocessing = Preprocessing(size)
    scaled = preprocessing.scaled_size((images.shape[-1], images.shape[-2]))
    large = interpolate(images.float(), scaled, mode="bilinear", antialias=True, align_corners=False)
    return large[:, :, *preprocessing.cut(scaled)].round().clamp(0, 255).to(torch.uint8)


def paint_texts(
    painter: Painter, texts: Sequence[str], count: int, *, seed: int = 0, size: Size | None = None
) -> UInt8[Tensor, "texts count 3 height width"]:
    """Return ``count`` pictures of each text, in order, from the cache where they were painted before.

    Pictures are cached in the painter's own size as soon as they are painted; an interrupted run loses one batch at
    most. Pictures of several texts share batches.

    Raises:
        BadInput: the cache cannot be written.
    """
    home = cache_folder() / "pictures" / painter.key
    requests = [PictureRequest(text, seed, number) for text in texts for number in range(count)]
    new = [each for each in dict.fromkeys(requests) if not _is_whole(_cache_file(home, each))]
    try:
        home.mkdir(parents=True, exist_ok=True)
        for start in track_progress(
            range(0, len(new), painter.batch_size), description=f"painting {len(new)} pictures"
        ):
            part = new[start : start + painter.batch_size]
            for each, picture in zip(part, painter.draw(part), strict=True):
                with atomic_write(_cache_file(home, each)) as path:
                    np.save(path, picture.numpy())
    except OSError as error:
        raise BadInput(f"cannot write to {home}: {error.strerror}; MILAN_CACHE=FOLDER sets another cache") from None
    sides = height_width(size or painter.side)
    images = torch.zeros(len(requests), 3, *sides, dtype=torch.uint8)
    for row, picture in enumerate(_read_cached(home, requests)):
        images[row] = resize_images(picture[None], size)[0]
    return images.view(len(texts), count, 3, *sides)


def find_cached_picture(key: str, request: PictureRequest) -> UInt8[Tensor, "3 side side"] | None:
    """Return a cached picture of the painter with that key; None if there is none or it is damaged."""
    file = _cache_file(cache_folder() / "pictures" / key, request)
    return torch.from_numpy(np.load(file)) if _is_whole(file) else None


def _cache_file(home: Path, each: PictureRequest) -> Path:
    return home / f"{content_key(text=each.text, seed=each.seed, number=each.number)}.npy"


def _is_whole(file: Path) -> bool:
    """Return whether a picture is there and not truncated."""
    with suppress(OSError, ValueError, EOFError):
        np.load(file, mmap_mode="r")
        return True
    return False


def _read_cached(home: Path, requests: Sequence[PictureRequest]) -> Iterator[Tensor]:
    for each in requests:
        yield torch.from_numpy(np.load(_cache_file(home, each)))
