"""Hash what decides the outputs of a network: weights, configuration, and its layers' outputs for fixed noise."""

import copy
import hashlib
import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.targets.module_access import forward_hooks, list_modules, seeded, strip_wrapper_prefixes
from milan.targets.module_outputs import select_tensor
from milan.targets.network_interface import RunnableNetwork

# Length of the fixed random weights of a projection. It is prime, so that it is no multiple of an image's row.
PERIOD = 4093
# Decimals kept of an output, in double precision and in the network's own. Both are far coarser than the differences
# between devices, or between numbers of threads.
DOUBLE_DECIMALS, OWN_DECIMALS = 2, 1
# Entries of a configuration that do not affect outputs.
_UNRELATED = {"transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id"}
# Attributes of a module that are hashed separately, or not read in evaluation mode.
_SKIPPED = {"training", "_parameters", "_buffers", "_modules"}


def network_hash(model: nn.Module) -> str:
    """Return the sha256 of a network's class, printed architecture, configuration and weights."""
    # Functions print their address.
    architecture = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    kind = type(model)
    described = (kind.__module__, kind.__qualname__, architecture, _configuration(model))
    digest = hashlib.sha256(repr(described).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            entry = (strip_wrapper_prefixes(name), str(value.dtype), tuple(value.shape), tensor_hash(value))
            digest.update(repr(entry).encode())
    return digest.hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _configuration(model: nn.Module) -> list[tuple[str, str]]:
    """Return the entries of a transformers or diffusers configuration that differ from their defaults."""
    entries: list[tuple[str, str]] = []
    for kind in ("config", "generation_config"):
        config: Any = getattr(model, kind, None)
        if hasattr(config, "to_diff_dict"):
            config = config.to_diff_dict()
        for key, value in config.items() if isinstance(config, dict) else ():
            if not str(key).startswith("_") and key not in _UNRELATED:
                entries.append((f"{kind}.{key}", repr(value)))
    return sorted(entries)


def attribute_hash(model: nn.Module) -> str:
    """Return a hash that changes, within a process, when an attribute, hook or buffer of any module does.

    Outputs for noise that were computed before are valid as long as this hash and the weights stay the same.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        own = sorted((key, _mark(value)) for key, value in vars(module).items() if key not in _SKIPPED)
        buffers = [(key, None if each is None else tensor_hash(each)) for key, each in module._buffers.items()]
        digest.update(repr((name, own, buffers)).encode())
    return digest.hexdigest()


def _mark(value: Any) -> str:
    if isinstance(value, int | float | str | bytes | bool | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return repr([_mark(each) for each in value])
    if isinstance(value, dict):
        return repr([(str(key), _mark(each)) for key, each in value.items()])
    return f"{type(value).__name__} {id(value)}"


def noise_outputs(target: RunnableNetwork) -> list[str]:
    """Summarize each output of each module for a fixed image of noise by two rounded numbers.

    The summaries change with the network's code, with attributes that it reads, and with buffers outside its state
    dict. They are the same on any device and for any number of threads: a copy of the network is run in double
    precision, and few digits are kept. A network that cannot be copied or run in double precision is run itself, and
    fewer digits are kept.
    """
    shape = target.noise(1, target.image_size).shape
    # Images are not prepared, since each device rounds them to single precision in its own way.
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(target.device)
    with target.evaluation_mode(), torch.no_grad():
        try:
            with seeded(target.device):
                return _summaries(_in_double_precision(target.core), noise, target.output_index, DOUBLE_DECIMALS)
        # Copying raises for some attributes, and the network's own code for a data type that it does not expect.
        except Exception:
            pass
        try:
            with seeded(target.device):
                return _summaries(target.core, noise.to(target.dtype), target.output_index, OWN_DECIMALS)
        # The network does not take such images, which is reported when its layers are inferred.
        except Exception as error:
            return [type(error).__name__]


def _in_double_precision(core: nn.Module) -> nn.Module:
    """Copy a network with its parameters and buffers in double precision; the original stays as it is."""
    tensors = [*core.parameters(), *core.buffers()]
    wider = {id(each): each.detach().to(_wider(each.dtype)) for each in tensors}
    return copy.deepcopy(core, memo=wider)


def _wider(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def _summaries(core: nn.Module, noise: Tensor, output_index: int | None, decimals: int) -> list[str]:
    found: list[str] = []

    def hook(name: str) -> Any:
        def summarize(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = select_tensor(output, output_index)
            if tensor is not None and tensor[1].numel():
                found.append(f"{name} {summary(tensor[1].detach().double().flatten(), decimals)}")

        return summarize

    with forward_hooks({**list_modules(core)[0], "": core}, hook):
        core(noise)
    return found


def summary(values: Float[Tensor, " n"], decimals: int) -> str:
    """Return the mean absolute value and a random projection, in multiples of it, as rounded text.

    >>> summary(torch.tensor([3.0, -4.0, 5.0]).double(), 2), summary(torch.zeros(2).double(), 2)
    ('4.00e+00 0.05', '0.00e+00 0.00')
    """
    size = float(values.abs().mean())
    weights = torch.rand(PERIOD, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    weights = weights.to(values.device)
    whole = len(values) // PERIOD * PERIOD
    total = values[:whole].view(-1, PERIOD).sum(0) @ weights + values[whole:] @ weights[: len(values) - whole]
    projection = float(total) / (size * len(values) ** 0.5) if size else 0.0
    # Adding zero turns a negative zero into a positive one.
    return f"{size:.{decimals}e} {round(projection, decimals) + 0.0:.{decimals}f}"
