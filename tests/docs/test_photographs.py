"""The commands of the page on photographs run, on a tiny network with the layers and classes of the one they name."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from milan.cli import describe
from milan.probes import load_probe
from tests.docs.test_tutorials import ROOT
from tests.pretrained import tiny
from tests.pretrained.chat_server import choice, serving

PAGE = ROOT / "docs" / "guides" / "photographs.md"
NETWORK = """
from torch import nn

from milan import Target


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 20, 8, stride=8), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(20, 1000)

    def forward(self, images):
        return self.fc(self.pool(self.layer4(images)).flatten(1))


def network():
    return Target(Tiny(), name="tiny", image_size=32)
"""
REPLY = {"nothing_in_common": False, "description": "red squares", "confidence": 0.5, "alternatives": []}


def write_photographs(folder: Path) -> None:
    """Write the files that the page names: labelled and unlabelled photographs, pixel labels, a model, and concepts."""
    scenes = load_probe("diorama:objects", limit=60)
    rows = []
    for index in range(len(scenes)):
        picture = Image.fromarray(scenes.image(index).permute(1, 2, 0).numpy())
        for home in (folder / "photos" / ("cat", "dog")[index % 2], folder / "unlabelled"):
            home.mkdir(parents=True, exist_ok=True)
            picture.save(home / f"{index}.png")
        labels = Image.new("L", picture.size, index % 2)
        labels.save(folder / "labels.png")
        file = folder / "unlabelled" / f"{index}.png"
        rows.append({"image": file.read_bytes(), "segmentation": (folder / "labels.png").read_bytes()})
    pd.DataFrame(rows).to_parquet(folder / "streets.parquet")
    (folder / "classes.txt").write_text("road\nsky\n")
    (folder / "words.txt").write_text("red\ngreen\nblue\n")
    (folder / "network.py").write_text(NETWORK)
    tiny.make("open_clip", folder / "clip")


@pytest.mark.filterwarnings("ignore")
def test_the_commands_for_photographs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    # --offline holds for the whole process.
    monkeypatch.setenv("MILAN_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    commands = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(commands) == 6
    with serving() as server:
        server.usual = choice(json.dumps(REPLY))
        for command in commands:
            words = command.replace("torchvision:resnet50", "network.py:network")
            words = words.replace("http://localhost:11434/v1", server.url).replace("\\\n", " ")
            assert describe.main([*shlex.split(words.removeprefix("python describe.py ")), "--offline"]) == 0, command
    shown = capsys.readouterr().out
    assert "linear_explanations (the probe has class labels)" in shown
    texts = {
        run.name: set(pd.read_csv(run / "descriptions.csv")["description"].dropna()) for run in Path("runs").iterdir()
    }
    assert set(texts) == {"labels", "pixels", "clip", "endpoint", "weights"}
    assert texts["pixels"] <= {"road", "sky"}
    assert texts["clip"] <= {"red", "green", "blue"}
    assert texts["endpoint"] == {"red squares"}
    assert texts["weights"]


def test_every_section_has_one_command_and_one_picture() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    assert [section.count("```bash") for section in sections] == [1] * 5
    assert [section.count("![") for section in sections] == [1] * 5
