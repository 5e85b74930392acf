"""What a describer is called by, and the settings that follow from it: the same in every program and experiment.

A spec is the name of a describer (``clip_dissect``, ``PATH/FILE.py:CLASS``), a name with settings
(``linear_explanations:evidence=labels,longest=3``), a YAML file of options as in ``configs/describe``, a table of
descriptions, or ``auto``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from milan.describers import build_describer, find_describer_class, list_describers, parse_settings
from milan.describers._shared.availability import check_ready, choose_describer
from milan.describers._shared.base import Describer, warn_of_sent_images
from milan.errors import BadInput, MilanError
from milan.probes import Probe
from milan.storage.files import content_key, is_file
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.provenance import is_simulated
from milan.targets.target import Target

CONFIG_FOLDER = "configs/describe"
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
YAML_SUFFIXES = (".yaml", ".yml")
AUTO = "auto"
MAX_LABEL = 120  # characters: file systems allow names of 255 bytes
_WITH_SETTINGS = re.compile(r"(.+?):([A-Za-z_]\w*=.*)", re.DOTALL)


@dataclass(frozen=True)
class DescriberSpec:
    """A spec taken apart.

    Attributes:
        name: of the describer.
        label: what tables and folders call it.
        settings: those that the spec states.
        dissection: ``k`` and ``quantile``, where a file of options states them.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    dissection: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedDescriber:
    """A describer that is ready to describe a target's units, and how its spec was read."""

    describer: Describer
    label: str
    dissection: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""  # why ``auto`` has chosen it


def resolve_describer(
    spec: str,
    target: Target,
    probe: Probe,
    *,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    check: bool = True,
) -> ResolvedDescriber:
    """Load the describer that a spec names, with the settings that suit target and probe.

    Settings are, from the weakest to the strongest: the constructor's defaults, which are the published ones; those of
    ``configs/describe/NAME-diorama.yaml`` where target or probe is simulated; those of the spec; ``settings``.

    Args:
        spec: see this module.
        check: whether models and evidence are looked for, so that whatever is missing is reported at once.

    Raises:
        UnknownName: there is no such describer or setting.
        BadInput: a file or a value cannot be used.
        MissingEvidence: a model, or evidence such as labels, is neither here nor can be downloaded.
    """
    reason = ""
    if spec == AUTO:
        chosen = choose_describer(target, probe, lambda each: _load(parse_spec(each), target, probe, {}, device))
        spec, reason = chosen.spec, chosen.reason
    parsed = parse_spec(spec)
    describer = _load(parsed, target, probe, settings or {}, device)
    if check:
        check_ready(describer, target, probe)
    # Only now, since nothing is sent by a describer that cannot run.
    warn_of_sent_images(describer)
    return ResolvedDescriber(describer, parsed.label, parsed.dissection, reason)


def _load(spec: DescriberSpec, target: Target, probe: Probe, settings: Mapping[str, Any], device: str) -> Describer:
    given = {**spec.settings, **settings}
    sources = (target.spec or target.name, probe.spec)
    return build_describer(spec.name, **resolve_settings(spec.name, given, sources, device))


def resolve_settings(
    name: str, settings: Mapping[str, Any], sources: tuple[str, str], device: str = "cpu"
) -> dict[str, Any]:
    """Return the settings of a describer, typed and completed by those that suit target and probe.

    A describer that wraps another one (``of``) passes that one's settings on as ``options``, one that wraps several
    (``describers``) passes those of each, by its spec; they are completed alike.

    Args:
        sources: specs of target and probe.

    Raises:
        UnknownName: there is no such describer or setting.
        BadInput: a value is of the wrong type.
    """
    kept = (_read_simulated_settings(name) if any(map(is_simulated, sources)) else {}) | dict(settings)
    known = parse_settings(name, kept, device)
    inner = known.get("of", _get_default(name, "of"))
    if "options" in find_describer_class(name).setting_names() and isinstance(inner, str) and _is_describer(inner):
        known["options"] = resolve_settings(inner, known.get("options") or {}, sources, device)
    wrapped = known.get("describers", _get_default(name, "describers"))
    if isinstance(wrapped, list) and all(isinstance(each, str) for each in wrapped):
        given = known.get("options") or {}
        known["options"] = {each: _resolve_wrapped(each, given.get(each) or {}, sources, device) for each in wrapped}
    return known


