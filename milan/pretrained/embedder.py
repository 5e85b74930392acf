"""Image-text models as embedders of images and texts into one space; embeddings are cached.

``load_embedder`` loads one by name or path; ``embed_probe`` and ``embed_texts`` return the embeddings of a probe and of
texts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from milan.console.progress import track_progress
from milan.errors import BadInput, MissingEvidence, UnknownName, require_at_least
from milan.pretrained.embedder_interface import Embedder
from milan.pretrained.embedding_cache import ImageEmbeddingFile, TextEmbeddingStore
from milan.pretrained.image_text_models import ComputeSettings, OpenClipEmbedder, TransformersEmbedder
from milan.pretrained.model_sources import Precision, check_device, get_dtype, load_from_file
from milan.probes.probe import MAX_UNREADABLE_SHARE, Probe
from milan.storage.files import cache_folder, content_key
from milan.storage.packaged_data import locate_packaged_data

DIORAMA_MODELS = (
    "clip",
    "siglip-small",
    "siglip-large",
)  # folders of data/diorama; "diorama" alone is the first
FAMILIES = ("diorama", "open_clip", "hf")


def load_embedder(
    spec: str = "diorama", *, device: str = "cpu", precision: Precision = "float32", batch_size: int = 64
) -> Embedder:
    """Load an image-text model by name or path.

    Args:
        spec: ``open_clip:MODEL/PRETRAINED`` (as in open_clip:ViT-B-16/openai), ``open_clip:local-dir:FOLDER``,
            ``hf:ID_OR_FOLDER`` (CLIP, SigLIP and SigLIP 2 of transformers), ``diorama`` (the stand-in that comes with
            the package, an open_clip model), ``diorama:siglip-small`` and ``diorama:siglip-large`` (stand-ins of
            SigLIP's class), or a custom one as ``PATH/FILE.py:NAME``, a class or function without arguments that
            handles device and precision itself.
        device: device of the model.
        precision: of weights and computation; embeddings are float32 in any case.
        batch_size: number of images or texts per batch.

    Raises:
        UnknownName: there is no such family, stand-in, model or precision.
        MissingEvidence: a stand-in was not built.
        BadInput: the path leads to no such model, the hub lacks it or is out of reach, or the device cannot be used.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    get_dtype(precision)
    require_at_least(1, batch_size=batch_size)
    settings = ComputeSettings(check_device(device), precision, batch_size)
    family, _, name = spec.partition(":")
    if family == "diorama":
        folder = find_stand_in(name or DIORAMA_MODELS[0])
        return (
            OpenClipEmbedder(f"local-dir:{folder}", settings)
            if folder.name == DIORAMA_MODELS[0]
            else TransformersEmbedder(str(folder), settings)
        )
    if family not in FAMILIES or not name:
        hint = (
            "write diorama, open_clip:MODEL/PRETRAINED, open_clip:local-dir:FOLDER, hf:ID_OR_FOLDER or"
            " PATH/FILE.py:NAME"
        )
        raise UnknownName("embedder", spec, ["diorama", *(f"diorama:{each}" for each in DIORAMA_MODELS[1:])], hint)
    return OpenClipEmbedder(name, settings) if family == "open_clip" else TransformersEmbedder(name, settings)


def _load_custom(spec: str) -> Embedder:
    custom = load_from_file(spec, "embedder")
    if not isinstance(custom, Embedder):
        raise BadInput(
            f"{spec} makes a {type(custom).__name__}; it must make a milan.pretrained.embedder_interface.Embedder"
        )
    return custom


def find_stand_in(name: str) -> Path:
    """Return the folder of one of Diorama's image-text models.

    Raises:
        UnknownName: there is no stand-in of that name.
        MissingEvidence: it was not built.
    """
    if name not in DIORAMA_MODELS:
        raise UnknownName("stand-in", name, DIORAMA_MODELS, "one of: " + ", ".join(DIORAMA_MODELS))
    folder = locate_packaged_data("data/diorama") / name
    if not (folder / "quality.json").is_file():
        raise MissingEvidence(
            f"Diorama's {name} is not at hand in {folder}; make it with: python -m milan.diorama build --only {name}"
        )
    return folder


def embed_probe(embedder: Embedder, probe: Probe, workers: int = 0) -> Float[Tensor, "images features"]:
    """Return the embeddings of all images of a probe, mapped from a file in the cache; NaN for unreadable images.

    They are computed once for each embedder and probe, and an interrupted computation is continued. A second process
    waits for the first.

    Args:
        workers: number of threads that decode images ahead.

    Raises:
        BadInput: more than 5% of the images are unreadable, or the cache cannot be written.
    """
    key = content_key(embedder=embedder.key, probe=probe.fingerprint)
    rows = ImageEmbeddingFile(cache_folder() / "embeddings" / "images" / key, len(probe), embedder.features)
    with rows.lock_to_fill() as begun:
        if begun is not None:
            batches = probe.batches(embedder.batch_size, start=begun, workers=workers)
            steps = -(-(len(probe) - begun) // embedder.batch_size)
            for ids, images in track_progress(batches, total=steps, description=f"embedding {len(probe)} images"):
                rows.put(ids, embedder.encode_images(images))
            bad = rows.count_missing()
            if bad > MAX_UNREADABLE_SHARE * len(
                probe
            ):  # the probe itself reports them, unless the run that found them was killed
                raise BadInput(f"{bad} of {len(probe)} images of {probe.spec} cannot be read (more than 5%)")
    return rows.open()


def embed_texts(embedder: Embedder, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    """Return the embeddings of texts, in their order, from the cache where they were computed before."""
    with TextEmbeddingStore(
        cache_folder() / "embeddings" / "texts" / f"{content_key(embedder=embedder.key)}.sqlite", embedder.features
    ) as store:
        new = store.find_missing(texts)
        starts = range(0, len(new), embedder.batch_size)
        for start in track_progress(starts, description=f"embedding {len(new)} texts"):
            part = new[start : start + embedder.batch_size]
            store.put(part, embedder.encode_texts(part))
        return store.get(texts) if texts else torch.zeros(0, embedder.features)
