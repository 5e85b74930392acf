"""A described run of the toy world: seven colour detectors on 33 pictures of coloured squares."""

import pytest

from milan.cli.describe import describe
from milan.describers._shared import contract
from milan.describers._shared.contract import make_toy_dissection
from tests.describers.worlds import Colour


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_toy_dissection(folder)
    describe(
        f"{contract.__file__}:make_detectors",
        str(folder / "probe"),
        Colour(prefix="things coloured "),
        layers=["answers"],
        out=folder / "run",
        k=5,
        quantile=0.9,
    )
    return folder / "run"
