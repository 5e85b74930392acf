"""Render HTML files with their styles and scripts inside, and a policy that allows no others."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from milan.console.text_cleaning import clean_text
from milan.results.page.data_files import escape_json

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


def render_document(
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Mapping[str, Any],
    loads_data: bool = False,
    **values: Any,
) -> str:
    """Render a template of ``templates`` with files of ``static`` as its inline style and script.

    The policy of the document allows this script and no other, and nothing from the network.

    Args:
        template: file name in ``templates``.
        styles, scripts: file names in ``static``, in the order in which they are joined.
        data: plain values that the script reads, by the id of their element; a ``Markup`` is the value's escaped JSON.
        loads_data: whether the script loads script files beside the page.
        values: the variables of the template, which are escaped.
    """
    style, script = "".join(map(_read_static, styles)), "".join(map(_read_static, scripts))
    # The data of a page that was opened from the file system are of the origin "file:", and else of the page's own.
    loaded = " 'self' file:" if loads_data else ""
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' file: data:",
            f"script-src {_hash_inline(script)}{loaded}",
            f"style-src {_hash_inline(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    blocks = {name: value if isinstance(value, Markup) else Markup(escape_json(value)) for name, value in data.items()}
    head = render_template("head.html.j2", policy=Markup(policy), style=Markup(style))
    scripts_at_end = render_template("scripts.html.j2", blocks=blocks, script=Markup(script))
    return render_template(template, head=Markup(head), scripts=Markup(scripts_at_end), **values)


def render_template(template: str, **values: Any) -> str:
    """Render a template of ``templates``; values are escaped."""
    environment = Environment(
        loader=PackageLoader("milan.results.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def format_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names and values at the foot of a page: main options, then hashes, then versions."""
    main = [(name, facts[name]) for name in MAIN_FACTS if facts.get(name) not in (None, "", {}, [])]
    hashes = [(f"hash of {name}", str(value)[:16]) for name, value in dict(facts.get("hashes", {})).items()]
    versions = [("versions", " · ".join(f"{name} {value}" for name, value in dict(facts.get("versions", {})).items()))]
    return [
        (clean_text(name), clean_text(_format_value(value))) for name, value in [*main, *hashes, *versions] if value
    ]


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_value(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_static(name: str) -> str:
    return files("milan.results.page").joinpath("static", name).read_text(encoding="utf-8")


def _hash_inline(text: str) -> str:
    """Return the source expression of a content security policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
