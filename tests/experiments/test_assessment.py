"""Assessment of explanations by what a language model predicts from them."""

import json

import pytest

from milan.describers._shared.contract import __file__ as toys
from milan.describers._shared.contract import make_toy_dissection
from milan.errors import UnknownName
from milan.experiments.assessment.assessment import assessment
from milan.experiments.assessment.config import AssessmentConfig
from milan.experiments.assessment.tables import load_explainers, restrict_to_share, shuffle_entries
from milan.experiments.core.evaluated_describers import load_evaluated_describer
from milan.probes import load_probe
from milan.results.catalogue import Entry
from milan.targets.loading import load_target
from milan.units import Description, Unit
from tests.describers.makers import PICTURED

CAPTIONER = f"{PICTURED}:ColourCaptioner"


@pytest.fixture
def options(tmp_path):
    file = tmp_path / "colours.yaml"
    file.write_text(f"describer: caption_activation\nsettings:\n  captioner: {CAPTIONER}\n  llm: phrases\n")
    return str(file)


def test_right_words_predict_and_wrong_ones_do_not(options, tmp_path):
    make_toy_dissection(tmp_path)  # draws the probe
    report = assessment(
        AssessmentConfig(
            describers=[options],
            pairs=["caption_activation"],
            target=f"{toys}:make_detectors",
            probe=str(tmp_path / "probe"),
            settings={"captioner": CAPTIONER, "llm": "phrases"},
            layers=["answers"],
            units="0-2",
            explained_share=0.3,
            seed=1,
            out=tmp_path / "out",
            k=5,
        )
    )
    (table,) = report.tables
    own, floor = (row.values for row in table.rows)
    assert own["units"] == floor["units"] == 3
    assert own["correlation"].value > 0.5
    assert floor["correlation"].value < 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["facts"]["llm"] == "phrases"


def test_describers_of_pairs_are_restricted_to_the_explained_share(options):
    sources = load_target("diorama:resnet-objects"), load_probe("diorama:objects", limit=2)
    config = AssessmentConfig(describers=[options], explained_share=0.5, seed=3)
    restricted = restrict_to_share(load_evaluated_describer(options, *sources), config)
    assert restricted.describer.settings.items() >= {"share": 0.5, "seed": 3}.items()
    other = load_evaluated_describer("constant:text=cars", *sources)
    assert restrict_to_share(other, config) is other


SPECS = ("diorama:resnet-objects", "diorama:objects")


def test_unknown_kinds_and_settings_are_errors():
    with pytest.raises(UnknownName, match="nearest: weight_label"):
        load_explainers(AssessmentConfig(describers=[], pairs=["weight_labels"]), SPECS)
    with pytest.raises(UnknownName, match="nearest: classes"):
        load_explainers(AssessmentConfig(describers=[], settings={"clases": "imagenet"}), SPECS)


def test_the_floor_is_descriptions_of_other_units():
    said = [
        Entry(Unit("a", number), description=Description(Unit("a", number), f"thing {number}", 0.0))
        for number in range(4)
    ]
    dealt = shuffle_entries([*said, Entry(Unit("a", 4), "dead")], 0)
    assert sorted(entry.description.text for entry in dealt) == [f"thing {number}" for number in range(4)]
    assert all(entry.description.text != f"thing {entry.unit.index}" for entry in dealt)
