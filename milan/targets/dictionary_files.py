"""Load a dictionary: recognize its format by what the file holds, and read it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from milan.errors import BadInput
from milan.targets import dictionary_formats, overcomplete_format, saelens_formats
from milan.targets.checkpoints import pickled_name
from milan.targets.dictionary import Dictionary, DictionaryConfig
from milan.targets.dictionary_source import SETTINGS_FILES, DictionaryFile, open_dictionary


class DictionaryFormat(NamedTuple):
    """A file format: its name, how to recognize it, how to read it, and whether the user may state options."""

    name: str
    matches: Callable[[DictionaryFile], bool]
    read: Callable[[DictionaryFile], Dictionary]
    takes_options: bool = False


PLANTED_DIRECTIONS = "diorama:planted-rotated"
# Activations that are 0 but for the rounding of the rotation and its inverse lie below it.
_ROUNDING = 1e-3
# In order: the first that matches is read.
FORMATS = (
    DictionaryFormat("saev", dictionary_formats.is_saev, dictionary_formats.read_saev),
    DictionaryFormat("directions", dictionary_formats.is_directions, dictionary_formats.read_directions),
    DictionaryFormat("overcomplete", overcomplete_format.is_overcomplete, overcomplete_format.read_overcomplete, True),
    DictionaryFormat("sparsify", dictionary_formats.is_sparsify, dictionary_formats.read_sparsify),
    DictionaryFormat("vit_prisma", saelens_formats.is_vit_prisma, saelens_formats.read_vit_prisma),
    DictionaryFormat("dictionary_learning", dictionary_formats.is_ae_file, dictionary_formats.read_dictionary_learning),
    DictionaryFormat("saelens", saelens_formats.is_saelens, saelens_formats.read_saelens),
)


def load_dictionary(
    path: str | Path,
    *,
    activation: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    normalization: str | None = None,
    delta: float | None = None,
) -> Dictionary:
    """Load a sparse autoencoder, a transcoder or a set of directions from a file or folder.

    Read are the files of SAELens, saev, ViT-Prisma, dictionary_learning, sparsify and overcomplete, and
    ``directions.safetensors``, whose rows ``directions`` (n, d) are linear probes, concept activation vectors or
    components, with an optional ``bias`` (n) and names of the rows as a JSON list under ``names`` in the metadata.
    Nothing in a file is executed. The options are for state dicts of overcomplete, which do not hold these values.

    Args:
        path: A file of weights, with its ``cfg.json`` or ``config.json`` beside it, or a folder with such files; or
            ``diorama:planted-rotated`` for the directions of the concepts in that network.
        activation: ``relu`` (class SAE), ``topk`` (TopKSAE; needs k) or ``batchtopk`` (BatchTopKSAE; needs threshold).
        k: Number of active latents per place (``top_k`` of TopKSAE).
        threshold: ``running_threshold`` of BatchTopKSAE.
        normalization: Normalization of the dictionary's rows: ``l2``, ``max_l2``, ``l1``, ``max_l1`` or ``identity``.
        delta: Largest norm of a row's deviation from its archetypes (archetypal dictionaries).

    Raises:
        BadInput: The file does not exist, is damaged, is of no known format, or holds a dictionary whose codes this
            version does not compute.
    """
    stated = {
        "activation": activation,
        "k": k,
        "threshold": threshold,
        "normalization": normalization,
        "delta": delta,
    }
    options = {name: value for name, value in stated.items() if value is not None}
    if str(path) == PLANTED_DIRECTIONS:
        return _load_planted_directions()
    try:
        source = open_dictionary(Path(path).expanduser(), options)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    for file_format in FORMATS:
        if file_format.matches(source):
            if options and not file_format.takes_options:
                names = " and ".join(options)
                raise BadInput(f"{source.path} is of format {file_format.name}, which states {names} itself; omit it")
            return _read(file_format, source)
    raise BadInput(_unknown_format(source))


def _load_planted_directions() -> Dictionary:
    """Return the inverse of the rotation in Diorama's ``planted-rotated`` as a dictionary of its layer."""
    from milan.diorama.planted_network import LAYER, load_planted_truth, make_rotation

    rotation = make_rotation(len(load_planted_truth()))
    config = DictionaryConfig(
        activation="jumprelu", format="diorama", name="planted", model=PLANTED_DIRECTIONS, hook_point=LAYER
    )
    threshold = torch.full((len(rotation),), _ROUNDING)
    return Dictionary(rotation, rotation.T, threshold=threshold, config=config)


def _unknown_format(source: DictionaryFile) -> str:
    known = ", ".join(file_format.name for file_format in FORMATS)
    held = ", ".join(sorted(source.tensors)) or pickled_name(source.content) or f"a {type(source.content).__name__}"
    settings = "" if source.settings.values else f"; there is no {' or '.join(SETTINGS_FILES)} beside it"
    return f"{source.path} is no dictionary of a known format ({known}): it holds {held:.200}{settings}"


def _read(file_format: DictionaryFormat, source: DictionaryFile) -> Dictionary:
    try:
        return file_format.read(source)
    except BadInput as error:
        # Errors of the weights themselves do not know the file.
        if str(source.path.parent) in str(error):
            raise
        raise BadInput(f"{source.path} ({file_format.name}) cannot be used: {error}") from None
