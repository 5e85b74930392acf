"""Saved models: unchanged after loading, and clear errors for files of another class or format."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from milan.errors import BadInput
from milan.models import Captioner, Prior
from milan.models.decoding import TokenConstraints, beam_search
from tests.models.worlds import captioner, features, prior


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in {**config, **values}.items() if value is not None})
    )


def test_a_loaded_model_equals_the_saved_one(tmp_path: Path) -> None:
    model = captioner(encoder={"spec": "diorama:encoder"})
    model.trained_on = {"data": "Diorama (simulated annotators)", "seed": 0}
    model.save_pretrained(tmp_path / "captioner")
    again = Captioner.from_pretrained(tmp_path / "captioner")
    assert not again.training
    assert again.trained_on == model.trained_on
    assert again.encoder == {"spec": "diorama:encoder"}
    assert again.fingerprint == model.fingerprint
    assert torch.equal(
        *(
            beam_search(one.start_decoding(features(2)), 2, TokenConstraints(one.vocabulary), beam=5).scores
            for one in (model, again)
        )
    )
    assert {file.name for file in (tmp_path / "captioner").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    prior().save_pretrained(tmp_path / "prior")
    assert (
        Prior.from_pretrained(str(tmp_path / "prior")).fingerprint
        == prior().fingerprint
        != prior(dropout=0.1).fingerprint
    )


def test_the_card_reports_the_training_data(tmp_path: Path) -> None:
    model = prior()
    model.trained_on = {"data": "Diorama (simulated annotators)", "units": 12}
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "simulated annotators" in card.text
    assert "units: 12" in card.text
    assert "milan" in card.data.tags
    model.trained_on = {"data": "other texts"}
    model.save_pretrained(tmp_path)
    assert "other texts" in (tmp_path / "README.md").read_text()


def test_weights_saved_in_half_precision_load_in_32_bits(tmp_path: Path) -> None:
    model = prior()
    model.save_pretrained(tmp_path, half=True)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    again = Prior.from_pretrained(tmp_path)
    assert {value.dtype for value in again.parameters()} == {torch.float32}
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-3)


def test_push_to_hub_uploads_what_save_pretrained_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    class Api:
        def __init__(self, **_: object):
            pass

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, folder_path: Path, **_: object) -> str:
            seen.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert prior().push_to_hub("me/prior") == "done"
    assert set(seen) == {"config.json", "model.safetensors", "README.md"}


def test_weights_that_do_not_fit_are_listed_by_name(tmp_path: Path) -> None:
    captioner().save_pretrained(tmp_path)
    changed(tmp_path, hidden=20, words=["a"] * 1)
    with pytest.raises(BadInput, match=r"gate.weight is \(24, 16\), not \(24, 20\)"):
        Captioner.from_pretrained(tmp_path)
    captioner().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if name != "query.bias"}, file)
    with pytest.raises(BadInput, match=r"missing query\.bias"):
        Captioner.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 2}, "format 2, this version of milan reads format 1"),
        ({"format": None}, "no format version"),
        ({"class": "Prior"}, "not the config of a Captioner"),
        ({"novelty": 3}, "unknown novelty"),
        ({"words": None}, "missing words"),
    ],
)
def test_another_config_is_refused(values: dict, message: str, tmp_path: Path) -> None:
    captioner().save_pretrained(tmp_path)
    changed(tmp_path, **values)
    with pytest.raises(BadInput, match=message):
        Captioner.from_pretrained(tmp_path)


def test_paths_are_never_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "milan.models.model_files.hf_hub_download", lambda *_, **__: pytest.fail("asked the hub for a path")
    )
    for path in (tmp_path / "absent", "./absent", "~/absent", "a/b/c", "absent"):
        with pytest.raises(BadInput, match="no folder"):
            Captioner.from_pretrained(path)
    with pytest.raises(BadInput, match=r"no config.json in"):
        Captioner.from_pretrained(tmp_path)
    prior().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(BadInput, match=r"cannot read .*model.safetensors"):
        Prior.from_pretrained(tmp_path)


def test_an_unreachable_hub_id_is_an_error_of_one_line() -> None:
    with pytest.raises(BadInput, match=r"cannot get config.json of nobody/nothing from the hub") as error:
        Prior.from_pretrained("nobody/nothing")
    assert "\n" not in str(error.value)
