"""Whether a hub can be asked, and what to say in seconds when it cannot."""

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from milan.errors import BadInput

PATIENCE = 5  # seconds until a hub that does not answer counts as out of reach
INSTEAD = "--weights FILE (or --weights random)"


def reachable(url: str) -> bool:
    """Whether the server of ``url`` answers at all, be it with a refusal; proxies of the environment are used."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def out_of_reach(what: str, url: str, cached: Path | str, instead: str = INSTEAD) -> BadInput:
    """The error for something that is neither cached nor to be had."""
    return BadInput(f"{what} is not on this machine and {url} is out of reach; it would be cached as {cached}; give {instead}")


def _online() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and reachable(constants.ENDPOINT)


def only_cached(repository: str, filenames: Sequence[str], instead: str = INSTEAD) -> Path | None:
    """None where the Hugging Face hub may be asked and answers; otherwise the first of a repository's files that is in the cache.

    Raises:
        BadInput: if the repository is neither cached nor to be had, within seconds.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if _online():
        return None
    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(cached, str):
            return Path(cached)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    raise out_of_reach(repository, f"{constants.ENDPOINT}/{repository}", folder, instead)
