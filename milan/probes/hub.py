"""Data sets by Hugging Face's library: from a path, its cache, or the hub, and a plain word within seconds where none can be had."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milan.command import clean
from milan.errors import BadInput, UnknownName
from milan.probes.sources import Rows, looks_like_path

PATIENCE = 5  # seconds to wait for the hub's answer


def open_dataset(spec: str) -> Rows:
    """A split of a data set: ``ID_OR_PATH`` if it has only one, else ``ID_OR_PATH#SPLIT``.

    A path is read as ``save_to_disk`` wrote it, or as ``load_dataset`` understands the folder; it is never sent to the hub.

    Raises:
        BadInput: it is neither a path nor in the cache and the hub cannot be reached, or has no such data set, or refuses it.
        UnknownName: no such split.
    """
    name, _, split = spec.partition("#")
    path = Path(name).expanduser() if looks_like_path(name) else None
    splits = _from_path(path) if path else _from_hub(name)
    if not split and len(splits) > 1:
        raise BadInput(f"hf:{clean(name)} has the splits {', '.join(splits)}; choose one, as in hf:{clean(name)}#{next(iter(splits))}")
    split = split or next(iter(splits))
    if split not in splits:
        raise UnknownName("split", split, list(splits), f"hf:{clean(name)} has {', '.join(splits)}")
    return Rows(splits[split], f"hf:{clean(name)}#{split}", _folders(name, path))


def _folders(name: str, path: Path | None) -> list[Path]:
    """Where the files of a data set may lie: its folder or part of the hub's cache, and the library's downloads."""
    from datasets import config
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return [path or cached, Path(config.DOWNLOADED_DATASETS_PATH)]


def _from_path(path: Path) -> dict[str, Any]:
    import datasets

    if not path.exists():
        raise BadInput(f"no data set at {clean(str(path))}; give an existing path, or an ID of the hub such as hf:owner/name")
    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return _splits(datasets.load_from_disk(str(path)))
        return _splits(datasets.load_dataset(str(path)))
    except Exception as error:  # the library meets wild folders with every kind of exception
        raise BadInput(f"cannot read the data set at {clean(str(path))}: {_short(error)}") from None


def _from_hub(name: str) -> dict[str, Any]:
    import datasets
    from huggingface_hub import HfApi, errors

    try:
        HfApi().dataset_info(name, timeout=PATIENCE)
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise BadInput(f"the hub does not give out the data set {name!r}: {_short(error)}; {_instead()}") from None
    except Exception as error:  # no network, in whichever way: what is in the cache can still be read
        return _from_cache(name, error)
    try:
        return _splits(datasets.load_dataset(name))
    except Exception as error:
        raise BadInput(f"cannot load the data set {name!r}: {_short(error)}; {_instead()}") from None


def _from_cache(name: str, why: Exception) -> dict[str, Any]:
    import datasets

    try:
        with _offline(), warnings.catch_warnings(action="ignore"):
            return _splits(datasets.load_dataset(name))
    except Exception:
        raise BadInput(f"the data set {name!r} is not in the cache and the hub cannot be reached ({_short(why)}); {_instead()}") from None


@contextmanager
def _offline() -> Iterator[None]:
    """Keeps the libraries from asking a hub that does not answer, which they would do for half a minute."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _splits(found: Any) -> dict[str, Any]:
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _instead() -> str:
    from datasets import config

    return f"downloads are kept in {config.HF_DATASETS_CACHE}; or pass a local copy, hf:PATH or a folder of images"


def _short(error: Exception) -> str:
    """The first line of a library's error."""
    return clean(str(error).strip().split("\n")[0])[:200] or type(error).__name__
