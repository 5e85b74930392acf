"""What stands for a network in content keys: its weights, its configuration, and what its layers answer to fixed noise."""

import copy
import hashlib
import re
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milan.targets.modules import modules_by_name, plain_name, seeded
from milan.targets.outputs import chosen

if TYPE_CHECKING:
    from milan.targets.target import Target

PERIOD = 4093  # length of the fixed random weights of a projection; a prime, so that rows of an image never repeat it
# Decimals kept of an answer: in double precision, and where a network only runs in its own. The order in which a machine sums is far below.
EXACT, COARSE = 2, 1
_UNRELATED = {"transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id"}  # change no output


def network_hash(model: nn.Module) -> str:
    """sha256 of a network's class, printed architecture, configuration and weights (names, types, shapes, bytes)."""
    architecture = re.sub(r" at 0x[0-9a-f]+", "", repr(model))  # functions print where they lie in memory
    kind = type(model)
    digest = hashlib.sha256(repr((kind.__module__, kind.__qualname__, architecture, _configuration(model))).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(repr((plain_name(name), str(value.dtype), tuple(value.shape), hash_bytes(value))).encode())
    return digest.hexdigest()


def hash_bytes(tensor: Tensor) -> str:
    """sha256 of a tensor's values."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _configuration(model: nn.Module) -> list[tuple[str, str]]:
    """What the configurations of transformers or diffusers say beyond their defaults, by name."""
    told: list[tuple[str, str]] = []
    for kind in ("config", "generation_config"):
        config: Any = getattr(model, kind, None)
        if hasattr(config, "to_diff_dict"):
            config = config.to_diff_dict()
        for key, value in config.items() if isinstance(config, dict) else ():
            if not str(key).startswith("_") and key not in _UNRELATED:
                told.append((f"{kind}.{key}", repr(value)))
    return sorted(told)


def attribute_stamp(model: nn.Module) -> str:
    """Changes, within a process, when an attribute, a hook or a buffer of any module does; answers to noise hold as long as it does not."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in ("training", "_parameters", "_buffers", "_modules")}
        digest.update(repr((name, sorted((key, _mark(value)) for key, value in own.items()))).encode())
        for key, buffer in module._buffers.items():
            digest.update(repr((key, None if buffer is None else hash_bytes(buffer))).encode())
    return digest.hexdigest()


def _mark(value: Any) -> str:
    if isinstance(value, int | float | str | bytes | bool | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return repr([_mark(each) for each in value])
    if isinstance(value, dict):
        return repr([(str(key), _mark(each)) for key, each in value.items()])
    return f"{type(value).__name__} {id(value)}"


def answers_to_noise(target: "Target") -> list[str]:
    """What each call of each module of the network puts out for a fixed image of noise, in two rounded numbers.

    They change with the code of the network, attributes that it reads, and buffers that no state dict holds. They are the same on any
    device and with any number of threads: a copy of the network is run in double precision, of which a few digits are kept. A network
    that cannot be copied or does not run in double precision is run itself, and fewer digits are kept.
    """
    shape = target.noise(1, target.image_size).shape
    # Not prepared images, whose pixels are rounded to single precision by each device in its own way.
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with target.borrowed(), torch.no_grad(), seeded(target.device):
        try:
            return _calls(_in_double_precision(target.core), noise.to(target.device, torch.float64), target.output_index, EXACT)
        except Exception:  # whatever a network's own code raises about a data type that it does not expect, or copying about its attributes
            pass
        found: list[str] = []
        try:
            found = _calls(target.core, noise.to(target.device, target.dtype), target.output_index, COARSE)
        except Exception as error:  # the network does not take such images: whoever dissects it is told
            found.append(type(error).__name__)
        return found


def _in_double_precision(core: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are in double precision; nothing that a forward pass stores reaches the original."""
    tensors = [*core.parameters(), *core.buffers()]
    wider = {id(each): each.detach().to(_wider(each.dtype)) for each in tensors}
    return copy.deepcopy(core, memo=wider)


def _wider(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def _calls(core: nn.Module, noise: Tensor, output_index: int | None, decimals: int) -> list[str]:
    told: list[str] = []

    def hook(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            found = chosen(output, output_index)
            if found is not None and found[1].numel():
                told.append(f"{name} {summary(found[1].detach().double().flatten(), decimals)}")

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in modules_by_name(core)[0].items()]
    handles.append(core.register_forward_hook(hook("")))
    try:
        core(noise)
    finally:
        for handle in handles:
            handle.remove()
    return told


def summary(values: Float[Tensor, " n"], decimals: int) -> str:
    """The mean size of values, and a random projection of them in multiples of that size, rounded.

    >>> summary(torch.tensor([3.0, -4.0, 5.0]).double(), 2), summary(torch.zeros(2).double(), 2)
    ('4.00e+00 0.05', '0.00e+00 0.00')
    """
    size = float(values.abs().mean())
    weights = torch.rand(PERIOD, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sub_(0.5).to(values.device)
    whole = len(values) // PERIOD * PERIOD
    total = values[:whole].view(-1, PERIOD).sum(0) @ weights + values[whole:] @ weights[: len(values) - whole]
    along = float(total) / (size * len(values) ** 0.5) if size else 0.0
    return f"{size:.{decimals}e} {round(along, decimals) + 0.0:.{decimals}f}"
