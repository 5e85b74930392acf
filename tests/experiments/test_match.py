"""Units are matched with those of other networks by what they do, where the right answer is known."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from milan.errors import BadInput, MilanWarning
from milan.experiments.match.config import MatchConfig
from milan.experiments.match.match import match
from milan.results.correlations import correlate, match_units
from milan.targets.preprocessing import TargetOptions
from tests.dissection.world import toy_images
from tests.experiments import match_networks
from tests.experiments.match_networks import NOISY, ORDER

FILE = match_networks.__file__


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(toy_images(60)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    return str(folder)


def run(images: str, out: Path, target: str, against: list[str], **options):
    config = MatchConfig(
        target=f"{FILE}:{target}",
        against=[f"{FILE}:{each}" for each in against],
        probe=images,
        layers=["one", "two"],
        k=5,
        out=out,
        **options,
    )
    report = match(config)
    with (out / "pairs.csv").open() as file:
        return report, list(csv.DictReader(file))


def test_permuted_units_find_themselves(images, tmp_path):
    report, pairs = run(images, tmp_path, "permuted", ["plain"])
    counterparts = {row["target unit"]: row["unit of the network"] for row in pairs}
    varying = [place for place, unit in enumerate(ORDER) if unit != 7]
    assert counterparts == {f"one:{place}": f"one:{ORDER[place]}" for place in varying} | {
        f"two:{unit}": f"two:{unit}" for unit in range(6)
    }
    assert {row["status"] for row in pairs} == {"same"}
    assert [float(row["correlation"]) for row in pairs] == pytest.approx([1] * 13)
    assert [float(row["exemplars"]) for row in pairs] == [1] * 13
    rows = {row.name: row.values for row in report.tables[0].rows}
    assert (rows["plain: one"]["units"], rows["plain: one"]["same"].value) == (7, 1.0)
    assert rows["plain: images shuffled"]["same"].value == 0
    page = (tmp_path / "page" / "index.html").read_text()
    views = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])["pictures"]
    assert [len(each["images"]) for each in views[12]] == [3, 3]
    assert all((tmp_path / "page" / each["folder"] / f"{each['images'][0]}.webp").is_file() for each in views[12])


def test_overwritten_units_are_new_and_those_they_replace_are_lost(images, tmp_path):
    report, pairs = run(images, tmp_path, "damaged", ["plain"], changed=0.8)
    first = [row for row in pairs if "one" in row["target unit"] + row["unit of the network"]]
    statuses = {(row["status"], row["target unit"], row["unit of the network"]) for row in first}
    assert {each for each in statuses if each[0] != "same"} == {("new", f"one:{unit}", "") for unit in NOISY} | {
        ("lost", "", f"one:{unit}") for unit in NOISY
    }
    assert {each[1] == each[2] for each in statuses if each[0] == "same"} == {True}
    row = next(row for row in report.tables[0].rows if row.name == "plain: one")
    assert (row.values["lost"], row.values["new"].value) == (2, pytest.approx(2 / 7))


def test_a_series_of_networks_has_rows_for_each(images, tmp_path):
    report, _ = run(images, tmp_path, "plain", ["permuted", "damaged"])
    assert [word in report.figures[0][1] for word in (">permuted<", ">damaged<", ">one<", ">two<")] == [True] * 4
    assert [row.name for row in report.tables[0].rows] == [
        f"{network}: {layer}"
        for network in ("permuted", "damaged")
        for layer in ("one", "two", "all layers", "images shuffled")
    ]


def test_checkpoints_are_named_by_their_files(images, tmp_path):
    for name, target in (("early", match_networks.damaged()), ("late", match_networks.plain())):
        save_file(target.model.state_dict(), tmp_path / f"{name}.safetensors")
    weights = [str(tmp_path / f"{name}.safetensors") for name in ("early", "late")]
    report, _ = run(images, tmp_path / "out", "plain", [], against_weights=weights)
    same = {row.name: row.values["same"].value for row in report.tables[0].rows}
    assert same["plain (late): one"] == 1 > same["plain (early): one"]
    with pytest.raises(BadInput, match="2 files of --against_weights for 1 networks"):
        run(images, tmp_path / "out", "plain", ["plain"], against_weights=weights)


def test_networks_of_the_same_name_are_told_apart(images, tmp_path):
    weights = []
    for folder, target in (("a", match_networks.damaged()), ("b", match_networks.plain())):
        (tmp_path / folder).mkdir()
        weights.append(str(tmp_path / folder / "last.safetensors"))
        save_file(target.model.state_dict(), weights[-1])
    report, pairs = run(images, tmp_path / "out", "plain", [], against_weights=weights)
    assert {row["network"] for row in pairs} == {"plain (last)", f"plain ({weights[1]})"}
    same = {row.name: row.values["same"].value for row in report.tables[0].rows}
    assert same[f"plain ({weights[1]}): one"] == 1 > same["plain (last): one"]
    with pytest.raises(BadInput, match="is given twice"):
        run(images, tmp_path / "out", "plain", ["damaged"] * 3)


def test_a_given_name_is_that_of_the_target_alone(images, tmp_path):
    _, pairs = run(images, tmp_path, "plain", ["damaged"], target_options=TargetOptions(name="mine"))
    assert {row["network"] for row in pairs} == {"damaged"}


def test_layers_of_other_names_are_matched_all_with_all(images, tmp_path):
    _, pairs = run(images, tmp_path, "plain", ["plain"], against_layers=["two", "one"])
    assert all(row["target unit"] == row["unit of the network"] for row in pairs)


def test_correlation_is_that_of_numpy_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(37, 4)).astype(np.float32) * [1, 1e-3, 1e6, 1] + [0, 1e2, 0, 5]
    two = (one[:, ::-1] + rng.normal(size=(37, 4))).astype(np.float32)
    one[:, 3], one[5] = 2.0, np.nan
    expected = np.corrcoef(np.delete(one, 5, 0).T[:3], np.delete(two, 5, 0).T.astype(np.float64))[:3, 3:]
    for block in (1024, 7):
        monkeypatch.setattr("milan.results.correlations.BLOCK_IMAGES", block)
        found = correlate(one, two)
        np.testing.assert_allclose(found[:3], expected, atol=1e-9)
        assert np.isnan(found[3]).all()


def test_constant_units_are_left_out():
    base = np.random.default_rng(0).normal(size=(50, 3))
    pairs, rows, columns = match_units(np.c_[base, np.ones(50)], np.c_[np.zeros(50), base[:, [2, 0, 1]]])
    assert [(row, column) for row, column, _ in pairs] == [(0, 2), (1, 3), (2, 1)]
    assert (rows, columns) == ([0, 1, 2], [1, 2, 3])


def test_identical_units_are_never_parted_for_a_larger_sum():
    rng = np.random.default_rng(0)
    unit, noise = rng.normal(size=(2, 400))
    # The sum would be larger with both pairs crossed: 0.9 + 0.9 > 1 + 0.6.
    near, far = 0.9 * unit + 0.43 * noise, 0.9 * unit - 0.43 * noise
    pairs, _, _ = match_units(np.c_[unit, near], np.c_[unit, far])
    assert [(row, column) for row, column, _ in pairs] == [(0, 0), (1, 1)]
    crossed = np.corrcoef(np.c_[unit, near].T, np.c_[unit, far].T)[:2, 2:]
    assert crossed[0, 1] + crossed[1, 0] > crossed[0, 0] + crossed[1, 1]


def test_activations_over_other_images_are_refused():
    with pytest.raises(BadInput, match="3 and 4 images"):
        correlate(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(BadInput, match="no image has activations"):
        correlate(np.full((3, 2), np.nan), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"same": 0.4}, "same is 0.4"), ({"changed": 0.0}, "changed is 0.0"), ({"against": None}, "--against")],
)
def test_options_that_make_no_sense_are_refused(options, named):
    with pytest.raises(BadInput, match=named):
        MatchConfig(**({"against": ["a"]} | options))


def test_a_layer_without_varying_units_is_warned_of(images, tmp_path):
    with pytest.warns(MilanWarning, match="no unit of one of plain varies"):
        run(images, tmp_path, "plain", ["plain"], units="one:7,two:0-2")
