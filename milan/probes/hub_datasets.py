"""Datasets of the Hugging Face library, from a path, its cache or the hub, with an error within seconds."""

import glob
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, UnknownName
from milan.probes.image_tables import DatasetSource, is_path_like
from milan.storage.hub_access import format_error_line

# Builders of the datasets library by suffix of the shards.
SHARD_BUILDERS = {".tar": "webdataset", ".parquet": "parquet"}
TIMEOUT_SECONDS = 5  # seconds to wait for the hub's answer


def open_dataset(spec: str) -> DatasetSource:
    """Open a split of a dataset: ``ID_OR_PATH`` if it has only one, else ``ID_OR_PATH#SPLIT``.

    A path is read as ``save_to_disk`` or ``load_dataset`` reads the folder; it is never sent to the hub.

    Raises:
        BadInput: it is neither a path nor cached, and the hub is out of reach, has no such dataset, or refuses it.
        UnknownName: the dataset has no such split.
    """
    name, _, split = spec.partition("#")
    path = Path(name).expanduser() if is_path_like(name) else None
    splits = _load_from_path(path) if path else _load_from_hub(name)
    if not split and len(splits) > 1:
        raise BadInput(
            f"hf:{clean_text(name)} has the splits {', '.join(splits)}; choose one, as in"
            f" hf:{clean_text(name)}#{next(iter(splits))}"
        )
    split = split or next(iter(splits))
    if split not in splits:
        raise UnknownName("split", split, list(splits), f"hf:{clean_text(name)} has {', '.join(splits)}")
    return DatasetSource(splits[split], f"hf:{clean_text(name)}#{split}", _folders(name, path))


def is_pattern(spec: str) -> bool:
    """Return whether a spec is a pattern of files, as shards/*.tar.

    >>> is_pattern("shards/*.tar"), is_pattern("photos/val.parquet")
    (True, False)
    """
    return glob.has_magic(spec)


def open_shards(pattern: str) -> DatasetSource:
    """Open the shards of one dataset: tar files as webdataset writes them (KEY.jpg, KEY.cls, ...), or parquet files.

    The library converts tar files to a table in its cache once. Shards are in the order of their names.

    Raises:
        BadInput: no file matches, the files are of other kinds, or they cannot be read.
    """
    import datasets

    pattern_text = clean_text(pattern)
    path = Path(pattern).expanduser()
    root = next(folder for folder in path.parents if not is_pattern(str(folder)))
    files = sorted(root.glob(str(path.relative_to(root))))
    builders = {SHARD_BUILDERS.get(file.suffix.lower()) for file in files}
    builder = builders.pop() if len(builders) == 1 else None
    if builder is None:
        kinds = ", ".join(sorted({file.suffix for file in files})) or "no file"
        raise BadInput(
            f"{pattern_text} matches {kinds}; give a pattern of .tar or of .parquet files, as 'shards/*.tar'"
        )
    try:
        rows = datasets.load_dataset(builder, data_files=[str(file) for file in files], split="train")
    except Exception as error:
        raise BadInput(f"cannot read the shards {pattern_text}: {format_error_line(error)}") from None
    return DatasetSource(rows, pattern_text, _folders("", files[0].parent))


def _folders(name: str, path: Path | None) -> list[Path]:
    """Return the folders of a dataset's files: its own or a part of the hub's cache, and the library's downloads."""
    from datasets import config
    from huggingface_hub import constants

    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return [path or cached, Path(config.DOWNLOADED_DATASETS_PATH)]


def _load_from_path(path: Path) -> dict[str, Any]:
    import datasets

    if not path.exists():
        raise BadInput(
            f"no dataset at {clean_text(str(path))}; give an existing path, or an ID of the hub such as hf:owner/name"
        )
    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return _list_splits(datasets.load_from_disk(str(path)))
        return _list_splits(datasets.load_dataset(str(path)))
    # The library raises anything for arbitrary folders.
    except Exception as error:
        raise BadInput(f"cannot read the dataset at {clean_text(str(path))}: {format_error_line(error)}") from None


def _load_from_hub(name: str) -> dict[str, Any]:
    import datasets
    from huggingface_hub import HfApi, errors

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT_SECONDS)
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise BadInput(f"the hub refuses the dataset {name!r}: {format_error_line(error)}; {_make_hint()}") from None
    # Without network, whatever the error, the cache can still be read.
    except Exception as error:
        return _load_from_cache(name, error)
    try:
        return _list_splits(datasets.load_dataset(name))
    except Exception as error:
        raise BadInput(f"cannot load the dataset {name!r}: {format_error_line(error)}; {_make_hint()}") from None


def _load_from_cache(name: str, why: Exception) -> dict[str, Any]:
    import datasets

    try:
        with _stay_offline(), warnings.catch_warnings(action="ignore"):
            return _list_splits(datasets.load_dataset(name))
    except Exception:
        raise BadInput(
            f"the dataset {name!r} is not in the cache and the hub cannot be reached ({format_error_line(why)});"
            f" {_make_hint()}"
        ) from None


@contextmanager
def _stay_offline() -> Iterator[None]:
    """Keep the libraries from asking a hub that does not answer, for which they would take half a minute."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _list_splits(dataset: Any) -> dict[str, Any]:
    return dict(dataset) if isinstance(dataset, dict) else {str(dataset.split or "train"): dataset}


def _make_hint() -> str:
    from datasets import config

    return f"downloads are kept in {config.HF_DATASETS_CACHE}; or pass a local copy, hf:PATH or a folder of images"
