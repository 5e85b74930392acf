"""One HTML file that opens from the file system: its style and script are within it, and nothing else can run."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from milan.command import clean

SIMULATED = (
    "Simulated: Diorama is a small world that the package draws itself. Its pictures, its networks and the annotators whose words "
    "its describer learnt from are all made up; nothing here was said by a person."
)
BORROWED = (
    "Simulated: what describes here was trained on Diorama, a small world that the package draws itself, by the words of simulated "
    "annotators. Of other pictures it knows only these words; nothing here was said by a person."
)
COUNTED = (
    "Written without a language model: a program counted the phrases in what one would have been given. It names only words that are "
    "there, and never what they have in common."
)
SHOWN = ("target", "probe", "describer", "settings", "images", "preprocessing", "k", "quantile", "seed", "device", "weights")


def document(template: str, *, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """A template of ``templates`` filled with the values, and with those files of ``static`` as its style and script."""
    style, script = "".join(map(_static, styles)), "".join(map(_static, scripts))
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; script-src {_hashed(script)}; style-src {_hashed(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return filled(template, policy=Markup(policy), style=Markup(style), script=Markup(script), **values)


def filled(template: str, **values: Any) -> str:
    """A template of ``templates`` filled with the values, which are escaped."""
    environment = Environment(
        loader=PackageLoader("milan.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def simulated(facts: Mapping[str, Any]) -> str:
    """What a page must say first if Diorama, or a counter of phrases, had a part in it; empty if neither had."""
    settings = dict(facts.get("settings") or {})
    counted = COUNTED if settings.get("llm") == "phrases" else ""
    if any(str(facts.get(name, "")).startswith("diorama:") for name in ("target", "probe")):
        return f"{SIMULATED} {counted}".strip()
    borrowed = BORROWED if any(str(value).partition(":")[0] == "diorama" for value in settings.values()) else ""
    return f"{borrowed} {counted}".strip()


def fact_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands at the foot: the options that decide the result, then hashes and versions, each on its line."""
    shown = [(name, facts[name]) for name in SHOWN if facts.get(name) not in (None, "", {}, [])]
    hashes = [(f"hash of {name}", str(value)[:16]) for name, value in dict(facts.get("hashes", {})).items()]
    made = [("versions", " · ".join(f"{name} {value}" for name, value in dict(facts.get("versions", {})).items()))]
    return [(clean(name), clean(_told(value))) for name, value in [*shown, *hashes, *made] if value]


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _static(name: str) -> str:
    return files("milan.page").joinpath("static", name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """The source expression that lets this very inline text run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
