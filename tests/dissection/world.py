"""A small network and its probe, whose dissection every test here can also work out by brute force."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from milan.dissection.dissect import WORK_FOLDER
from milan.probes import Probe
from milan.targets.target import Target

SIZE = 32
LAYERS = ["conv1", "relu", "conv2", "head"]


class Toy(nn.Module):
    """Two convolutions, a ReLU that overwrites what the first puts out, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=(1, 0))
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))

    def pooled(self, images: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(images))).amax((2, 3))


class Hungry(Toy):
    """Runs out of memory beyond ``most`` images, late in the pass, once it works in another thread."""

    most = 9

    def pooled(self, images: Tensor) -> Tensor:
        found = super().pooled(images)
        if len(images) > self.most and threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes. Error code 12"
            )
        return found


def toy_target(seed: int = 0, kind: type[Toy] = Toy) -> Target:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Target(kind(), name="toy", image_size=SIZE)


def toy_images(count: int = 150, size: int = SIZE, seed: int = 0) -> Tensor:
    """Smooth noise, so that maps have hills and valleys."""
    rough = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(rough, (size, size), mode="bicubic", align_corners=False)
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def toy_probe(count: int = 150) -> Probe:
    return Probe.from_tensor(toy_images(count))


def all_maps(target: Target, images: Tensor) -> dict[str, Tensor]:
    """Every layer's maps for every image, recorded by plain hooks of one's own."""
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for name, module in target.model.named_children():
            module.register_forward_hook(
                lambda _, __, output, name=name: found.setdefault(name, []).append(output.clone())
            )
        for part in target.prepare(images).split(32):
            target.model.eval()(part)
        for module in target.model.children():
            module._forward_hooks.clear()
    maps = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: values if values.ndim == 4 else values[:, :, None, None] for name, values in maps.items()}


def brute_exemplars(maps: Tensor, k: int) -> np.ndarray:
    """Ids by (peak falling, image rising), in float64."""
    peaks = maps.double().amax((2, 3)).numpy()
    return np.stack([np.lexsort((np.arange(len(column)), -column))[:k] for column in peaks.T])


def brute_thresholds(maps: Tensor, quantile: float) -> np.ndarray:
    return np.quantile(maps.double().transpose(0, 1).flatten(1).numpy(), quantile, axis=1)


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a result."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: content for name, content in found.items() if name != ".lock"}


def leftovers(folder: Path) -> list[str]:
    return [name for name in files(folder) if WORK_FOLDER in name or "partial" in name or "pending" in name]


def counted(target: Target) -> Iterator[int]:
    """Counts how many images have been through the network so far."""
    plain, seen = target.model.forward, 0

    def forward(images: Tensor) -> Tensor:
        nonlocal seen
        seen += len(images)
        return plain(images)

    target.model.forward = forward
    while True:
        yield seen
