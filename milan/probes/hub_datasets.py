"""Datasets of the Hugging Face library, from a path, its cache or the hub, with an error within seconds."""

import glob
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, UnknownName
from milan.probes.image_sources import get_file_facts
from milan.probes.image_tables import DatasetSource, is_path_like
from milan.storage.files import content_key
from milan.storage.hub_access import format_error_line

# Builders of the datasets library by suffix of the shards.
SHARD_BUILDERS = {".tar": "webdataset", ".parquet": "parquet"}
TIMEOUT_SECONDS = 5  # seconds to wait for the hub's answer


def open_dataset(spec: str, limit: int | None = None) -> DatasetSource:
    """Open a split of a dataset: ``ID_OR_PATH`` if it has only one, else ``ID_OR_PATH#SPLIT``.

    A path is read as ``save_to_disk`` or ``load_dataset`` reads the folder; it is never sent to the hub.

    Args:
        spec: the dataset, and its split.
        limit: number of rows to open, from the first. Of a dataset that is not in the library's cache only these are
            downloaded and converted.

    Raises:
        BadInput: it is neither a path nor cached, and the hub is out of reach, has no such dataset, or refuses it.
        UnknownName: the dataset has no such split.
    """
    name, _, split = spec.partition("#")
    path = Path(name).expanduser() if is_path_like(name) else None
    splits = _load_from_path(path, limit) if path else _load_from_hub(name, limit)
    if not split and len(splits) > 1:
        raise BadInput(
            f"hf:{clean_text(name)} has the splits {', '.join(splits)}; choose one, as in"
            f" hf:{clean_text(name)}#{next(iter(splits))}"
        )
    split = split or next(iter(splits))
    if split not in splits:
        raise UnknownName("split", split, list(splits), f"hf:{clean_text(name)} has {', '.join(splits)}")
    rows = splits[split]
    if isinstance(rows, _FirstRows):
        rows = rows.convert(split)
    return DatasetSource(rows, f"hf:{clean_text(name)}#{split}", _folders(name, path))


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


@dataclass(frozen=True)
class _FirstRows:
    """The first rows of the splits of a dataset, which are read one after the other.

    Attributes:
        place: id or path of the dataset.
        limit: number of rows.
        version: changes when the dataset does.
    """

    place: str
    limit: int
    version: str

    def open(self) -> dict[str, Any]:
        """Return these rows for each split, none of them read yet."""
        import datasets

        return dict.fromkeys(datasets.load_dataset(self.place, streaming=True), self)

    def convert(self, split: str) -> Any:
        """Read the rows of a split into a table in the library's cache, once."""
        import datasets

        stream = datasets.load_dataset(self.place, split=split, streaming=True)
        features = stream.features or stream._resolve_features().features
        arguments = {"place": self.place, "limit": self.limit, "version": self.version, "split": split}
        try:
            return datasets.Dataset.from_generator(_read_first_rows, features=features, gen_kwargs=arguments)
        # A remote file or a row may fail in any way.
        except Exception as error:
            reason = format_error_line(error.__cause__ or error)
            raise BadInput(f"cannot read {self.limit} rows of hf:{clean_text(self.place)}: {reason}") from None


def _read_first_rows(place: str, split: str, limit: int, version: str) -> Iterator[dict[str, Any]]:
    """Yield rows with pictures as they are stored. The library finds the result again by these arguments."""
    import datasets

    stream = datasets.load_dataset(place, split=split, streaming=True)
    features = stream.features or stream._resolve_features().features
    for column, kind in features.items():
        if isinstance(kind, datasets.Image):
            stream = stream.cast_column(column, datasets.Image(decode=False))
    yield from stream.take(limit)


def _load_from_path(path: Path, limit: int | None) -> dict[str, Any]:
    import datasets

    if not path.exists():
        raise BadInput(
            f"no dataset at {clean_text(str(path))}; give an existing path, or an ID of the hub such as hf:owner/name"
        )
    try:
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return _list_splits(datasets.load_from_disk(str(path)))
        if limit is not None:
            files = [get_file_facts(file, path) for file in sorted(path.rglob("*")) if file.is_file()]
            return _FirstRows(str(path), limit, content_key(files=files)).open()
        return _list_splits(datasets.load_dataset(str(path)))
    # The library raises anything for arbitrary folders.
    except Exception as error:
        raise BadInput(f"cannot read the dataset at {clean_text(str(path))}: {format_error_line(error)}") from None


def _load_from_hub(name: str, limit: int | None) -> dict[str, Any]:
    import datasets
    from huggingface_hub import HfApi, errors

    if limit is not None:
        with suppress(BadInput):
            return _load_from_cache(name, BadInput("the first rows are enough"))
    try:
        info = HfApi().dataset_info(name, timeout=TIMEOUT_SECONDS)
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise BadInput(f"the hub refuses the dataset {name!r}: {format_error_line(error)}; {_make_hint()}") from None
    # Without network, whatever the error, the cache can still be read.
    except Exception as error:
        return _load_from_cache(name, error)
    try:
        if limit is not None:
            return _FirstRows(name, limit, str(info.sha)).open()
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
