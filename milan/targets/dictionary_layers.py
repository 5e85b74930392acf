"""Layers of a target whose units are the latents of a dictionary."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from milan.errors import BadInput
from milan.targets.dictionary import Dictionary
from milan.targets.fingerprints import network_hash
from milan.targets.layers import DissectableLayers, Layer
from milan.targets.layouts import unit_axis
from milan.targets.sparse_activations import SparseActivations

# What the formats call an output of a block -> the modules of timm, transformers and open_clip that put it out.
_BLOCK_OUTPUTS = {
    "resid_post": ("",),
    "mlp_out": (".mlp", ".output.dense"),
    "attn_out": (".attn", ".self_attn", ".attention.output.dense", ".attention"),
    "mlp_post": (".mlp.act", ".mlp.gelu", ".mlp.activation_fn", ".mlp.activation", ".intermediate"),
}
_LISTED = 20
_BLOCK = r"(?:.*\.)?(?:blocks|resblocks|layers?|h)\.{}"
_HOOKS = (
    # SAELens and ViT-Prisma: blocks.10.hook_resid_post, blocks.10.mlp.hook_post.
    re.compile(r"blocks\.(?P<block>\d+)\.(?:(?P<part>mlp|attn)\.)?hook_(?P<output>\w+)"),
    # dictionary_learning: resid_post_layer_10.
    re.compile(r"(?P<output>resid_post|resid_pre|mlp_out|attn_out)_layer_(?P<block>\d+)(?P<part>)"),
    # sparsify: layers.10, layers.10.mlp.
    re.compile(r"(?:layers|h|blocks)\.(?P<block>\d+)(?:\.(?P<part>mlp|attn))?(?P<output>)"),
)


@dataclass(frozen=True)
class AttachedDictionary:
    """A dictionary, the name of the network's layer that it encodes, and its own name in names of layers."""

    dictionary: Dictionary
    layer: str
    name: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies its codes: layer, name, and a hash of the dictionary's settings and weights."""
        return self.layer, self.name, network_hash(self.dictionary) + self.dictionary.config.tokens


