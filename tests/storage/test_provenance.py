"""What results say of their sources: decided by what was used, whatever other settings name Diorama."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from milan.describers import load_describer, sources_of
from milan.describers._shared.contract import make_toy_dissection
from milan.dissection.dissection import Dissection
from milan.results.catalogue import Catalogue, read_catalogue, table_sources
from milan.storage.packaged_data import locate_packaged_data
from milan.storage.provenance import is_simulated, simulated_note
from milan.units import Description, Unit
from tests.describers.makers import load_simulated

MILAN = {"captioner": "diorama", "prior": "diorama", "encoder": "diorama:encoder"}
TRAINED = {"annotations": "Diorama (drawn scenes; simulated annotators)"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Dissection:
    """A layer of a network and images of nobody's."""
    return make_toy_dissection(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("name", "settings", "used"),
    [
        ("milan", {}, MILAN | TRAINED),
        ("netdissect", {}, {}),
        ("netdissect", {"labels": "segmenter"}, {"segmenter": "diorama"}),
        ("compositional", {"labels": "segmenter:hf:a/b"}, {"segmenter": "hf:a/b"}),
        (
            "clip_dissect",
            {"concepts": ["a.txt", "harvest:diorama"]},
            {"embedder": "diorama", "concepts": "a.txt, harvest:diorama"},
        ),
        ("sand", {"concepts": "a.txt", "embedder": "hf:a/b"}, {"embedder": "hf:a/b", "concepts": "a.txt"}),
        ("linear_explanations", {"evidence": "labels"}, {}),  # its embedder is Diorama's by default, and is not asked
        ("linear_explanations", {"evidence": "embedder"}, {"embedder": "diorama"}),
        ("describe_and_dissect", {"select": False}, {"captioner": "diorama", "language model": "phrases"}),
        (
            "describe_and_dissect",
            {"concepts": "a.txt", "llm": "openai:m"},
            {"embedder": "diorama", "painter": "diorama", "concepts": "a.txt", "language model": "openai:m"},
        ),
        ("caption_activation", {"captioner": "labels"}, {"language model": "phrases"}),
        ("weight_label", {"llm": "openai:m"}, {"language model": "openai:m"}),
        ("weight_clip", {"next_layer": "classes"}, {"language model": "phrases"}),
        (
            "best_concept",
            {"of": "random_concept", "options": {"concepts": "a.txt"}, "painter": "diffusers:p"},
            {
                "painter of best_concept": "diffusers:p",
                "embedder of best_concept": "diorama",
                "concepts of random_concept": "a.txt",
            },
        ),
        ("annotators", {}, {"annotations": "diorama"}),
        ("shuffled", {"of": "constant", "options": {"text": "cars"}}, {}),
        ("constant", {}, {"annotations": "diorama"}),
    ],
)
def test_a_describer_names_what_it_uses_and_nothing_else(
    toys: Dissection, name: str, settings: dict[str, Any], used: dict[str, str]
) -> None:
    assert load_simulated(name, **settings).sources(toys) == used


def test_annotations_of_people_are_not_called_simulated(toys: Dissection, tmp_path: Path) -> None:
    (tmp_path / "annotations.csv").write_text("layer,unit,summary\nanswers,0,red things\n")
    given = load_describer("annotators", source=str(tmp_path))
    assert simulated_note(sources_of([toys], {"annotators": given})) == ""


def test_a_copy_of_a_stand_in_is_known_as_one(tmp_path: Path) -> None:
    shutil.copytree(locate_packaged_data("data/diorama/clip"), tmp_path / "mine")
    assert is_simulated(f"open_clip:local-dir:{tmp_path / 'mine'}")
    assert is_simulated(str(locate_packaged_data("data/diorama/annotations")))
    assert not is_simulated(str(tmp_path))


def test_the_note_names_the_parts_and_the_counter_of_phrases() -> None:
    sources = {
        "target": "timm:a",
        "probe": "photos",
        "captioner of x": "diorama",
        "prior of x": "diorama",
        "language model of x": "phrases",
    }
    said = simulated_note(sources)
    assert " for the captioner of x and the prior of x. " in said
    assert " A program that counts phrases took the place of the language model of x" in said


def test_a_table_keeps_its_sources_in_its_metadata(toys: Dissection, tmp_path: Path) -> None:
    sources = {"target": "diorama:x", "embedder": "diorama"}
    facts = {"describer": "toy", "sources": sources, "simulated": simulated_note(sources)}
    Catalogue.from_descriptions([Description(Unit("a", 0), "red", 1.0)], **facts).write(tmp_path)
    kept = json.loads(parquet.read_schema(tmp_path / "descriptions.parquet").metadata[b"milan"])
    assert kept == facts
    assert read_catalogue(tmp_path).facts == facts
    assert table_sources(tmp_path) == {"table's target": "diorama:x", "table's embedder": "diorama"}
    assert load_describer("imported", table=str(tmp_path)).sources(toys) == table_sources(tmp_path)
