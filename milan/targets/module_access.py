"""Access to the modules of a network: wrappers removed, names, device, mode and random state."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from milan.errors import BadInput

WRAPPER_CLASSES = ("DataParallel", "DistributedDataParallel", "OptimizedModule")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "torch.nn.quantized",
    "torch.nn.intrinsic.quantized",
)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of ``torch.compile``, ``DataParallel`` and similar ones."""
    while type(model).__name__ in WRAPPER_CLASSES:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def strip_wrapper_prefixes(name: str) -> str:
    """Return a module's name without the parts that ``torch.compile`` inserts.

    >>> strip_wrapper_prefixes("layer4._orig_mod.0.conv1"), strip_wrapper_prefixes("layer4._orig_mod")
    ('layer4.0.conv1', 'layer4')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def list_modules(core: nn.Module) -> tuple[dict[str, nn.Module], dict[str, tuple[str, ...]]]:
    """Return each module below ``core`` by its first name, and the aliases of shared modules."""
    first: dict[int, str] = {}
    modules: dict[str, nn.Module] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    for full, wrapped in core.named_modules(remove_duplicate=False):
        name, module = strip_wrapper_prefixes(full), unwrap(wrapped)
        if not name or name in modules:
            continue
        known = first.setdefault(id(module), name)
        if known == name:
            modules[name] = module
        elif name not in aliases.get(known, ()):
            aliases[known] = (*aliases.get(known, ()), name)
    return modules, aliases


def check_usable(model: nn.Module, name: str) -> None:
    """Raise BadInput for a network that takes no hooks or has no weights."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise BadInput(
            f"{name} is (or holds) a TorchScript module, whose layers take no hooks; give the Python module it was made"
            " from"
        )
    for module in model.modules():
        if type(module).__module__.startswith(_QUANTIZED):
            raise BadInput(
                f"{name} is quantized ({type(module).__name__}), whose outputs are no ordinary tensors; give the float"
                " network"
            )
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise BadInput(
                f"{name} has no weights yet: {key} is created by the first forward pass; run it once on an image"
            )
        if tensor.is_meta:
            raise BadInput(f"{name} has no weights yet: {key} is on the meta device; load its weights first")


def parse_device(device: str | torch.device) -> torch.device:
    """Return a device by name; under ``torchrun``, ``cuda`` is this process's own GPU of the machine.

    Raises:
        BadInput: no tensor can be put there.
    """
    try:
        if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
            # Where a scheduler shows each process its own GPU only, this is the first one.
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % max(1, torch.cuda.device_count()))
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"device {str(device)!r} cannot be used: {reason}; --device cpu always can") from error


def is_half(model: nn.Module) -> bool:
    """Return whether any parameter has 16 bits."""
    return any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())


def is_compiled(model: nn.Module) -> bool:
    """Return whether the module or a part of it was compiled by ``torch.compile``."""
    return any(
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None)
        for module in model.modules()
    )


@contextmanager
def run_eagerly(model: nn.Module) -> Iterator[None]:
    """Run compiled parts as plain Python within the block, since compiled code ignores hooks registered later."""
    with ExitStack() as stack:
        if is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def forward_hooks(modules: Mapping[str, nn.Module], make_hook: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    """Keep a forward hook, made from the module's name, on each module within the block."""
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(make_hook(name)).remove)
        yield


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep the module on a device in evaluation mode within the block; then restore the mode and device of each part.

    Modes are set as attributes, not by ``train()``, which some modules override with side effects (LoRA layers merge
    their weights there). A network on several devices is not moved.
    """
    modes = [(module, module.training) for module in model.modules()]
    places = {tensor.device for tensor in [*model.parameters(), *model.buffers()]}
    home = next(iter(places)) if len(places) == 1 else None
    moved = home is not None and torch.empty(0, device=device).device != home
    try:
        if moved:
            model.to(device)
        for module, _ in modes:
            module.training = False
        with run_eagerly(model):
            yield
    finally:
        for module, training in modes:
            module.training = training
        if moved:
            model.to(home)


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Seed the random numbers of the CPU and of ``device`` within the block; the random state outside is unchanged."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.manual_seed(0)
        yield