@dataclass(frozen=True, repr=False)
class DictionaryLayer(Layer):
    """A layer whose units are the latents of a dictionary: their activations are its codes of the module's output.

    Attributes:
        base: the layer of the network that is encoded.
        dictionary: the dictionary; its setting ``tokens`` says which tokens it encodes.
    """

    base: Layer = field(kw_only=True)
    dictionary: Dictionary = field(kw_only=True, compare=False)

    @property
    def network_layer(self) -> str:
        """Name of the layer of the network whose output determines the units' activations."""
        return self.base.name

    @property
    def is_sparse(self) -> bool:
        """Whether a latent is active at few places, which is not so for directions."""
        return self.dictionary.config.activation != "identity"

    def sparse_activations(self, output: Tensor) -> SparseActivations:
        """Return the codes that are not 0, in the grid and in the class token, without holding the others."""
        vectors = self._vectors(output).reshape(len(output), -1, self.dictionary.d_in)
        rows, latents, codes = self._dictionary_on(output).encode_sparse(vectors.flatten(0, 1))
        images, tokens = rows // vectors.shape[1], rows % vectors.shape[1]
        prefix, places = self.prefix_tokens, self._places(vectors.shape[1], rows.device)
        kept = (tokens >= prefix) | (tokens == 0) if self.has_class_token else tokens >= prefix
        images, tokens, latents, codes = images[kept], tokens[kept], latents[kept], codes[kept]
        return SparseActivations(images, places[tokens], latents, codes.float())

    def _places(self, tokens: int, device: torch.device) -> Tensor:
        """Return the index of each token's place in the grid; their number for the tokens before the grid."""
        count = tokens - self.prefix_tokens
        places = torch.arange(count, device=device)
        if self.order:
            places = places.scatter(0, torch.tensor(self.order, device=device), places)
        return torch.cat([places.new_full((self.prefix_tokens,), count), places])

    def read(self, output: Tensor) -> Tensor:
        """Return the codes of the module's output, in the layer's layout."""
        codes = self._dictionary_on(output).encode(self._vectors(output))
        if self._is_class_token_only:
            return codes[:, 0]
        return codes.movedim(-1, unit_axis(self.layout))

    def written_directions(self, weights: Float[Tensor, "network_units further"]) -> Float[Tensor, "units further"]:
        """Return what each latent's row of the decoder leads to; the scale of each activation vector is ignored.

        Raises:
            BadInput: the dictionary is a transcoder.
        """
        self._check_writes()
        config, decoder = self.dictionary.config, self.dictionary.decoder.cpu()
        return decoder @ weights / (config.scale if config.denormalize else 1)

    def write(self, values: Tensor, output: Tensor) -> Tensor:
        """Return the module's output in which the latents have other codes.

        The output changes by ``decode(values) - decode(codes)``, so that the error of the reconstruction stays. The
        codes of the result are encoded anew, and may differ from ``values``.

        Raises:
            BadInput: the dictionary is a transcoder, whose output belongs to another layer.
        """
        self._check_writes()
        dictionary, vectors = self._dictionary_on(output), self._vectors(output)
        codes = values[:, None] if self._is_class_token_only else values.movedim(unit_axis(self.layout), -1)
        # Other codes of one image, or the same ones for all places, may be given.
        change = dictionary.decode(codes, vectors) - dictionary.decode(dictionary.encode(vectors), vectors)
        return self._with_vectors((vectors + change).to(output.dtype), output)

    def _check_writes(self) -> None:
        if self.dictionary.config.transcoder:
            raise BadInput(
                f"{self.name} belongs to a transcoder, whose decoder writes to another layer than {self.base.name};"
                " its latents can be described, and not ablated or steered"
            )

    @property
    def _is_class_token_only(self) -> bool:
        return self.dictionary.config.tokens == "cls" and self.base.layout == "BNC"

    def _tokens(self, output: Tensor) -> tuple[int, int]:
        """Return the first of the tokens that are encoded, and the one after the last."""
        tokens, count = self.dictionary.config.tokens, output.shape[1]
        return {"cls": (0, 1), "patches": (self.base.prefix_tokens, count)}.get(tokens, (0, count))

    def _vectors(self, output: Tensor) -> Float[Tensor, "b *places width"]:
        """Return the vectors of the module's output that the dictionary encodes."""
        if self.base.layout == "BNC":
            first, end = self._tokens(output)
            return output[:, first:end]
        return output.movedim(unit_axis(self.base.layout), -1)

    def _with_vectors(self, vectors: Float[Tensor, "b *places width"], output: Tensor) -> Tensor:
        """Return the module's output with other vectors in place of those that the dictionary encodes."""
        if self.base.layout != "BNC":
            return vectors.movedim(-1, unit_axis(self.base.layout))
        first, end = self._tokens(output)
        before, after = (part.expand(len(vectors), -1, -1) for part in (output[:, :first], output[:, end:]))
        return torch.cat([before, vectors, after], 1)

    def _dictionary_on(self, output: Tensor) -> Dictionary:
        return self.dictionary.to(output.device)


def add_dictionary_layers(found: DissectableLayers, attached: Iterable[AttachedDictionary]) -> DissectableLayers:
    """Return the layers with one more for each dictionary, after the layer that it encodes."""
    layers = list(found.by_name.values())
    for each in attached:
        base = found.by_name[each.layer]
        layers.insert(layers.index(base) + 1, _make_layer(base, each))
    return DissectableLayers(layers, found.reasons, found.call_counts)


