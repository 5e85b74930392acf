"""Painters: pictures of what a text says, drawn by a text-to-image network or by Diorama itself, each drawn once and kept."""

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

from milan.errors import BadInput, MilanWarning, UnknownName
from milan.pretrained.sources import Precision, dtype_of, from_file, place, usable
from milan.progress import progress
from milan.storage import atomic, cache_folder, content_key
from milan.targets.fingerprints import network_hash
from milan.targets.hubs import first_line, quiet

FAMILIES = ("diorama", "diffusers")
STEPS, GUIDANCE = 50, 7.5  # steps of denoising as Describe-and-Dissect takes them; the guidance that Stable Diffusion's authors give


class Wanted(NamedTuple):
    """One picture that is asked for: what it shows, and which of the pictures of that text it is."""

    text: str
    seed: int
    number: int


class Painter(ABC):
    """Draws what a text says.

    key: what its pictures depend on, but for the text, the seed and the number; side: of its pictures, before they are fitted;
    batch_size: pictures at a time, which changes none of them (but for rounding).
    """

    key: str
    side: int
    batch_size: int = 4

    @abstractmethod
    def draw(self, wanted: Sequence[Wanted]) -> UInt8[Tensor, "b 3 side side"]:
        """The pictures, pixels 0..255, ``side`` wide and high; each follows from what is wanted of it alone, whatever else is."""

    def paint(self, text: str, count: int = 1, seed: int = 0, size: int | None = None) -> UInt8[Tensor, "count 3 size size"]:
        """So many pictures of a text, another one for each number and seed, scaled to ``size`` if given. See ``pictures_of``."""
        wanted = [Wanted(text, seed, number) for number in range(count)]
        drawn = [self.draw(wanted[start : start + self.batch_size]) for start in range(0, count, self.batch_size)]
        return fitted(torch.cat(drawn) if drawn else torch.zeros(0, 3, self.side, self.side, dtype=torch.uint8), size)


def load_painter(
    spec: str = "diorama",
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    batch_size: int = 4,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Painter:
    """A painter by name or path.

    Args:
        spec: ``diorama`` (no network: it reads sentences of Diorama's language and draws exactly those scenes),
            ``diffusers:ID_OR_FOLDER`` (Stable Diffusion and other text-to-image pipelines of diffusers), or one of yours as
            ``PATH/FILE.py:NAME``, a class or function that is called without arguments and sees to device and precision itself.
        device: where it runs.
        precision: of weights and computation.
        batch_size: pictures at a time.
        steps: of denoising.
        guidance: how much the text counts; pipelines without guidance pay no heed.

    Raises:
        UnknownName: no such family or precision.
        BadInput: the path leads to no such pipeline, the hub does not have it or is out of reach, or the device cannot be used.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _own(spec)
    dtype_of(precision)
    for name, value in (("batch size", batch_size), ("number of steps", steps)):
        if value < 1:
            raise BadInput(f"a {name} of {value}; give at least 1")
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family == "diorama"):
        raise UnknownName("painter", spec, ["diorama", "diffusers:"], "write diorama, diffusers:ID_OR_FOLDER or PATH/FILE.py:NAME")
    if family == "diorama":
        return ExactPainter(batch_size)
    return Diffusion(name, device=usable(device), precision=precision, batch_size=batch_size, denoising=(steps, guidance))


def _own(spec: str) -> Painter:
    made = from_file(spec, "painter")
    if not isinstance(made, Painter):
        raise BadInput(f"{spec} makes a {type(made).__name__}; it must make a milan.pretrained.painter.Painter")
    return made


class ExactPainter(Painter):
    """Diorama's own drawing program, told what to draw: what a text says in its language is true of the picture."""

    side = 64

    def __init__(self, batch_size: int = 4):
        from milan.diorama.album import checksum
        from milan.diorama.painter import paint

        self.batch_size = batch_size
        samples = [
            paint(text).tobytes().hex() for text in ("a red and white dotted house beside a cat at the shore", "a sign that says go")
        ]
        self.key = content_key(painter="diorama", scenes=checksum(), samples=samples)

    def draw(self, wanted: Sequence[Wanted]) -> UInt8[Tensor, "b 3 side side"]:
        from milan.diorama.painter import scene_of

        return torch.from_numpy(np.stack([scene_of(text, seed, number).image for text, seed, number in wanted]))


class Diffusion(Painter):
    """A text-to-image pipeline of diffusers, without a checker of its pictures. The noise of each picture is drawn on the CPU.

    name: a folder written by ``save_pretrained`` or an id of the hub; denoising: how many steps, and the guidance.
    """

    def __init__(self, name: str, *, device: str, precision: Precision, batch_size: int, denoising: tuple[int, float]):
        import diffusers

        source, local = place(name, "model_index.json", "pipeline of diffusers", "diffusers")
        self.name, self.device, self.batch_size = f"diffusers:{name}", device, batch_size
        self.steps, self.guidance = denoising
        try:
            with quiet(), _silent():
                options = {"torch_dtype": dtype_of(precision), "local_files_only": local}
                self.pipeline: Any = diffusers.AutoPipelineForText2Image.from_pretrained(source, **options)
        except Exception as error:  # the hub's client, the network and diffusers each raise their own
            raise BadInput(f"{self.name} cannot be loaded as a painter: {first_line(error)}") from error
        if getattr(self.pipeline, "safety_checker", None) is not None:
            self.pipeline.safety_checker = None  # it would black out pictures, and a black picture is no answer
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._options = {"num_inference_steps": self.steps} | _known(self.pipeline.__call__, self.guidance)
        parts = self.pipeline.components
        networks = {name: network_hash(part) for name, part in parts.items() if isinstance(part, nn.Module)}
        how = {"scheduler": repr(self.pipeline.scheduler.config), "precision": precision, **self._options}
        self.key = content_key(painter=networks, how=how)
        self.side = self._side()

    def _side(self) -> int:
        """Of a picture, as the pipeline itself chooses."""
        core: Any = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        return int(core.config.sample_size) * int(getattr(self.pipeline, "vae_scale_factor", 1))

    @torch.no_grad()
    def draw(self, wanted: Sequence[Wanted]) -> UInt8[Tensor, "b 3 side side"]:
        self._heed([each.text for each in wanted])
        dice = [torch.Generator("cpu").manual_seed((each.seed << 20) + each.number) for each in wanted]
        with _silent():
            made = self.pipeline(prompt=[each.text for each in wanted], generator=dice, output_type="np", **self._options).images
        if not np.isfinite(made).all():
            raise BadInput(f"{self.name} draws numbers that are not finite; use float32")
        pictures = torch.from_numpy(np.ascontiguousarray(made)).permute(0, 3, 1, 2)
        return (pictures * 255).round().clamp(0, 255).to(torch.uint8)

    def _heed(self, texts: Sequence[str]) -> None:
        """Tells of texts that are longer than the network reads; diffusers cuts them."""
        tokenizer: Any = getattr(self.pipeline, "tokenizer", None)
        for text in texts if tokenizer is not None else ():
            if len(tokenizer(text).input_ids) > tokenizer.model_max_length:
                told = f"{self.name} reads {tokenizer.model_max_length} tokens; the end of {text[:60]!r}... is cut"
                warnings.warn(told, MilanWarning, stacklevel=4)


@contextmanager
def _silent() -> Iterator[None]:
    """Without diffusers' bars and notices: what matters is told by our own errors and warnings."""
    from diffusers.utils import logging as notices

    level = notices.get_verbosity()
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)  # its new name is not known to older ones
            yield
    finally:
        notices.set_verbosity(level)
        notices.enable_progress_bar()


