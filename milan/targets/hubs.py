"""Whether a hub can be asked, and what to say in seconds when it cannot."""

import urllib.error
import urllib.request
from pathlib import Path

from milan.errors import BadInput

PATIENCE = 5  # seconds until a hub that does not answer counts as out of reach


def reachable(url: str) -> bool:
    """Whether the server of ``url`` answers at all, be it with a refusal; proxies of the environment are used."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def out_of_reach(what: str, url: str, cached: Path | str, instead: str = "--weights FILE (or --weights random)") -> BadInput:
    """The error for something that is neither cached nor to be had."""
    return BadInput(f"{what} is not on this machine and {url} is out of reach; it would be cached as {cached}; give {instead}")


def huggingface_cached(repository: str, filenames: tuple[str, ...]) -> bool:
    """Whether one of the files of a Hugging Face repository is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository, filename), str) for filename in filenames)


def huggingface_online() -> bool:
    """Whether the Hugging Face hub may be asked and answers."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)


def huggingface_place(repository: str) -> tuple[str, Path]:
    """The address of a repository and the folder in which it would be cached."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}", Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def check_huggingface(repository: str, filenames: tuple[str, ...], instead: str = "--weights FILE (or --weights random)") -> bool:
    """Whether to look in the cache only.

    Raises:
        BadInput: if the repository is neither cached nor to be had, within seconds.
    """
    if huggingface_online():
        return False
    if huggingface_cached(repository, filenames):
        return True
    url, place = huggingface_place(repository)
    raise out_of_reach(repository, url, place, instead)
