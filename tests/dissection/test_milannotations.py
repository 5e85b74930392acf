"""The released layout and the compact one, written and read; and what the 2022 code got wrong in reading."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from milan.dissection.dissect import dissect
from milan.dissection.dissection import Dissection
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import export_compact, export_milannotations, read_unit_annotations
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.probes import load_probe
from milan.targets.target import Target
from milan.units import Unit
from tests.dissection.test_dissect import picture_folder
from tests.dissection.world import SIZE, toy_probe, toy_target


@pytest.fixture
def dissection(tmp_path: Path) -> Dissection:
    return dissect(
        toy_target(), toy_probe(60), ["conv2"], tmp_path / "own", k=4, quantile=0.95, units={"conv2": [1, 5, 6]}
    )["conv2"]


def said(dissection: Dissection) -> dict[Unit, list[str]]:
    return {unit: [f"text {unit.index}, first", 'with "quotes", commas\nand lines'] for unit in dissection.units}


def same(one: Dissection, other: Dissection) -> None:
    assert one.units == other.units
    for unit in one.units:
        mine, theirs = one.exemplars(unit), other.exemplars(unit)
        for name in ("ids", "activations", "masks", "images"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def test_released_layout_there_and_back(tmp_path: Path, dissection: Dissection) -> None:
    place = export_milannotations(dissection, tmp_path / "toy", said(dissection))
    assert place == tmp_path / "toy" / "conv2"
    same(dissection, load_dissection(place))
    assert read_unit_annotations(place) == read_unit_annotations(tmp_path / "toy") == said(dissection)
    images, masks = np.load(place / "images.npy"), np.load(place / "masks.npy")
    assert (images.shape, images.dtype) == ((3, 4, 3, SIZE, SIZE), np.uint8)
    assert (masks.shape, masks.dtype, masks.max()) == ((3, 4, 1, SIZE, SIZE), np.uint8, 1)
    assert len((place / "ids.csv").read_text().splitlines()) == 3


def test_a_layer_that_is_no_file_name_is_found_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    target = Target(torch.nn.ModuleDict({"Conv/1": torch.nn.Conv2d(3, 2, 3)}), image_size=SIZE)
    target.model.forward = lambda images: target.model["Conv/1"](images)
    probe = load_probe(picture_folder(tmp_path / "pictures", 40, []), size=SIZE, resize=SIZE)
    own = dissect(target, probe, ["Conv/1"], tmp_path / "own", k=4)["Conv/1"]
    for export in (export_milannotations, export_compact):
        place = export(own, tmp_path / export.__name__, said(own))
        assert load_dissection(place).layer == "Conv/1"
        assert read_unit_annotations(place) == said(own)


def test_a_layer_written_again_replaces_its_annotations_and_no_others(tmp_path: Path, dissection: Dissection) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "annotations.csv").write_text("layer,unit,summary\n0,3,kept\nconv2,1,gone\n")
    export_milannotations(dissection, folder, said(dissection))
    assert read_unit_annotations(folder) == {Unit("0", 3): ["kept"], **said(dissection)}


def test_compact_form_there_and_back(tmp_path: Path) -> None:
    spec = picture_folder(tmp_path / "pictures", 40, [])
    probe = load_probe(spec, size=SIZE, resize=SIZE)
    own = dissect(toy_target(), probe, ["conv2"], tmp_path / "own", k=4, quantile=0.9)["conv2"]
    place = export_compact(own, tmp_path / "network", said(own))
    again = load_dissection(place)
    same(own, again)
    assert read_unit_annotations(place) == read_unit_annotations(tmp_path / "network") == said(own)
    assert (again.probe, again.target, again.quantile, again.image_size) == (spec, "toy", 0.9, SIZE)
    assert (
        sum(file.stat().st_size for file in place.iterdir()) < 8 * 4 * SIZE**2
    )  # an eighth of the masks' bytes, and small tables
    assert again.key == load_dissection(place).key
    table = np.loadtxt(place / "ids.csv", delimiter=",", ndmin=2)
    table[0, 0] = 39 - table[0, 0]
    np.savetxt(place / "ids.csv", table, fmt="%d", delimiter=",")
    assert again.key != load_dissection(place).key


def test_compact_form_needs_a_probe_that_can_be_loaded(tmp_path: Path, dissection: Dissection) -> None:
    with pytest.raises(MissingEvidence, match="probe without a spec"):
        export_compact(dissection, tmp_path / "network")


def released(folder: Path, *, units: list[int] | None = None, images: bool = True) -> Path:
    """A folder as the 2022 code wrote it, by hand."""
    folder.mkdir(parents=True)
    count = len(units) if units else 3
    numbers = np.random.default_rng(0)
    if images:
        np.save(folder / "images.npy", numbers.integers(0, 256, (count, 2, 3, 8, 8), np.uint8))
    masks = numbers.integers(0, 2, (count, 2, 1, 8, 8)).astype(np.uint8)
    masks[0, 0] = 0
    np.save(folder / "masks.npy", masks)
    np.savetxt(folder / "ids.csv", np.arange(count * 2).reshape(count, 2), fmt="%i", delimiter=",")
    np.savetxt(
        folder / "activations.csv", np.arange(count * 2).reshape(count, 2)[:, ::-1] / 3, fmt="%.5e", delimiter=","
    )
    if units:
        np.save(folder / "units.npy", np.array(units))
    return folder


def test_units_are_looked_up_by_number_not_by_place(tmp_path: Path) -> None:
    folder = released(tmp_path / "resnet" / "layer4", units=[7, 0, 30])
    found = load_dissection(folder)
    assert [unit.index for unit in found.units] == [7, 0, 30]
    for row, index in enumerate([7, 0, 30]):
        assert torch.equal(
            found.exemplars(Unit("layer4", index)).images, torch.from_numpy(np.load(folder / "images.npy")[row])
        )
        assert found.exemplars(Unit("layer4", index)).ids.tolist() == [row * 2, row * 2 + 1]
    with pytest.raises(UnknownName, match="'layer4:1'"):
        found.exemplars(Unit("layer4", 1))


def test_layers_named_by_numbers_stay_texts(tmp_path: Path) -> None:
    found = load_dissection(released(tmp_path / "places" / "4"))
    (tmp_path / "places" / "annotations.csv").write_text(
        "\ufefflayer,unit,summary\n4,2,sky\n4,2,blue things\n7,0,other\n4,1,  \n", "utf-8"
    )
    assert found.layer == "4"
    assert read_unit_annotations(found.folder) == {Unit("4", 2): ["sky", "blue things"]}
    assert read_unit_annotations(tmp_path / "places") == {Unit("4", 2): ["sky", "blue things"], Unit("7", 0): ["other"]}


def test_an_empty_released_mask_is_the_whole_image(tmp_path: Path) -> None:
    found = load_dissection(released(tmp_path / "places" / "4"))
    assert found.exemplars(Unit("4", 0)).masks[0].all()
    assert not found.exemplars(Unit("4", 0)).masks[1].all()


def test_what_a_release_does_not_hold_is_told(tmp_path: Path) -> None:
    found = load_dissection(released(tmp_path / "net" / "layer1", images=False))
    for ask in (found.thresholds, found.activations):
        with pytest.raises(MissingEvidence, match="dissect layer layer1 of the network itself"):
            ask()
    with pytest.raises(MissingEvidence, match=r'has no images.npy.*probe.json, as \{"spec": "FOLDER"\}'):
        found.exemplars(found.units[0])
    spec = picture_folder(tmp_path / "pictures", 6, [])
    (tmp_path / "net" / "probe.json").write_text(json.dumps({"spec": spec, "size": 8}))
    assert load_dissection(found.folder).exemplars(found.units[2]).images.shape == (2, 3, 8, 8)


def test_activations_left_out_of_a_release_are_not_made_up(tmp_path: Path) -> None:
    folder = released(tmp_path / "net" / "layer1")
    (folder / "activations.csv").unlink()
    assert load_dissection(folder).exemplars(Unit("layer1", 0)).activations.isnan().all()


def npy(shape: str, kind: str = "|u1") -> bytes:
    """A .npy file whose header claims something, and a little data."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
    return b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\n" + bytes(99)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


