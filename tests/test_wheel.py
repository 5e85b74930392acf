"""An installed wheel works as a checkout does."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
SOURCES = ("milan", "data", "configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout and nothing old gets in."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(copy / "dist"), str(copy))
    (built,) = (copy / "dist").glob("milan-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run(installed: Path, *words: str, **environment: str) -> str:
    """What a Python started in ``installed``, and knowing milan only from there, prints."""
    surroundings = os.environ | {"PYTHONPATH": str(installed)} | environment
    done = subprocess.run([sys.executable, *words], cwd=installed, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_package_is_missing() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name for name in listed if not name.startswith("milan._embedded")} == set(
        find_packages(str(ROOT), include=["milan*"])
    )


def test_all_that_the_default_needs_travels(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "data/diorama", "data/concepts", "data/language"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"milan/_embedded/{file.relative_to(ROOT).as_posix()}" in inside
    for file in (ROOT / "milan").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert file.relative_to(ROOT).as_posix() in inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "data/"))]


def test_embedded_files_are_those_of_the_wheel(installed: Path) -> None:
    code = (
        "import milan; from milan.storage.packaged_data import locate_packaged_data; print(milan.__file__,"
        " locate_packaged_data('data/diorama'), locate_packaged_data('configs/prior.yaml'))"
    )
    for path in run(installed, "-c", code).split():
        assert path.startswith(str(installed))


def test_command_lists_the_layers_of_the_embedded_network(installed: Path, tmp_path: Path) -> None:
    printed = run(installed, str(installed / "bin" / "milan-describe"), "--list_layers", MILAN_CACHE=str(tmp_path))
    assert "layer" in printed


def test_describes_the_embedded_default(installed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--limit", "60", "--units", "0-3", "--out", str(out)]
    run(installed, str(installed / "bin" / "milan-describe"), *words, MILAN_CACHE=str(tmp_path / "cache"))
    rows = (out / "descriptions.csv").read_text().splitlines()
    assert rows[0].startswith("layer,unit,description,score")
    assert len(rows) > 4
    assert (out / "page" / "index.html").is_file()
