"""``load_probe``: the images that a spec names, as a probe."""

from functools import partial
from pathlib import Path
from typing import Any

from milan.errors import BadInput
from milan.probes.band_files import open_folder
from milan.probes.generated_images import load_generator_target
from milan.probes.hub_datasets import is_pattern, open_dataset, open_shards
from milan.probes.image_folders import open_path
from milan.probes.image_sources import DioramaSource, ImageSource
from milan.probes.probe import Probe, TargetPreprocessing, warn_of_bands
from milan.probes.probe_splits import SplitSource, parse_split
from milan.targets.preprocessing import Preprocessing, Size, height_width, size_text

DIORAMA_SIZE = 64  # side in pixels of scenes without a target


def load_probe(
    spec: str,
    *,
    target: TargetPreprocessing | None = None,
    size: Size | None = None,
    channels: int | None = None,
    limit: int | None = None,
    **preprocessing: Any,
) -> Probe:
    """Load the images that a spec names, preprocessed for a target.

    Args:
        spec: FOLDER (all images in it, with its subfolders as classes), FILE.parquet (a column image, and optionally
            label and segmentation), a pattern of shards such as 'shards/*.tar' (as webdataset writes them) or
            'shards/*.parquet', hf:ID_OR_PATH[#SPLIT] (a Hugging Face dataset), diorama:objects or diorama:scenes, or
            latents:TARGET (the images of a generator, as latents:diorama:generator-objects, in its own size). With
            @learn or @judge at the end: a random four fifths of the images, or the other fifth; for Diorama the usual
            scenes, or others.
        target: the network that the probe is for, whose size, resize, interpolation and crop are applied.
        size: side of the images in pixels, or height and width, in place of the target's; without a target 224, or 64
            for Diorama.
        channels: number of the network's channels, without a target; for others than 1 or 3, a folder is read as arrays
            of bands (.npy, .tif).
        limit: use only the first so many images; of a Hugging Face dataset only these are downloaded.
        preprocessing: fields of :class:`milan.targets.preprocessing.Preprocessing` in place of the target's. Without a
            target the short side is resized to ``size`` and the centre is cropped.

    Raises:
        BadInput: there are no images, or they cannot be read.
        UnknownName: there is no such folder, file or split.
    """
    base, part = parse_split(spec)
    kind, _, rest = base.partition(":")
    if kind == "latents" and part:
        raise BadInput(f"the images of a generator have no splits; give {base}, without @{part}")
    if kind == "latents":
        return Probe.from_generator(load_generator_target(rest), spec=spec, limit=limit)
    own = Preprocessing(DIORAMA_SIZE) if kind == "diorama" else Preprocessing()
    chosen = (own if target is None else target.preprocessing).changed(**{"image_size": size, **preprocessing})
    if kind == "diorama":
        return Probe(
            DioramaSource(spec.partition(":")[2], _side(chosen.image_size, spec)),
            spec=spec,
            preprocessing=chosen,
            limit=limit,
        )
    if channels is not None and channels != chosen.channels:
        chosen = chosen.changed(mean=(0.0,) * channels, std=(1.0,) * channels)
    source: ImageSource
    if kind == "hf":
        # A split of the images is drawn from all of them.
        source = open_dataset(rest, None if part else limit)
    elif is_pattern(base) and not Path(base).expanduser().exists():
        source = open_shards(base)
    else:
        source = open_path(Path(base).expanduser(), partial(open_folder, channels=chosen.channels))
    probe = Probe(SplitSource(source, part) if part else source, spec=spec, preprocessing=chosen, limit=limit)
    warn_of_bands(probe)
    return probe


def _side(size: Size, spec: str) -> int:
    height, width = height_width(size)
    if height != width:
        raise BadInput(
            f"the scenes of {spec} are square, and the target takes {size_text(size)} pixels; use a folder of images"
        )
    return height
