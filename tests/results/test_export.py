"""What is handed on is read back as it was: by the package, and by the libraries that others use."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from milan.cli.export import main
from milan.dissection.loading import load_dissection
from milan.dissection.milannotations import read_unit_annotations
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.results.catalogue import Catalogue, read_catalogue
from milan.results.export import export_catalogue
from milan.units import Description, Unit

GREEN, DEAD = Unit("answers", 1), Unit("answers", 4)


@pytest.fixture(scope="module")
def catalogue(run_folder):
    return read_catalogue(run_folder)


@pytest.fixture(scope="module")
def hub(catalogue, tmp_path_factory):
    return export_catalogue(catalogue, "hub", tmp_path_factory.mktemp("hub"))


def test_a_data_set_is_the_same_catalogue(catalogue, hub):
    again = read_catalogue(hub)
    assert (again.entries, again.facts) == (catalogue.entries, catalogue.facts)
    assert read_catalogue(next((hub / "data").glob("*.parquet"))).entries == catalogue.entries


def test_datasets_loads_the_data_set_with_pictures(catalogue, hub, tmp_path):
    import datasets

    loaded = datasets.load_dataset(str(hub), split="train", cache_dir=str(tmp_path))
    assert [Unit(row["layer"], row["unit"]) for row in loaded.select_columns(["layer", "unit"])] == [
        entry.unit for entry in catalogue.entries
    ]
    row, expected = loaded[GREEN.index], catalogue.dissections["answers"].exemplars(GREEN)
    assert row["description"] == "things coloured green"
    assert row["image_ids"] == expected.ids.tolist()
    pixels = np.stack([np.asarray(image) for image in row["exemplars"]])
    assert torch.equal(torch.from_numpy(pixels).permute(0, 3, 1, 2), expected.images)
    masks = np.stack([np.asarray(mask.convert("1")) for mask in row["masks"]])
    assert torch.equal(torch.from_numpy(masks)[:, None], expected.masks)
    assert (loaded[DEAD.index]["status"], loaded[DEAD.index]["exemplars"]) == ("dead", [])


def test_the_card_says_what_was_described_by_whom_and_names_no_folder(hub, run_folder):
    card = (hub / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| describer | colour |" in card
    assert "| units | 1 dead, 5 ok, 1 sparse |" in card
    assert str(run_folder.parent) not in card


def test_the_released_layout_has_the_same_exemplars_and_texts(catalogue, tmp_path):
    export_catalogue(catalogue, "milannotations", tmp_path)
    assert read_unit_annotations(tmp_path)[GREEN] == ["things coloured green"]
    again, dissection = load_dissection(tmp_path / "answers"), catalogue.dissections["answers"]
    assert torch.equal(again.exemplars(GREEN).images, dissection.exemplars(GREEN).images)


def test_the_table_is_that_of_the_run(catalogue, run_folder, tmp_path):
    file = export_catalogue(catalogue, "csv", tmp_path)
    assert file.read_bytes() == (run_folder / "descriptions.csv").read_bytes()
    with file.open() as opened:
        assert len(list(csv.DictReader(opened))) == 7


def test_a_single_file_has_every_picture_in_it(catalogue, tmp_path):
    file = export_catalogue(catalogue, "single_file", tmp_path)
    page = file.read_text()
    drawn = json.loads(re.search(r'<script type="application/json" id="images">(.*?)</script>', page)[1])
    exemplars = [catalogue.exemplars(entry.unit) for entry in catalogue.entries if entry.status != "dead"]
    assert {Path(name).stem for name in drawn} == {str(id) for one in exemplars for id in one.ids.tolist()}
    assert all(url.startswith("data:image/webp;base64,") for url in drawn.values())
    assert [each.name for each in tmp_path.iterdir() if not each.name.startswith(".")] == ["page.html"]


def test_a_single_file_that_is_too_large_is_refused(catalogue, tmp_path):
    with pytest.raises(BadInput, match=r"may have 0.01; .* --max_mib 1"):
        export_catalogue(catalogue, "single_file", tmp_path, max_mib=0.01)
    assert not (tmp_path / "page.html").exists()


def test_what_cannot_be_exported_is_an_error(catalogue, tmp_path):
    with pytest.raises(UnknownName, match="'huh'"):
        export_catalogue(catalogue, "huh", tmp_path)
    with pytest.raises(MissingEvidence, match="no pictures"):
        export_catalogue(Catalogue.from_descriptions([Description(GREEN, "green", 1.0)]), "hub", tmp_path)


def test_the_program(run_folder, tmp_path, capsys):
    assert main([str(run_folder), "--format", "csv", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "descriptions.csv")
    assert main([str(run_folder), "--format", "csv", "--single_file"]) == 2
    assert "--single_file" in capsys.readouterr().err
