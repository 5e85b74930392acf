"""Faults of a program's options that are reported before torch is imported and anything is loaded."""

import ast
import glob
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milan.diorama.scenes import parse_world
from milan.dissection.pass_options import PassOptions, check_settings
from milan.errors import BadInput, UnknownName, require_at_least
from milan.storage.archives import is_archive
from milan.storage.files import check_folder, is_file
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.user_code import is_file_spec
from milan.targets.preprocessing import TargetOptions, as_size
from milan.targets.target_specs import check_target_spec, make_no_layers_error
from milan.targets.unit_ranges import parse_unit_ranges

# Options by what they name; several values are a list.
TARGETS = ("target", "plain", "blurred", "against")
WEIGHTS = ("weights", "plain_weights", "blurred_weights", "against_weights")
IMAGES = ("probe", "evaluation_probe", "unseen_probe", "other_probes", "images", "test_images")
DESCRIBERS = ("describer", "describers")
NO_FILES = ("diorama", "latents", "hf")  # kinds of images that are not files


def check_options(config: object, target_options: TargetOptions | None = None) -> None:
    """Check the options of a program that name targets, files, images, describers, units and numbers.

    Raises:
        UnknownName: there is no such target, describer, setting or path; the message lists the nearest ones.
        BadInput: a file does not exist, or a value is out of range.
    """
    for spec in list_values(config, TARGETS):
        check_target(spec)
    for file in list_values(config, WEIGHTS):
        check_weights(file)
    for spec in list_values(config, IMAGES):
        check_images(spec)
    for spec in list_values(config, DESCRIBERS):
        check_describer(spec, getattr(config, "settings", None) or {} if hasattr(config, "describer") else {})
    _check_numbers(config)
    _check_layers(config, target_options or getattr(config, "target_options", None) or TargetOptions())
    if out := getattr(config, "out", None):
        check_folder(out)


def list_values(config: object, names: Sequence[str]) -> list[str]:
    """Return the values of the options of these names, each once."""
    found: dict[str, None] = {}
    for value in (getattr(config, name, None) for name in names):
        found |= dict.fromkeys(value if isinstance(value, list) else [value] if value else [])
    return list(found)


def _check_numbers(config: Any) -> None:
    if hasattr(config, "quantile"):
        check_settings(config.k, config.quantile, config.rank_by)
    if hasattr(config, "memory"):
        PassOptions(config.batch_size, config.memory, config.workers)
    require_at_least(1, limit=getattr(config, "limit", None))


def _check_layers(config: Any, options: TargetOptions) -> None:
    """Check that layers are given where the target has no default ones, the units, and sizes of images."""
    for name in ("image_size", "resize"):
        if (size := getattr(options, name)) is not None:
            as_size(size, name)
    if not hasattr(config, "layers"):
        return
    for _ in parse_unit_ranges(getattr(config, "units", ""), config.layers or ()):
        pass
    target = getattr(config, "target", "diorama:")
    known = target.startswith("diorama:") or is_file_spec(target) or options.dictionary is not None
    if not config.layers and not known:
        raise make_no_layers_error(target)


def check_target(spec: str) -> None:
    """Check a target's spec, and that its file exists.

    Raises:
        UnknownName, BadInput: there is no such family, network or file.
    """
    check_target_spec(spec)
    if is_file_spec(spec) and not Path(file := spec.rpartition(":")[0]).expanduser().is_file():
        raise BadInput(f"no file {file} (given as target {spec!r})")


def check_weights(file: str) -> None:
    """Raise BadInput if a file of weights does not exist."""
    if file != "random" and not Path(file).expanduser().exists():
        raise BadInput(f"no file of weights {file}; give a safetensors file or a saved state dict, or random")


def check_images(spec: str) -> None:
    """Check that the images that a spec names exist, as far as the file system tells.

    Raises:
        UnknownName: there is no such folder, file or kind of scenes; the message lists the nearest ones.
        BadInput: the folder is empty, or the file is of no kind that holds images.
    """
    base = re.sub(r"@(learn|judge)$", "", spec)
    kind, _, name = base.partition(":")
    if kind == "latents":
        check_target(name)
    if kind == "diorama":
        parse_world(name)
    path, hint = Path(base).expanduser(), "give FOLDER, FILE.parquet, 'shards/*.tar', hf:ID_OR_PATH or diorama:NAME"
    if kind in NO_FILES:
        return
    if glob.has_magic(base) and not path.exists():
        if not any(glob.iglob(str(path), recursive=True)):  # noqa: PTH207 (Path.glob takes no absolute patterns)
            raise BadInput(f"{path} matches no file; {hint}")
        return
    if path.is_file() and path.suffix.lower() != ".parquet" and not is_archive(path):
        raise BadInput(f"{path} is a file, but neither .parquet nor .zip nor .tar; {hint}")
    if path.is_dir() and not any(item.is_file() for item in path.rglob("*")):
        raise BadInput(f"no images found under {path}, which has no files; {hint}")
    if not path.exists():
        beside = [str(item) for item in path.parent.iterdir()] if path.parent.is_dir() else []
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
