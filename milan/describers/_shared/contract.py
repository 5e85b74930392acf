"""The contract that every describer keeps, as a check that anyone can run on theirs, and the toy world it is checked
in.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from milan.describers._shared.base import Describer, DescriptionFailure
from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.probes import load_probe
from milan.storage.files import cache_root
from milan.targets.loading import load_target
from milan.targets.target import Target
from milan.units import Description, Unit

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220), "grey": (128, 128, 128)}
UNITS = ("red", "green", "blue", "bright", "dead", "sparse", "red or blue")  # of the layer "detectors", in order


class ColourDetectors(nn.Module):
    """A network set by hand: each unit of ``detectors`` answers to one colour; one never does, one to a single
    image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detectors = nn.Conv2d(3, len(UNITS), kernel_size=4, stride=4)
        assert self.detectors.bias is not None
        weights = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1], [0, 0, 0], [1, -2, 1], [1, -1.5, 0.6]]
        bias = [-0.1, -0.1, -0.1, 0, 0, -1.6, -0.2]  # only magenta passes the last but one
        self.detectors.weight.data = (
            torch.tensor(weights, dtype=torch.float32)[:, :, None, None].repeat(1, 1, 4, 4) / 16
        )
        self.detectors.bias.data = torch.tensor(bias)
        self.answers = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Return the maximum of each unit, (b, units), for images (b, 3, h, w)."""
        return self.answers(self.detectors(images)).amax((2, 3))


def make_detectors() -> Target:
    """Return the toy target, for ``load_target("milan/describers/_shared/contract.py:detectors")``."""
    return Target(ColourDetectors(), name="detectors", image_size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def make_toy_dissection(folder: Path) -> Dissection:
    """Dissect the layer ``answers`` of the toy target on 33 images of coloured squares, all kept in ``folder``."""
    probe = folder / "probe"
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        (probe / colour).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            _make_picture(value, rng).save(probe / colour / f"{index}.png")
    _make_picture((255, 0, 255), rng).save(probe / "red" / "magenta.png")
    target = load_target(f"{Path(__file__)}:make_detectors")
    return dissect(target, load_probe(str(probe), size=64), ["answers"], folder / "dissection", k=5, quantile=0.9)[
        "answers"
    ]


def check_describer(make: Callable[[], Describer], dissection: Dissection | None = None) -> None:
    """Check that a describer meets the contract, on the toy world or on a custom dissection that has a dead unit.

    The contract: one description for each active unit, in the order asked; the same description whichever units are
    described together; none for dead units; the same from a second describer and with another random state; nothing
    written outside the caches.

    Args:
        make: returns a new describer with the same settings at each call.

    Raises:
        AssertionError: the contract is broken; the text says how.
    """
    with tempfile.TemporaryDirectory() as folder, _use_own_cache(Path(folder)):
        world = dissection or make_toy_dissection(Path(folder))
        with watch_writes() as written:
            _check_contract(make, world, list(world.units))
        _require(not written, f"it wrote outside its caches: {', '.join(sorted(written)[:5])}")


def _check_contract(make: Callable[[], Describer], dissection: Dissection, units: list[Unit]) -> None:
    torch.manual_seed(1)
    first = _describe_all(make(), dissection, units)
    active = dissection.active_units()
    _require(
        [each.unit for each in first] == active,
        f"asked for {_format_units(units)}, of which {_format_units(active)} are active, it described"
        f" {_format_described_units(first)}",
    )
    for each in first:
        _check_description(each)
    torch.manual_seed(2)
    np.random.default_rng().random()
    other = make()
    _require(other.key == make().key, "two describers with the same settings have different keys")
    _require(
        _describe_all(other, dissection, units) == first,
        "a second describer with the same settings, or another state of torch's generator, gives other descriptions",
    )
    backwards = _describe_all(other, dissection, units[::-1])
    _require(
        [each.unit for each in backwards] == active[::-1],
        f"asked in another order it described {_format_described_units(backwards)}",
    )
    _check_same(first, backwards[::-1], "asked in another order")
    _check_same(
        first, [each for unit in active for each in _describe_all(other, dissection, [unit])], "asked one by one"
    )
    _require(_describe_all(other, dissection, []) == [], "asked for no unit it described some")
    dead = [unit for unit in units if unit not in active]
    _require(
        _describe_all(other, dissection, dead) == [],
        f"asked for units that cannot be described ({_format_units(dead)}) it described some",
    )
    interrupted = iter(other.describe(dissection, units))
    next(interrupted)
    del interrupted
    _check_same(
        first[1:], _describe_all(other, dissection, units[units.index(active[0]) + 1 :]), "resumed after the first"
    )


def _describe_all(describer: Describer, dissection: Dissection, units: Sequence[Unit]) -> list[Description]:
    results = list(describer.describe(dissection, units))
    failed = [each for each in results if isinstance(each, DescriptionFailure)]
    _require(not failed, f"it failed on the toy world: {failed[:1]}")
    return [each for each in results if isinstance(each, Description)]


def _check_description(description: Description) -> None:
    _require(description.text.strip() != "", f"{description.unit} has an empty description")
    _require(np.isfinite(description.score), f"{description.unit} has the score {description.score}")
    scores = [candidate.score for candidate in description.candidates]
    _require(
        scores == sorted(scores, reverse=True), f"the candidates of {description.unit} are not in order, best first"
    )
    texts = [candidate.text for candidate in description.candidates]
    _require(
        not texts or description.text in texts,
        f"the description of {description.unit}, {description.text!r}, is not among its candidates",
    )


def _check_same(one: Sequence[Description], other: Sequence[Description], when: str) -> None:
    """Require equal texts, and equal scores up to rounding, which depends on what is computed together."""
    _require(len(one) == len(other), f"{when} it gave {len(other)} descriptions, before {len(one)}")
    for before, after in zip(one, other, strict=True):
        close = np.isclose(before.score, after.score, rtol=1e-4, atol=1e-5)
        _require(
            before.text == after.text and close,
            f"{when} it says {after.text!r} ({after.score}) of {before.unit}; before {before.text!r} ({before.score})",
        )


@contextmanager
def watch_writes() -> Iterator[set[str]]:
    """Collect the files outside the caches that Python code writes, creates, moves or removes in this context."""
    allowed = [os.path.realpath(cache_root()), "/dev", sys.pycache_prefix or "/nowhere"]
    written: set[str] = set()
    on = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if on and (path := _find_written_path(event, arguments)) and "__pycache__" not in path:
            real = os.path.realpath(path)
            if not any(real == each or real.startswith(each + os.sep) for each in allowed):
                written.add(real)

    sys.addaudithook(hook)  # cannot be taken off again, only silenced
    try:
        yield written
    finally:
        on = False


def _find_written_path(event: str, arguments: tuple[Any, ...]) -> str:
    """Return the path that an audited event writes to; empty if it writes nothing."""
    if event == "open":
        path, mode, flags = arguments
        writes = (
            any(sign in mode for sign in "wax+")
            if isinstance(mode, str)
            else bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )
        return os.fsdecode(path) if writes and isinstance(path, str | bytes) else ""
    if event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "sqlite3.connect") and isinstance(
        arguments[0], str | bytes
    ):
        return os.fsdecode(arguments[0])
    if event in ("os.rename", "os.link", "os.symlink"):
        return os.fsdecode(arguments[1])
    return ""


@contextmanager
def _use_own_cache(folder: Path) -> Iterator[None]:
    """Use a folder of the check's own for caches and temporary files."""
    cache = folder / "cache"
    cache.mkdir()
    with patch.dict(os.environ, {"MILAN_CACHE": str(cache)}), patch.object(tempfile, "tempdir", str(cache)):
        yield


def _make_picture(colour: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """Return an image of a coloured square at a random place on a dark, slightly noisy background."""
    pixels = rng.integers(10, 30, (64, 64, 3))
    top, left = rng.integers(0, 8, 2) * 4
    pixels[top : top + 32, left : left + 32] = colour + rng.integers(-10, 10, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _format_units(units: Sequence[Unit]) -> str:
    return ", ".join(map(str, units)) or "none"


def _format_described_units(descriptions: Sequence[Description]) -> str:
    return _format_units([each.unit for each in descriptions])


def _require(holds: Any, text: str) -> None:
    if not holds:
        raise AssertionError(f"the describer breaks the contract: {text}")
