"""The bare module inside a wrapped one, its modules by name, and the state it is borrowed in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
    """The module that ``torch.compile``, ``DataParallel`` and their like wrap; ``model`` itself if none does."""
    while type(model).__name__ in WRAPPER_CLASSES:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def strip_wrapper_prefixes(name: str) -> str:
    """A module's name without what ``torch.compile`` puts into it.

    >>> strip_wrapper_prefixes("layer4._orig_mod.0.conv1"), strip_wrapper_prefixes("layer4._orig_mod")
    ('layer4.0.conv1', 'layer4')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def list_modules(core: nn.Module) -> tuple[dict[str, nn.Module], dict[str, tuple[str, ...]]]:
    """Each module below ``core`` once, under its first name, and the further names of those that are shared."""
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
    """Raises :class:`BadInput` for a network whose layers cannot be looked into."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise BadInput(
            f"{name} is (or holds) a TorchScript module, whose layers take no hooks; give the Python module it was made"
            " from"
        )
    for module in model.modules():
        if type(module).__module__.startswith(_QUANTIZED):
            raise BadInput(
                f"{name} is quantized ({type(module).__name__}), its layers put out no ordinary numbers; give the float"
                " network"
            )
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise BadInput(
                f"{name} has no weights yet: {key} is made when the network first runs; run it on an image of its size"
                " once"
            )
        if tensor.is_meta:
            raise BadInput(f"{name} has no weights yet: {key} is on the meta device; load its weights first")


def is_half(model: nn.Module) -> bool:
    """Whether any parameter is kept in 16 bits."""
    return any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())


def is_compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` has been at the module or a part of it."""
    return any(
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None)
        for module in model.modules()
    )


@contextmanager
def run_eagerly(model: nn.Module) -> Iterator[None]:
    """Compiled parts run as plain Python within the block, since compiled code does not see hooks put on later."""
    with ExitStack() as stack:
        if is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The module on ``device`` and in evaluation mode; afterwards each submodule is in the mode and place it came in.

    Modes are set as attributes, not by ``train()``: some modules override it with side effects (LoRA layers merge their
    weights there). A network that lies on several devices is left where it is.
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
