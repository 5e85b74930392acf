"""What a describer's spec stands for, by target and probe, and what is said where models or evidence are missing."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from milan.concepts import concept_sets
from milan.describers import find_describer_class, list_describers, load_describer
from milan.describers._shared import availability
from milan.describers._shared.availability import has_class_labels
from milan.describers._shared.describer_specs import parse_spec, resolve_describer, resolve_settings
from milan.errors import MissingEvidence, UnknownName
from milan.pretrained import milan_release, published_models
from milan.probes import Probe
from milan.targets.target import Target

CONFIGS = Path(__file__).parents[2] / "configs" / "describe"
REAL, SIMULATED = ("torchvision:alexnet", "photos"), ("torchvision:alexnet", "diorama:objects")
PUBLISHED = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "-" not in path.stem)
SERVED = "vlm"  # needs an endpoint, never a stand-in


def settings_of(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["settings"]


@pytest.mark.parametrize(
    ("spec", "name", "label", "settings"),
    [
        ("milan", "milan", "milan", {}),
        ("milan:beam=3,strategy=clip", "milan", "milan-beam=3-strategy=clip", {"beam": 3, "strategy": "clip"}),
        ("sand:concepts=a.txt,b.txt,eta=0.2", "sand", "sand-concepts=a.txt,b.txt-eta=0.2",
         {"concepts": "a.txt,b.txt", "eta": 0.2}),
        ("weight_label:classes=", "weight_label", "weight_label-classes=", {"classes": ""}),
        ("d/own.py:Own:depth=1", "d/own.py:Own", "own.py-Own-depth=1", {"depth": 1}),
        ("runs/mine.csv", "imported", "mine", {"table": "runs/mine.csv"}),
        ("netdissect-diorama.yaml", "netdissect", "netdissect", settings_of("netdissect-diorama")),
    ],
)  # fmt: skip
def test_a_spec_names_a_describer_and_settings(spec, name, label, settings):
    found = parse_spec(spec)
    assert (found.name, found.label, found.settings) == (name, label, settings)


def test_a_label_names_files_without_their_folders_and_stays_a_valid_file_name(tmp_path):
    (file := tmp_path / "classes.json").write_text("{}")
    assert parse_spec(f"linear_explanations:superclasses={file}").label == "linear_explanations-superclasses=classes"
    labels = {parse_spec(f"constant:text={'long ' * 60}{end}").label for end in "ab"}
    assert len(labels) == 2
    assert {len(label) for label in labels} == {120}


@pytest.mark.parametrize(
    ("name", "settings", "planned"),
    [
        ("linear_explanations", {"evidence": "labels"}, set()),
        ("linear_explanations", {}, {"embedder", "concepts"}),
        ("milan", {"captioner": "runs/train/captioner", "prior": "runs/train/prior"}, {"captioner", "prior"}),
        ("describe_and_dissect", {"select": False}, {"captioner", "language model"}),
    ],
)
def test_a_plan_names_the_models_that_the_settings_use(name, settings, planned):
    assert set(load_describer(name, **settings).planned_sources()) == planned


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_constructors_defaults_are_the_published_settings(name):
    assert {key: getattr(find_describer_class(name)(), key) for key in settings_of(name)} == settings_of(name)


@pytest.mark.parametrize("name", [each for each in PUBLISHED if each != SERVED])
def test_what_stand_ins_change_is_written_in_the_published_file_or_no_model(name):
    changed = settings_of(f"{name}-diorama")
    made = find_describer_class(name)(**changed)
    assert all(spec.startswith(("diorama", "phrases", "harvest:diorama")) for spec in made.required_models().values())


@pytest.mark.parametrize("name", list_describers())
def test_no_describer_but_annotators_knows_of_diorama(name):
    text = (Path(availability.__file__).parents[1] / f"{name}.py").read_text(encoding="utf-8")
    assert (re.search("diorama", text, re.IGNORECASE) is None) == (name != "annotators")


def test_stand_ins_apply_where_target_or_probe_is_simulated_and_what_is_given_wins():
    assert resolve_settings("milan", {}, REAL) == {"device": "cpu"}
    assert resolve_settings("milan", {"beam": 7}, SIMULATED) == {
        "device": "cpu",
        "beam": 7,
        "captioner": "diorama",
        "embedder": "diorama",
    }
    assert resolve_settings("milan", {"captioner": "a.pth"}, ("diorama:planted", "photos"))["captioner"] == "a.pth"
    inner = resolve_settings("best_concept", {}, SIMULATED)["options"]
    assert (inner["embedder"], inner["temperature"]) == ("diorama", 1.0)
    assert resolve_settings("best_concept", {}, REAL)["options"] == {"device": "cpu"}
    with pytest.raises(UnknownName, match="beam"):
        resolve_settings("milan", {"baem": 3}, REAL)


@pytest.fixture
def target():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Target(model.eval(), name="mine", image_size=8)


def make_probe(labels=None):
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    return Probe.from_tensor(images, labels=labels, classes=["cat", "dog"] if labels else None)


@pytest.fixture(autouse=True)
def unconnected(monkeypatch, tmp_path):
    for module in (published_models, milan_release, concept_sets):
        monkeypatch.setattr(module, "is_reachable", lambda url: False)
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MILAN_RELEASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("spec", "facts"),
    [
        ("milan", ["released:base", "licence MIT", "http://milan.csail.mit.edu/models/milan-base.pth", "milan-2022"]),
        ("milan:strategy=clip", ["released:base", "ViT-B-16-quickgelu/openai", "0.6 GB"]),
        ("clip_dissect", ["ViT-B-16-quickgelu/openai", "licence MIT", "huggingface.co", "models--timm", "20k"]),
        ("best_concept", ["stable-diffusion-v1-4", "OpenRAIL", "5.5 GB", "20k"]),
        ("describe_and_dissect", ["blip-image-captioning-base", "BSD", "1.0 GB", "OPENAI_API_KEY"]),
        ("sand", ["captions_train2017.json", "CC BY 4.0", "images.cocodataset.org"]),
        ("linear_explanations", ["SigLIP-384/webli", "2.6 GB", "combined_imagenet"]),
        ("linear_explanations:evidence=labels", ["no class labels"]),
        ("netdissect", ["no segmentations|no names for the pixel labels"]),
        ("compositional", ["no segmentations|no names for the pixel labels"]),
        ("vlm", ["gpt-4o", "set OPENAI_API_KEY"]),
        ("several", ["ViT-B-16-quickgelu/openai", "20k"]),
        ("best_of", ["SigLIP-384/webli", "ViT-B-16-quickgelu/openai"]),
        ("caption_activation", ["blip-image-captioning-base", "gpt-3.5-turbo"]),
        ("weight_label", ["gpt-3.5-turbo", "2 outputs", "1000"]),
        ("weight_clip", ["gpt-3.5-turbo", "20k"]),
        ("random_concept", ["20k"]),
        ("annotators", ["nobody annotated mine"]),
        ("shuffled", ["nobody annotated mine"]),
        ("imported", ["no table"]),
        ("auto", ["auto finds no describer"]),
    ],
)
def test_one_message_names_all_that_is_missing(spec, facts, target, recwarn):
    with pytest.raises(MissingEvidence) as raised:
        resolve_describer(spec, target, make_probe())
    text = str(raised.value)
    assert not recwarn
    assert "\n" not in text
    assert [fact for fact in facts if not re.search(fact, text)] == []
    assert "No describer works without further models here" in text


def test_the_message_names_what_works_with_the_evidence_at_hand(target):
    with pytest.raises(MissingEvidence) as raised:
        resolve_describer("milan", target, make_probe([0, 1] * 3))
    assert re.findall(r"--describer (\S+)", str(raised.value)) == [
        "linear_explanations:evidence=labels",
        "weight_label:llm=phrases,classes=",
    ]
    for spec in re.findall(r"--describer (\S+)", str(raised.value)):
        resolve_describer(spec, target, make_probe([0, 1] * 3))


@pytest.mark.parametrize(
    ("labels", "expected"), [([3, 9, 3, 9, 3], True), ([0, 1, 2, 0, 1, 2], False), ([0] * 5, False)]
)
def test_labels_are_evidence_only_if_a_class_has_three_images_and_others_exist(labels, expected):
    images = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    assert has_class_labels(Probe.from_tensor(images, labels=labels)) is expected


def test_auto_takes_an_image_text_model_before_labels_and_says_why(target, monkeypatch):
    labelled = make_probe([0, 1] * 3)
    found = resolve_describer("auto", target, labelled)
    assert (found.describer.name, found.reason) == ("linear_explanations", "the probe has class labels")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for module in (published_models, concept_sets):
        monkeypatch.setattr(module, "is_reachable", lambda url: True)
    assert resolve_describer("auto", target, labelled).describer.name == "clip_dissect"
