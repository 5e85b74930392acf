"""Rules for every file that `make lint` does not check: length, declared imports, no path of one machine, true docs."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest

import milan
from milan.experiments.__main__ import experiment_names

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "milan"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".cfg", ".txt", ".css", ".js", ".html", ".j2", ".json", ".csv", ""}


def ours() -> list[Path]:
    """The files that git keeps, or all outside hidden and built folders where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [
        file
        for folder in ("milan", "tests", "benchmarks", "configs", "docs")
        for file in (ROOT / folder).rglob("*")
        if file.is_file()
    ]


def texts() -> list[tuple[Path, str]]:
    weights = ROOT / "data" / "language"  # spaCy's files have no suffix
    return [
        (file, file.read_text(encoding="utf-8"))
        for file in ours()
        if file.suffix in TEXT and (file.suffix or weights not in file.parents)
    ]


def test_nothing_imports_an_experiment_but_the_program() -> None:
    """Experiments share what is in ``core``: each folder's modules are imported by that folder alone."""
    names = "|".join(experiment_names())
    line = re.compile(rf"^ *(?:from|import) milan\.experiments\.({names})\b", re.M)
    assert line.search("    from milan.experiments.bench.bench import bench")
    imports = {
        (str(file.relative_to(PACKAGE)), name)
        for file in PACKAGE.rglob("*.py")
        for name in line.findall(file.read_text())
        if file.parent != PACKAGE / "experiments" / name
    }
    assert imports == set()


def test_no_modules_import_each_other() -> None:
    """Imports within functions and for types alone count. ``milan`` itself offers names and is left out."""
    graph = grimp.build_graph("milan", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) - {"milan"} for name in graph.modules - {"milan"}}
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a cycle


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 420


def test_no_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.~}])/(?:work|root|home/\w+|Users/\w+)(?:/|\b)")
    found = [
        f"{file.relative_to(ROOT)}: {line.strip():.100}"
        for file, text in texts()
        for line in text.splitlines()
        if machine.search(line)
    ]
    here = Path(__file__)
    assert [line for line in found if not line.startswith(str(here.relative_to(ROOT)))] == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "XX" + "X"]))
    assert [str(file) for file, text in texts() if file.suffix == ".py" and words.search(text)] == []


def imported(file: Path) -> set[str]:
    """The top names of what a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_what_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    needed = project["dependencies"] + extras["timm"] + extras["bands"]
    declared = {re.split(r"[\[<>=~! ]", line)[0].lower().replace("_", "-") for line in needed}
    homes = packages_distributions()
    names = set().union(*(imported(file) for file in PACKAGE.rglob("*.py"))) - sys.stdlib_module_names - {"milan"}
    missing = {
        name for name in names if not {home.lower().replace("_", "-") for home in homes.get(name, [name])} & declared
    }
    assert missing <= {"lightning_fabric", "lightning_utilities"}  # parts of pytorch-lightning, which brings them


def test_nothing_is_imported_that_one_system_lacks() -> None:
    some = {"fcntl", "grp", "msvcrt", "pwd", "resource", "termios", "winreg"}
    assert [(str(file), found) for file in PACKAGE.rglob("*.py") if (found := imported(file) & some)] == []


def test_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\b", readme))
    assert {"describe", "test"} <= named <= targets
    for script in set(re.findall(r"\bpython (\w+\.py)\b", readme)):
        assert (ROOT / script).is_file(), script
    for name in set(re.findall(r"\bpython -m (milan[\w.]*)\b", readme)):
        assert importlib.util.find_spec(name), name


def options_of(script: str) -> set[str]:
    """The options a script knows, from its help."""
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z_0-9]+", done.stdout))


def test_options_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^python describe\.py.*$", readme, re.M)
    assert lines
    used = {option for line in lines for option in re.findall(r"--[a-z_0-9]+", line)}
    assert used <= options_of("describe.py")


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == milan.__version__
    assert "version" in PROJECT["project"]["dynamic"]  # stated nowhere else


def test_links_of_the_texts_lead_somewhere() -> None:
    for file in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"):
        text = (ROOT / file).read_text()
        for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text):
            assert ((ROOT / file).parent / link).exists(), f"{file}: {link}"


def test_help_is_quick() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['describe.py', '--help']\ntry: runpy.run_path('describe.py',"
        " run_name='__main__')\n"
    )
    code += "except SystemExit: print('\\ntorch' if 'torch' in sys.modules else '\\nno torch')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nno torch\n")
