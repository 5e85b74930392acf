"""Generates the parts of the site that come from the code: tables of options, pages of plug-ins, the API reference.

A line ``<!-- options: KIND NAME -->`` in a page becomes the table of that program's options, read from its ``--help``;
``<!-- config: FILE -->`` becomes the text of a file of options. A describer or an experiment without a page of its own
gets one that holds its docstring and its options.
"""

import io
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import cache
from inspect import getdoc
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import jsonargparse
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import milan  # noqa: E402 (after the path)
from milan.describers import find_describer_class, list_describers  # noqa: E402 (after the path)
from milan.experiments import __main__ as experiments  # noqa: E402

MARKER = re.compile(r"^<!-- (options|config|list): (.+?) -->$", re.M)
CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
OPTION_NAME = re.compile(r"(?<![\w-])--[a-z][\w.]*")
SHARED = {"experiment": 4, "describer": 3}  # options of so many pages are documented once, on the index page
COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "data.md": "data/README.md"}
# Packages of the API reference, in the order in which data flows through them.
PACKAGES = (
    "units",
    "targets",
    "probes",
    "dissection",
    "models",
    "describers",
    "concepts",
    "pretrained",
    "scores",
    "results",
)
# Modules whose public names are documented in the package that exports them.
EXPORTED = {"milan.describers._shared.base", "milan.describers._shared.contract"}
HIDDEN_OPTIONS = {"--help", "--config", "--print_config"}


class Option(NamedTuple):
    """One option of a program."""

    name: str
    kind: str
    default: str
    text: str


