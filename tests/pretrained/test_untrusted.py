"""Folders of models: code that lies in them is never run, and files that were not downloaded are named."""

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from milan.errors import BadInput
from milan.pretrained.embedder import load_embedder
from milan.pretrained.image_captioner import load_image_captioner
from milan.pretrained.painter import load_painter
from milan.pretrained.segmenter import load_segmenter
from milan.pretrained.sentence_encoder import load_sentence_encoder
from milan.scores.text_similarity import BertScoreConfig, bert_score
from milan.targets.loading import load_target
from tests.pretrained.tiny import open_clip

LOADERS: dict[str, Callable[[Path], object]] = {
    "target": lambda folder: load_target(f"hf:{folder}"),
    "target with weights": lambda folder: load_target(f"hf:{folder}", weights="random"),
    "embedder": lambda folder: load_embedder(f"hf:{folder}"),
    "captioner": lambda folder: load_image_captioner(f"hf:{folder}"),
    "segmenter": lambda folder: load_segmenter(f"hf:{folder}"),
    "sentence encoder": lambda folder: load_sentence_encoder(f"hf:{folder}"),
    "BERTScore": lambda folder: bert_score(["a"], [["b"]], BertScoreConfig(str(folder), 1, rescale=False)),
}
MODELS = ("Model", "ModelForImageClassification", "ModelForSemanticSegmentation")
CLASSES = ("Config", "Processor", "ImageProcessor", *MODELS)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the code in ``folder`` leaves behind if it is run; somebody at the console answers "y" to everything."""
    monkeypatch.setattr(builtins, "input", lambda *prompt: "y")
    folder = tmp_path / "folder"
    folder.mkdir()
    found = {f"Auto{name}": "own.Own" for name in CLASSES} | {"AutoTokenizer": ["own.Own", "own.Own"]}
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"auto_map": found, "model_type": "own"}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    return tmp_path / "ran"


@pytest.mark.parametrize("loader", LOADERS)
def test_code_in_a_folder_is_never_run(loader: str, ran: Path) -> None:
    with pytest.raises(BadInput, match="folder"):
        LOADERS[loader](ran.parent / "folder")
    assert not ran.exists()


def test_code_in_the_tokenizer_of_a_model_of_open_clip_is_never_run(ran: Path, tmp_path: Path) -> None:
    spec = open_clip(tmp_path / "clip")
    settings = tmp_path / "clip" / "open_clip_config.json"
    config = json.loads(settings.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "own"  # then it is read from the folder
    settings.write_text(json.dumps(config))
    for name in ("tokenizer_config.json", "own.py"):
        shutil.copy(tmp_path / "folder" / name, tmp_path / "clip")
    with pytest.raises(BadInput, match="never run"):
        load_embedder(spec)
    assert not ran.exists()


@pytest.mark.parametrize("loader", LOADERS)
def test_files_that_were_not_downloaded_are_named(loader: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(BadInput, match=r"model\.safetensors is a Git LFS pointer"):
        LOADERS[loader](tmp_path)


def test_pages_in_place_of_parts_of_a_pipeline_are_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_text("<html>")
    with pytest.raises(BadInput, match=r"diffusion_pytorch_model\.bin is a web page"):
        load_painter(f"diffusers:{tmp_path}")
