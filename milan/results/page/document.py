"""One HTML file that opens from the file system: its style and script are within it, and nothing else can run."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from milan.console.command_line import clean_text

MAIN_FACTS = (
    "target",
    "probe",
    "describer",
    "settings",
    "sources",
    "images",
    "preprocessing",
    "k",
    "quantile",
    "seed",
    "device",
    "weights",
)


def render_document(template: str, *, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """A template of ``templates`` filled with the values, and with those files of ``static`` as its style and
    script.
    """
    style, script = "".join(map(_read_static, styles)), "".join(map(_read_static, scripts))
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; script-src {_hash_inline(script)}; style-src"
        f" {_hash_inline(style)}; base-uri 'none'; form-action 'none'"
    )
    return render_template(template, policy=Markup(policy), style=Markup(style), script=Markup(script), **values)


def render_template(template: str, **values: Any) -> str:
    """A template of ``templates`` filled with the values, which are escaped."""
    environment = Environment(
        loader=PackageLoader("milan.results.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def format_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands at the foot: the options that decide the result, then hashes and versions, each on its line."""
    shown = [(name, facts[name]) for name in MAIN_FACTS if facts.get(name) not in (None, "", {}, [])]
    hashes = [(f"hash of {name}", str(value)[:16]) for name, value in dict(facts.get("hashes", {})).items()]
    made = [("versions", " · ".join(f"{name} {value}" for name, value in dict(facts.get("versions", {})).items()))]
    return [(clean_text(name), clean_text(_format_value(value))) for name, value in [*shown, *hashes, *made] if value]


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_value(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_static(name: str) -> str:
    return files("milan.results.page").joinpath("static", name).read_text(encoding="utf-8")


def _hash_inline(text: str) -> str:
    """The source expression that lets this very inline text run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
