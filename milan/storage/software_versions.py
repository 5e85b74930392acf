"""The versions of the software that results depend on."""

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from milan.storage.version import __version__

RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "transformers",
    "timm",
    "datasets",
    "numpy",
    "pillow",
    "safetensors",
)


@cache
def _read_git_hash() -> str | None:
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    return None


def collect_versions() -> dict[str, str]:
    """Return the versions of python, milan and the libraries that affect results; in a checkout also ``git``."""
    versions = {"python": platform.python_version(), "milan": __version__}
    for name in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    git = _read_git_hash()
    return versions | ({"git": git} if git else {})
