"""Faults of describe.py's options that are reported before torch is imported and anything is loaded."""

import ast
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from milan.errors import BadInput, UnknownName
from milan.storage.files import is_file
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.user_code import is_file_spec

# Specs that are no paths.
_PROBE_KINDS = ("diorama", "hf", "latents")
_GLOB = re.compile(r"[*?\[]")


def check_paths(target: str, weights: str | None, probe: str) -> None:
    """Check that the files that options name exist.

    Raises:
        BadInput: the file of the target or of its weights does not exist.
        UnknownName: the folder or file of the probe does not exist; the message lists the nearest ones.
    """
    if is_file_spec(target) and not Path(file := target.rpartition(":")[0]).expanduser().is_file():
        raise BadInput(f"no file {file} (given as target {target!r})")
    if weights not in (None, "random") and not Path(str(weights)).expanduser().exists():
        raise BadInput(f"no file of weights {weights}; give a safetensors file or a saved state dict, or random")
    path = Path(re.sub(r"@(learn|judge)$", "", probe)).expanduser()
    if probe.partition(":")[0] in _PROBE_KINDS or _GLOB.search(probe) or path.exists():
        return
    beside = [str(item) for item in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = "give FOLDER, FILE.parquet, hf:ID_OR_PATH or diorama:NAME"
    raise UnknownName("probe", str(path), beside, hint)


def check_describer(spec: str, settings: Iterable[str]) -> None:
    """Check the name of a describer, or its file, and the names of its settings.

    Custom describers, tables of descriptions and ``auto`` are checked when they are loaded.

    Args:
        spec: as on the command line: a name, NAME:KEY=VALUE,..., a YAML file, ...
        settings: names of further settings.

    Raises:
        UnknownName: there is no such describer or setting; the message lists the nearest ones.
        BadInput: there is no such file.
    """
    if spec.endswith((".yaml", ".yml")):
        places = (Path(spec), locate_packaged_data("configs/describe") / spec)
        if not any(place.is_file() for place in places):
            raise BadInput(f"no file {spec} (given as describer)")
        return
    name, _, stated = spec.partition(":")
    is_table = spec.endswith((".csv", ".jsonl", ".parquet")) or is_file(Path(spec) / "descriptions.jsonl")
    if ".py:" in spec or spec == "auto" or is_table:
        return
    files = _find_describer_files()
    if name not in files:
        raise UnknownName("describer", name, files, "or give a custom one as PATH/FILE.py:CLASS")
    known = _read_setting_names(files[name])
    for setting in [*re.findall(r"(?:^|,)([A-Za-z_]\w*)=", stated), *settings]:
        if setting not in known:
            raise UnknownName(f"setting of {name}", setting, known, f"it has: {', '.join(known)}")


def _find_describer_files() -> Mapping[str, Path]:
    """Return the files of the package's describers by name, without importing them."""
    found = importlib.util.find_spec("milan")
    assert found is not None
    assert found.origin is not None
    files = sorted((Path(found.origin).parent / "describers").glob("[!_]*.py"))
    return {file.stem: file for file in files}


def _read_setting_names(file: Path) -> list[str]:
    """Return the names of the arguments of the constructor that a describer's file defines.

    Those of a constructor that passes ``**`` on are the base class's, too, which is in the same file or in ``_shared``.
    """
    own = _read_classes(file)
    known = {name: cls for each in (file.parent / "_shared").glob("*.py") for name, cls in _read_classes(each).items()}
    describers = [cls for cls in own.values() if cls.bases and _find_constructor(cls)]
    return _list_arguments(describers[0], known | own) if describers else []


def _read_classes(file: Path) -> dict[str, ast.ClassDef]:
    return {each.name: each for each in ast.parse(file.read_text("utf-8")).body if isinstance(each, ast.ClassDef)}


def _find_constructor(cls: ast.ClassDef) -> ast.FunctionDef | None:
    return next((each for each in cls.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)


def _list_arguments(cls: ast.ClassDef, known: Mapping[str, ast.ClassDef]) -> list[str]:
    constructor = _find_constructor(cls)
    bases = [known[base.id] for base in cls.bases if isinstance(base, ast.Name) and base.id in known]
    inherited = [name for base in bases for name in _list_arguments(base, known)]
    if constructor is None:
        return inherited
    own = [each.arg for each in (*constructor.args.args[1:], *constructor.args.kwonlyargs)]
    # A constructor may name an argument again to give it another default.
    return list(dict.fromkeys([*own, *(inherited if constructor.args.kwarg else [])]))