def on_config(config: Any) -> Any:
    """Put the generated pages into the navigation."""
    generated = {
        "Describers": ["describers/index.md", *(f"describers/{name}.md" for name in list_describers())],
        "Experiments": ["experiments/index.md", *(f"experiments/{name}.md" for name in experiments.experiment_names())],
        "Python API": ["reference/index.md", *(f"reference/{name}.md" for name in PACKAGES)],
    }
    config["nav"] = [
        {title: generated.get(title, pages)} for section in config["nav"] for title, pages in section.items()
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add pages for plug-ins without one, the API reference, and the documents outside ``docs``."""
    made = {f"reference/{name}.md": _reference_page(name) for name in PACKAGES}
    made["reference/index.md"] = _public_page()
    made |= {page: (ROOT / source).read_text(encoding="utf-8") for page, source in COPIED.items()}
    made |= {f"describers/{name}.md": _plugin_page("describer", name) for name in list_describers()}
    made |= {f"experiments/{name}.md": _plugin_page("experiment", name) for name in experiments.experiment_names()}
    made["site.css"] = (ROOT / "docs" / "site" / "site.css").read_text(encoding="utf-8")
    for page, text in made.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in tables of options and files of options."""
    kinds: dict[str, Callable[[str], str]] = {"options": _options_section, "config": _config_block, "list": _list_table}
    return MARKER.sub(lambda found: kinds[found[1]](found[2]), _fix_links(page.file.src_uri, markdown))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Keep the name of each option in one line: browsers break lines within and after its hyphens."""
    return CODE.sub(lambda code: OPTION_NAME.sub(r'<span class="option">\g<0></span>', code[0]), html)


def _fix_links(page: str, markdown: str) -> str:
    """Point links of copied documents at the pages of the site."""
    if page not in COPIED:
        return markdown
    markdown = re.sub(r"\]\((?:\.\./)?docs/", "](", markdown)
    markdown = re.sub(r"\]\((?:\.\./)?data/README\.md", "](data.md", markdown)
    return re.sub(r"\]\((?:\.\./)?README\.md", "](index.md", markdown)


def _plugin_page(kind: str, name: str) -> str:
    text = getdoc(find_describer_class(name) if kind == "describer" else experiments.load_config_class(name)) or ""
    summary = re.split(r"\n(?:Args|Attributes|Returns|Raises):\n", text)[0]
    return f"# `{name}`\n\n{summary}\n\n## Options\n\n<!-- options: {kind} {name} -->\n"


def _reference_page(package: str) -> str:
    files = [*(ROOT / "milan" / package).rglob("*.py"), ROOT / "milan" / f"{package}.py"]
    modules = sorted({_module_name(file) for file in files if file.is_file() and _has_public_names(file)} - EXPORTED)
    return "\n\n".join([f"# `milan.{package}`", *(_reference(module, module) for module in modules)])


def _module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _has_public_names(file: Path) -> bool:
    return file.name != "__main__.py" and bool(re.search(r"^(?:def|class) [^_]", file.read_text(), re.M))


def _public_page() -> str:
    """Return a table of the names in ``milan.__all__``, and the documentation of those outside the packages listed."""
    intro = "These names are imported from `milan`. Other names, on the pages below, can change between versions."
    rows, own = ["| name | what it is |", "| --- | --- |"], []
    for name in milan.__all__:
        value = getattr(milan, name)
        package = value.__module__.split(".")[1]
        page = f"{package}.md" if package in PACKAGES else ""
        anchor = f"{value.__module__}.{value.__name__}"
        rows.append(f"| [`milan.{name}`]({page}#{anchor}) | {_cell((getdoc(value) or '').partition('. ')[0])} |")
        own += [] if page else [_reference(f"milan.{name}", anchor)]
    return "\n\n".join(["# Public names", intro, "\n".join(rows), *own])


def _reference(title: str, name: str) -> str:
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    return f"## `{title}` {{#{name}}}\n\n::: {name}\n{options}"


def _config_block(name: str) -> str:
    return f'```yaml title="{name}"\n{(ROOT / name).read_text(encoding="utf-8").strip()}\n```'


def _list_table(kind: str) -> str:
    """Return a table of every describer or experiment with the first line of its docstring."""
    names = list_describers() if kind == "describers" else experiments.experiment_names()
    load = find_describer_class if kind == "describers" else experiments.load_config_class
    lines = [f"| [`{name}`]({name}.md) | {_cell(_summary(load(name)))} |" for name in names]
    return "\n".join(["| name | what it does |", "| --- | --- |", *lines])


def _summary(value: object) -> str:
    """Return the first sentence of a docstring."""
    return (getdoc(value) or "").partition("\n\n")[0].partition(". ")[0].removesuffix(".")


def _options_section(spec: str) -> str:
    kind, _, name = spec.partition(" ")
    if name == "shared":
        return _table(list(_shared_options(kind).values()))
    options = _options(kind, name)
    shared = _shared_options(kind) if kind in SHARED else {}
    own = [option for option in options if shared.get(option.name) != option]
    linked = [option.name for option in options if shared.get(option.name) == option]
    text = _table(own) if own else "It has no options of its own."
    if linked:
        names = ", ".join(f"`{each}`" for each in linked)
        text += f"\n\nAnd the [shared options](index.md#shared-options): {names}."
    return text


@cache
def _shared_options(kind: str) -> dict[str, Option]:
    """Return the options that many programs of a kind have with the same help and default, by name."""
    names = list_describers() if kind == "describer" else experiments.experiment_names()
    counts = Counter(option for name in names for option in _options(kind, name))
    found: dict[str, Option] = {}
    for option, count in counts.most_common():
        if count >= SHARED[kind]:
            found.setdefault(option.name, option)
    return found


@cache
def _options(kind: str, name: str) -> tuple[Option, ...]:
    prefix = "--settings." if kind == "describer" else "--"
    options = _parse_help(_help_text(kind, name), prefix)
    return tuple(options)


def _help_text(kind: str, name: str) -> str:
    if kind == "describer":
        parser = jsonargparse.ArgumentParser(prog=name)
        parser.add_class_arguments(find_describer_class(name), as_group=False)
        return _captured(parser.print_help)
    from milan.cli import describe, train

    program = {"describe": describe.main, "train": train.main, "experiment": experiments.main}[kind]
    return _captured(lambda: program([*name.split(), "--help"]))


def _captured(run: Callable[[], object]) -> str:
    """Return what a program prints, on lines so long that no text is wrapped."""
    wide = patch.dict(os.environ, COLUMNS="100000")
    with wide, redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        run()
    return printed.getvalue()


def _parse_help(text: str, prefix: str) -> list[Option]:
    """Return the options in the text that argparse prints for ``--help``."""
    found: list[Option] = []
    for line in text.splitlines():
        if opened := re.match(r"  (?:-\w(?: [A-Z]+)?, )?(--[\w.]+)[^ ]*(?: [^ ]+)*?(?:  +(.*))?$", line):
            found.append(Option(opened[1], "", "", opened[2] or ""))
        elif found and not found[-1].text and line.startswith("      "):
            found[-1] = found[-1]._replace(text=line.strip())
        elif found and line.startswith("      "):
            found[-1] = found[-1]._replace(text=f"{found[-1].text} {line.strip()}")
    return [_split_help(option, prefix) for option in found if option.name not in HIDDEN_OPTIONS]


def _split_help(option: Option, prefix: str) -> Option:
    parts = re.fullmatch(r"(.*?) ?\((?:required, )?(?:type: (.*?))?(?:, )?(?:default: (.*))?\)", option.text)
    name = prefix + option.name.removeprefix("--")
    if not parts:
        return option._replace(name=name)
    return Option(name, _plain_type(parts[2] or ""), parts[3] or "", parts[1])


def _plain_type(kind: str) -> str:
    """Return a type as words: ``Optional[Union[list[int], int]]`` as "list[int] or int"."""
    plain = re.sub(r"^Optional\[(.*)\]$", r"\1", kind)
    plain = re.sub(r"^Union\[(.*)\]$", lambda found: found[1].replace(", ", " or "), plain)
    plain = re.sub(r" \| null| or null", "", plain).replace(" | ", " or ")
    return re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " · "), plain)


def _table(options: list[Option]) -> str:
    rows = [f"| `{option.name}` | {_cell(option.text)}{_small_print(option)} |" for option in options]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def _small_print(option: Option) -> str:
    """Return the type and the default of an option in small print."""
    default = f"default `{_cell(option.default)}`" if option.default not in ("", "null") else ""
    parts = [part for part in (_cell(option.kind), default) if part]
    return f"<br><small>{', '.join(parts)}</small>" if parts else ""


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    # A name in capitals or with an underscore is not emphasis.
    return re.sub(r"(?<!`)\*(?!`)", "\\*", text)