def _known(call: Callable[..., Any], guidance: float) -> dict[str, Any]:
    """The options that a pipeline has. Binning would draw at the nearest of the published sizes, not at the one that it is made for."""
    wished = {"guidance_scale": guidance, "use_resolution_binning": False}
    return {name: value for name, value in wished.items() if name in inspect.signature(call).parameters}


def fitted(images: UInt8[Tensor, "b 3 h w"], size: int | None) -> UInt8[Tensor, "b 3 size size"]:
    """Pictures scaled to so many pixels a side, antialiased; as they are without a size."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    scaled = interpolate(images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def pictures_of(
    painter: Painter, texts: Sequence[str], count: int, *, seed: int = 0, size: int | None = None
) -> UInt8[Tensor, "texts count 3 size size"]:
    """``count`` pictures of each text, in order; each picture is drawn once ever and then found in the cache, at the painter's own size.

    What was drawn is kept at once, so a killed run loses a batch at most; pictures of several texts are drawn together.

    Raises:
        BadInput: the cache cannot be written.
    """
    home = cache_folder() / "pictures" / painter.key
    wanted = [Wanted(text, seed, number) for text in texts for number in range(count)]
    new = [each for each in dict.fromkeys(wanted) if not _is_whole(_file(home, each))]
    try:
        home.mkdir(parents=True, exist_ok=True)
        for start in progress(range(0, len(new), painter.batch_size), text=f"painting {len(new)} pictures"):
            part = new[start : start + painter.batch_size]
            for each, picture in zip(part, painter.draw(part), strict=True):
                with atomic(_file(home, each)) as path:
                    np.save(path, picture.numpy())
    except OSError as error:
        raise BadInput(f"cannot write to {home}: {error.strerror}; MILAN_CACHE=FOLDER sets another cache") from None
    side = size or painter.side
    kept = torch.zeros(len(wanted), 3, side, side, dtype=torch.uint8)
    for row, picture in enumerate(_read(home, wanted)):
        kept[row] = fitted(picture[None], size)[0]
    return kept.view(len(texts), count, 3, side, side)


def kept_picture(key: str, wanted: Wanted) -> UInt8[Tensor, "3 side side"] | None:
    """Return a picture that the painter of that key has drawn before; None if the cache has none or it is damaged."""
    file = _file(cache_folder() / "pictures" / key, wanted)
    return torch.from_numpy(np.load(file)) if _is_whole(file) else None


def _file(home: Path, each: Wanted) -> Path:
    return home / f"{content_key(text=each.text, seed=each.seed, number=each.number)}.npy"


def _is_whole(file: Path) -> bool:
    """Return whether a picture is there and not truncated."""
    with suppress(OSError, ValueError, EOFError):
        np.load(file, mmap_mode="r")
        return True
    return False


def _read(home: Path, wanted: Sequence[Wanted]) -> Iterator[Tensor]:
    for each in wanted:
        yield torch.from_numpy(np.load(_file(home, each)))
