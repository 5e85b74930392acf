"""The documentation site has a page for every plug-in, a row for every option, and links that lead somewhere."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import milan
from milan.describers import list_describers
from milan.experiments.__main__ import experiment_names

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = {"data.md", "contributing.md", "changelog.md"}  # copied from outside docs
PAGES = [file for file in DOCS.rglob("*.md") if "site" not in file.parts]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="the documentation's packages are not installed (pip install '.[docs]')")
    sys.path.insert(0, str(DOCS / "site"))
    try:
        import hooks
    finally:
        sys.path.remove(str(DOCS / "site"))
    return hooks


def test_the_configuration_of_the_site_is_valid(hooks: ModuleType) -> None:
    from mkdocs.config import load_config

    assert load_config(str(DOCS / "site" / "mkdocs.yml"))["site_name"] == "milan"


def test_every_page_of_the_navigation_exists() -> None:
    sections = yaml.safe_load((DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [page for section in sections for pages in section.values() for page in pages]
    assert [page for page in pages if page not in GENERATED and not (DOCS / page).is_file()] == []


def test_the_reference_has_every_public_name_once(hooks: ModuleType) -> None:
    page = hooks._public_page()
    assert [name for name in milan.__all__ if page.count(f"[`milan.{name}`]") != 1] == []
    assert all("::: milan." in hooks._reference_page(package) for package in hooks.PACKAGES)
    assert len(set(hooks.PACKAGES)) == len(hooks.PACKAGES)


def test_every_describer_and_experiment_has_a_page() -> None:
    for folder, names in (("describers", list_describers()), ("experiments", experiment_names())):
        assert {file.stem for file in (DOCS / folder).glob("*.md")} == {"index", *names}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(DOCS).as_posix())
def test_links_of_a_page_lead_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", file.read_text(encoding="utf-8")):
        assert Path(link).name in {*GENERATED, "index.md"} or (file.parent / link).exists(), link


def test_options_are_read_from_the_help(hooks: ModuleType) -> None:
    options = {option.name: option for option in hooks._options("describe", "")}
    assert options["--k"][1:3] == ("int", "15")
    assert options["--probe"].default == "diorama:objects"
    assert {"--layers", "--image_size", "--dry_run"} <= options.keys()
    assert "--help" not in options
    netdissect = {option.name: option for option in hooks._options("describer", "netdissect")}
    assert netdissect["--settings.cut"].default == "0.04"


def test_a_table_of_options_escapes_what_markdown_would_read(hooks: ModuleType) -> None:
    option = hooks.Option("--a", "str", "x|y", "one | two, <b>, all_*")
    assert hooks._table([option]).splitlines()[-1] == (
        "| `--a` | one \\| two, &lt;b>, all_\\*<br><small>str, default `x\\|y`</small> |"
    )


@pytest.mark.parametrize("name", experiment_names())
def test_options_in_the_page_of_an_experiment_exist(hooks: ModuleType, name: str) -> None:
    text = (DOCS / "experiments" / f"{name}.md").read_text(encoding="utf-8")
    used = set(re.findall(r"(?<![\w-])--[a-z_]\w*(?:\.\w+)?", text)) - {"--config", "--print_config"}
    assert used <= {option.name for option in hooks._options("experiment", name)}
