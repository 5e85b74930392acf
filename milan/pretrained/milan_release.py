"""The files of the 2022 release of MILAN: trained models and MILANNOTATIONS, by name."""

import os

from milan.errors import UnknownName
from milan.pretrained.published_models import MissingModel, ModelFacts
from milan.storage.downloads import RemoteFile, is_downloaded
from milan.storage.hub_access import is_reachable

# The release's server; MILAN_RELEASE_URL names a mirror with the same paths.
RELEASE_URL = "http://milan.csail.mit.edu"
RELEASED_PREFIX = "released:"
RELEASED_MODELS = ("base", "cls", "gen", "imagenet", "places365", "alexnet", "resnet152", "biggan")


def is_released(spec: str) -> bool:
    """Return whether a spec names a model of the release.

    >>> is_released("released:base"), is_released("models/base.pth")
    (True, False)
    """
    return spec.startswith(RELEASED_PREFIX)


def locate_released_model(spec: str) -> RemoteFile:
    """Return where a model of the release is published and where it is kept, without downloading it.

    Raises:
        UnknownName: the release has no model of that name.
    """
    name = spec.removeprefix(RELEASED_PREFIX)
    if name not in RELEASED_MODELS:
        released = [f"{RELEASED_PREFIX}{each}" for each in RELEASED_MODELS]
        raise UnknownName("released model", spec, released, "one of: " + ", ".join(released))
    return RemoteFile(f"{release_url()}/models/milan-{name}.pth", f"milan-2022/milan-{name}.pth")


def find_missing_release(role: str, spec: str) -> list[MissingModel]:
    """Return the model of the release if it is neither in the cache nor can be downloaded."""
    remote = locate_released_model(spec)
    if is_downloaded(remote) or is_reachable(remote.url):
        return []
    hint = "put the file there, or give the path of a copy as captioner=FILE.pth"
    return [MissingModel(role, spec, remote.url, str(remote.path), ModelFacts("", "MIT"), hint)]


def locate_annotation_archive(dataset: str) -> RemoteFile:
    """Return where the annotations of a network, such as ``alexnet/imagenet``, are published and where they are
    kept.
    """
    name = dataset.replace("/", "-")
    return RemoteFile(f"{release_url()}/data/{name}.zip", f"milan-2022/{name}.zip")


def release_url() -> str:
    """Return the address of the release, or of the mirror that ``MILAN_RELEASE_URL`` names."""
    return os.environ.get("MILAN_RELEASE_URL", RELEASE_URL).rstrip("/")
