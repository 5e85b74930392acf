"""Where a model of a library is read from: a folder, the cache of a hub, or the hub."""

from pathlib import Path

from milan.errors import BadInput
from milan.storage.file_kinds import check_model_folder
from milan.storage.hub_access import find_cached_if_offline


def resolve_model(
    name: str, marker_file: str = "config.json", kind: str = "transformers model", family: str = "hf"
) -> tuple[str, bool]:
    """Return the folder or hub id of a model, and whether it is read without asking the hub.

    Args:
        name: a folder, or an id of the hub.
        marker_file: the file by which a folder of such a model is recognized.
        kind: what messages call such a model.
        family: what precedes the name in a spec.

    Raises:
        BadInput: the path leads to no such model, or the id is neither cached nor available within seconds.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / marker_file).is_file():
            raise BadInput(f"{name} holds no {marker_file}, so it is no folder of a {kind}")
        check_model_folder(path)
        return str(path), True
    if is_path_like(name):
        raise BadInput(f"no folder {name!r}; give a folder written by save_pretrained, or an id of the hub")
    hint = f"the path of a local copy, as in {family}:FOLDER"
    return name, find_cached_if_offline(name, (marker_file,), hint) is not None


def is_path_like(name: str) -> bool:
    """Return whether a name can only be a path, so that no hub is asked for it.

    >>> [is_path_like(name) for name in ("google/vit-base", "./vit", "a/b/c", "vit/", "~/vit", "C:\\\\vit")]
    [False, True, True, True, True, True]
    """
    written_as_path = name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1
    return written_as_path or Path(name.split("/")[0]).is_dir()