SPOILT: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "pickle": ("masks.npy", lambda file: pickled(), "Python objects"),
    "cut": ("masks.npy", lambda file: file[:150], "cannot read"),
    "empty": ("masks.npy", lambda file: b"", "empty"),
    "negative": ("images.npy", lambda file: npy("(-2, 3, 3, 8, 8)"), "cannot read"),
    "huge": ("images.npy", lambda file: npy("(2000000000, 2000000000, 3, 8, 8)"), "cannot read"),
    "axes": ("images.npy", lambda file: npy("(3, 2)"), "with 5 axes"),
    "floats": ("images.npy", lambda file: npy("(3, 2, 3, 1, 1)", "<f4"), "float32"),
    "page": ("units.npy", lambda file: b"<!DOCTYPE html>", "web page"),
    "pointer": ("ids.csv", lambda file: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "rows": ("ids.csv", lambda file: b"1,2\n3,4\n", r"for \(2, 2\)"),
    "words": ("ids.csv", lambda file: b"1,two\n", "two"),
    "numbers": ("ids.csv", lambda file: b"1,99999999999999999999\n", "cannot read"),
    "units": ("units.npy", lambda file: npy("(3,)"), "3 different units"),
    "probe": ("probe.json", lambda file: b"{", "not JSON"),
    "list": ("probe.json", lambda file: b"[]", "list"),
    "deep": ("probe.json", lambda file: b"[" * 100_000, "too deeply"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_damaged_files_are_told(tmp_path: Path, what: str) -> None:
    folder = released(tmp_path / "net" / "layer1")
    name, spoil, message = SPOILT[what]
    file = folder / name
    file.write_bytes(spoil(file.read_bytes() if file.exists() else b""))
    with pytest.raises(BadInput, match=message):
        load_dissection(folder)


def test_damaged_annotations_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no annotations.csv in"):
        read_unit_annotations(tmp_path)
    file = tmp_path / "annotations.csv"
    file.write_text("layer,unit,text\na,1,b\n")
    with pytest.raises(BadInput, match="needs layer, unit, summary"):
        read_unit_annotations(tmp_path)
    for row, message in (
        ("a,one,b", "unit 'one'"),
        ("a,1,red, or blue", "4 cells for 3 columns"),
        ("a,1", "2 cells for 3 columns"),
    ):
        file.write_text(f"layer,unit,summary\na,0,b\n{row}\n")
        with pytest.raises(BadInput, match=f"annotations.csv, line 3: {message}"):
            read_unit_annotations(file)


def test_the_real_annotations_of_resnet152(shared_data: Path) -> None:
    file = shared_data / "milannotations" / "resnet152_imagenet.csv"
    found = read_unit_annotations(file)
    with file.open(newline="", encoding="utf-8") as opened:
        rows = sum(bool(row["summary"].strip()) for row in csv.DictReader(opened))
    assert len(found) == 3904
    assert sum(map(len, found.values())) == rows