def attach_dictionary(
    layers: DissectableLayers, dictionary: Dictionary, layer: Layer | str, name: str
) -> AttachedDictionary:
    """Check that a dictionary fits a layer of a network.

    Args:
        layers: the layers of the network.
        dictionary: the dictionary.
        layer: the layer, or the name that the dictionary's format has for it, as ``blocks.10.hook_resid_post``.
        name: name of the dictionary in names of layers.

    Raises:
        BadInput: the layer has another width or not the tokens that the dictionary encodes, there is no module for the
            format's name, or the name cannot be used.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise BadInput(f"name of a dictionary is {name!r}; use letters, digits, '_', '-' and '.'")
    base = layer if isinstance(layer, Layer) else _find_hooked_layer(layers, layer, dictionary.d_in)
    if isinstance(base, DictionaryLayer):
        raise BadInput(f"{base.name} consists of the latents of a dictionary; name a layer of the network")
    if f"{base.name}@{name}" in layers.by_name:
        raise BadInput(f"there is a layer {base.name}@{name} already; give the dictionary another name")
    if base.units != dictionary.d_in:
        text = f"layer {base.name!r} has {base.units} units, and the dictionary {dictionary.name!r} encodes"
        raise BadInput(f"{text} {dictionary.d_in}; {_list_fitting(layers, dictionary.d_in)}")
    tokens = dictionary.config.tokens
    if tokens == "cls" and base.layout != "BC" and not base.has_class_token:
        raise BadInput(f"the dictionary {dictionary.name!r} encodes class tokens, and {base.name!r} has none")
    return AttachedDictionary(dictionary, base.name, name)


def _make_layer(base: Layer, attached: AttachedDictionary) -> DictionaryLayer:
    dictionary, name = attached.dictionary, f"{base.name}@{attached.name}"
    tokens = dictionary.config.tokens if base.layout == "BNC" else "all"
    shape, units = list(base.shape), dictionary.latents
    # Shapes are without the batch axis.
    shape[0 if base.layout in ("BCHW", "BC") else -1] = units
    same: dict[str, Any] = {"aliases": base.aliases, "module": base.module, "call": base.call}
    same |= {"base": base, "dictionary": dictionary}
    if tokens == "cls":
        return DictionaryLayer(name, (units,), units, "BC", (1, 1), **same)
    same["order"] = base.order
    if tokens == "patches":
        shape[0] -= base.prefix_tokens
    else:
        same |= {"prefix_tokens": base.prefix_tokens, "has_class_token": base.has_class_token}
    return DictionaryLayer(name, tuple(shape), units, base.layout, base.grid, **same)


def _find_hooked_layer(layers: DissectableLayers, hook: str, width: int) -> Layer:
    """Return the layer that a format calls by the name of a hook."""
    fitting = [layer for layer in layers.by_name.values() if layer.units == width and type(layer) is Layer]
    for block, output in _parse_hook(hook):
        for suffix in _BLOCK_OUTPUTS.get(output, ()):
            pattern = re.compile(_BLOCK.format(block) + re.escape(suffix))
            matching = [layer for layer in fitting if pattern.fullmatch(layer.name)]
            if len(matching) == 1:
                return matching[0]
    raise BadInput(f"the network has no layer {hook!r} of {width} units; {_list_fitting(layers, width)}")


def _parse_hook(hook: str) -> list[tuple[int, str]]:
    """Return the block and the output that a hook's name means; none if it is of no known form.

    >>> _parse_hook("blocks.10.hook_mlp_out"), _parse_hook("blocks.3.mlp.hook_post"), _parse_hook("layers.7")
    ([(10, 'mlp_out')], [(3, 'mlp_post')], [(7, 'resid_post')])
    >>> _parse_hook("blocks.3.hook_resid_pre"), _parse_hook("blocks.0.hook_resid_pre"), _parse_hook("head")
    ([(2, 'resid_post')], [], [])
    """
    match = next((found for pattern in _HOOKS if (found := pattern.fullmatch(hook))), None)
    if match is None:
        return []
    block, part, output = int(match["block"]), match["part"] or "", match["output"]
    if not output:
        output = f"{part}_out" if part else "resid_post"
    elif part:
        output = f"{part}_{output}"
    # The input of a block is the output of the one before.
    if output == "resid_pre":
        return [(block - 1, "resid_post")] if block else []
    return [(block, output)]


def _list_fitting(layers: DissectableLayers, width: int) -> str:
    names = [layer.name for layer in layers.by_name.values() if layer.units == width and type(layer) is Layer]
    if not names:
        return f"no layer of the network has {width} units"
    # Whole blocks before their parts.
    names.sort(key=lambda name: name.count("."))
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"layers of {width} units: {', '.join(names[:_LISTED])}{more}"
