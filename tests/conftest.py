"""What all tests share: checked shapes and types, folders of their own, one thread, the real data where it is
at hand.
"""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.type_checks import install_type_checks

install_type_checks("milan")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
SLOW_FOLDERS = {"benchmarks", "cli", "diorama", "diorama_build", "dissection", "docs", "experiments"}
SLOW_FILES = {
    *("test_contract", "test_floors", "test_milan", "test_netdissect", "test_compositional", "test_sand"),
    *("test_llm_explanations", "test_describe_and_dissect", "test_linear_explanations", "test_clip_dissect"),
    *("test_command_line", "test_replay", "test_families", "test_browser", "test_released_checkpoint", "test_wheel"),
    *("test_concept_sets", "test_generator_target", "test_describer_specs", "test_training", "test_data_module"),
}
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may need a hub
os.environ["MILAN_CACHE"] = tempfile.mkdtemp(prefix="milan-tests-")
os.environ["HF_HOME"] = os.environ["MILAN_CACHE"] + "/huggingface"
torch.set_num_threads(1)
settings.register_profile(
    "milan", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("milan")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as quick that train nothing, start no programs and dissect nothing but toys."""
    for item in items:
        place = item.path.relative_to(ROOT / "tests")
        if place.parts[0] not in SLOW_FOLDERS and place.stem not in SLOW_FILES:
            item.add_marker(pytest.mark.quick)


def pytest_collection_finish() -> None:
    """Leave the imported modules, which are millions of objects, out of garbage collection."""
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["MILAN_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that asks for it is skipped where it is not there."""
    if not SHARED.is_dir():
        pytest.skip("no real data beside the checkout (../shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Debian's chromium; a test that asks for it is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, for this test alone."""
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """A browser of playwright; one for all tests of a process, which can hold no second one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=BROWSER_OPTIONS)
        yield launched
        launched.close()