def _resolve_wrapped(spec: str, settings: Mapping[str, Any], sources: tuple[str, str], device: str) -> dict[str, Any]:
    parsed = parse_spec(spec)
    return resolve_settings(parsed.name, {**parsed.settings, **settings}, sources, device)


def _get_default(name: str, setting: str) -> Any:
    import inspect

    parameter = inspect.signature(find_describer_class(name)).parameters.get(setting)
    return None if parameter is None else parameter.default


def _is_describer(name: str) -> bool:
    return name in list_describers()


def _read_simulated_settings(name: str) -> dict[str, Any]:
    find_describer_class(name)  # reports an unknown name
    if name not in list_describers():
        return {}
    file = locate_packaged_data(CONFIG_FOLDER) / f"{name}-diorama.yaml"
    return dict(_read_options(file).get("settings") or {}) if file.is_file() else {}


def parse_spec(spec: str) -> DescriberSpec:
    """Take a spec apart.

    >>> parse_spec("linear_explanations:evidence=labels,longest=3").settings
    {'evidence': 'labels', 'longest': 3}

    Raises:
        BadInput: it is a file that cannot be read as options.
    """
    if is_table(spec):
        return DescriberSpec("imported", Path(spec).stem, {"table": spec})
    if spec.endswith(YAML_SUFFIXES):
        return _parse_file(spec)
    name, settings = spec, {}
    if found := _WITH_SETTINGS.fullmatch(spec):
        name = found[1]
        pairs = re.split(r",(?=[A-Za-z_]\w*=)", found[2])
        settings = {key: _parse_value(spec, value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return DescriberSpec(name, _make_label(name, settings), settings)


def _make_label(name: str, settings: Mapping[str, Any]) -> str:
    """Return what tables and folders call a describer: files by their names alone, in at most MAX_LABEL characters."""
    parts = [Path(name).name.replace(":", "-")]
    for key, value in settings.items():
        parts.append(f"{key}={Path(value).stem if isinstance(value, str) and is_file(Path(value)) else value}")
    label = "-".join(parts).replace("/", "-")
    if len(label) <= MAX_LABEL:
        return label
    # The key keeps apart two describers that only differ in what is cut off.
    return f"{label[: MAX_LABEL - 9]}-{content_key(name=name, settings=dict(settings))[:8]}"


def is_table(spec: str) -> bool:
    """Return whether a spec is a folder that describe.py wrote, or a file of descriptions."""
    return spec.endswith(TABLE_SUFFIXES) or is_file(Path(spec) / "descriptions.jsonl")


def _parse_value(spec: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise BadInput(f"the setting {text!r} in {spec!r} is no YAML value; write NAME:KEY=VALUE,KEY=VALUE") from None


def _parse_file(spec: str) -> DescriberSpec:
    """Read a file of options; if there is none, one of those that come with the package."""
    file, shipped = Path(spec), locate_packaged_data(CONFIG_FOLDER) / spec
    options = _read_options(shipped if shipped.is_file() and not file.is_file() else file)
    dissection: dict[str, Any] = {name: options[name] for name in ("k", "quantile") if name in options}
    label = file.stem.removesuffix("-diorama")
    return DescriberSpec(str(options["describer"]), label, dict(options.get("settings") or {}), dissection)


def _read_options(file: Path) -> dict[str, Any]:
    from milan.console.command_line import bounded_yaml

    try:
        options = bounded_yaml(file.read_text(encoding="utf-8"))
        _ = options["describer"]
    except MilanError:
        raise
    except (OSError, yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no file of options with a describer: {type(error).__name__} {error}") from None
    return options
