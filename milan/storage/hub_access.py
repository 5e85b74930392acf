"""Access to model hubs: quick errors if a hub is out of reach, and loading without running code of models."""

import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from milan.errors import BadInput

TIMEOUT_SECONDS = 5  # until a hub that does not answer counts as out of reach
WEIGHTS_HINT = "--weights FILE (or --weights random)"
_assumed_unreachable: list[bool] = []


def go_offline() -> None:
    """Let nothing in this process, or in those that it starts, ask a hub or download a file."""
    os.environ["MILAN_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    # The hub's client reads the variable once, when it is imported.
    if "huggingface_hub.constants" in sys.modules:
        sys.modules["huggingface_hub.constants"].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def is_offline() -> bool:
    """Return whether nothing may be downloaded (``--offline``, or ``MILAN_OFFLINE=1`` in the environment)."""
    return os.environ.get("MILAN_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def is_reachable(url: str) -> bool:
    """Return whether the server of ``url`` answers, even with an error; offline none does. Proxies are used."""
    if is_offline() or _assumed_unreachable:
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


@contextmanager
def assume_unreachable() -> Iterator[None]:
    """Treat all servers as unreachable within the block, so that missing models are those to be downloaded."""
    _assumed_unreachable.append(True)
    try:
        yield
    finally:
        _assumed_unreachable.pop()


def make_unreachable_error(subject: str, url: str, cached: Path | str, hint: str = WEIGHTS_HINT) -> BadInput:
    """Return the error for a model that is neither cached nor downloadable."""
    return BadInput(
        f"{subject} is not on this machine and {url} is out of reach; it would be cached as {cached}; give {hint}"
    )


def format_error_line(error: BaseException) -> str:
    """Return the text of a library's error on one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return "it needs code from its own folder, which is never run; use a model whose class is part of the library"
    return text[:300] or type(error).__name__


def _is_online() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and is_reachable(constants.ENDPOINT)


def find_cached_if_offline(repository: str, filenames: Sequence[str], hint: str = WEIGHTS_HINT) -> Path | None:
    """Return None if the Hugging Face hub can be reached, else the first of a repository's files that is cached.

    Raises:
        BadInput: the hub is out of reach and none of the files is cached.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if _is_online():
        return None
    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(cached, str):
            return Path(cached)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    raise make_unreachable_error(repository, f"{constants.ENDPOINT}/{repository}", folder, hint)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers within the block, and keep it from asking whether to run code of a model.

    All calls in this package pass ``trust_remote_code=False``. Libraries that load transformers models themselves
    (open_clip, bert-score) do not; transformers would then ask on the console and run the code after a "y".
    """
    from transformers import dynamic_module_utils as remote_code
    from transformers.utils import logging as notices

    level, bar = notices.get_verbosity(), notices.is_progress_bar_enabled()
    seconds = remote_code.TIME_OUT_REMOTE_CODE
    notices.set_verbosity(logging.ERROR)
    notices.disable_progress_bar()
    # With no time for an answer, transformers refuses instead of asking.
    remote_code.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        remote_code.TIME_OUT_REMOTE_CODE = seconds
        notices.set_verbosity(level)
        if bar:
            notices.enable_progress_bar()
