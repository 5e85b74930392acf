"""The 2022 checkpoint: the same answers as the 2022 code, and nothing in a file is ever run."""

import gzip
import io
import json
import math
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import resnet18

from milan.describers.milan import Milan
from milan.errors import BadInput
from milan.models import Encoder
from milan.models.decoding import Speller, beam_search, greedy
from milan.models.released import Released, read_released
from milan.targets import Target


@pytest.fixture(scope="module")
def file(shared_data: Path) -> Path:
    return shared_data / "milan_checkpoint" / "checkpoint.pth.gz"


@pytest.fixture(scope="module")
def released(file: Path) -> Released:
    return read_released(file)


@pytest.fixture(scope="module")
def expected(shared_data: Path) -> dict[str, Tensor]:
    return load_file(shared_data / "milan_checkpoint" / "expected.safetensors")


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> dict:
    return json.loads((shared_data / "milan_checkpoint" / "expected.json").read_text())


def test_the_vocabulary_and_special_ids_are_the_checkpoints(released: Released, texts: dict) -> None:
    vocabulary = released.captioner.vocabulary
    assert vocabulary.words == texts["vocabulary"]
    assert [vocabulary.start, vocabulary.stop, vocabulary.pad, vocabulary.unk] == [texts[name] for name in ("start", "stop", "pad", "unk")]
    assert (released.beam, released.prior_weight, released.steps, released.strategy) == (50, 0.2, 15, "rerank")


def test_beam_search_finds_the_same_tokens_and_scores(released: Released, expected: dict[str, Tensor]) -> None:
    captioner = released.captioner
    found = beam_search(captioner.walk(expected["features"]), 8, Speller(captioner.vocabulary, specials=True))
    assert torch.equal(found.tokens, expected["beam_tokens"])
    torch.testing.assert_close(found.scores, expected["beam_scores"], atol=1e-4, rtol=0)


def test_milan_reranks_to_the_same_tokens_and_scores(file: Path, released: Released, expected: dict[str, Tensor], texts: dict) -> None:
    milan = Milan.from_released(file)
    ranked = milan.search(expected["features"])
    assert torch.equal(ranked.tokens[:, 0], expected["rerank_tokens"])
    torch.testing.assert_close(ranked.scores[:, 0], expected["rerank_scores"], atol=1e-4, rtol=0)
    vocabulary = released.captioner.vocabulary
    assert [vocabulary.decode(tokens[0].tolist()) for tokens in ranked.tokens] == [text.lower() for text in texts["rerank"]]
    likeliest = Milan.from_released(file, strategy="beam").search(expected["features"])
    assert [vocabulary.decode(tokens[0].tolist()) for tokens in likeliest.tokens] == [text.lower() for text in texts["beam"]]


def test_greedy_takes_the_same_words(released: Released, expected: dict[str, Tensor]) -> None:
    captioner = released.captioner
    found = greedy(captioner.walk(expected["features"]), 8, Speller(captioner.vocabulary, specials=True))
    assert torch.equal(found.tokens[:, 0], expected["greedy_tokens"])


def test_given_captions_get_the_same_scores(released: Released, expected: dict[str, Tensor], texts: dict) -> None:
    captioner, prior = released.captioner, released.prior
    ids = [captioner.vocabulary.encode(text) for text in texts["forced_captions"]]
    tokens = torch.tensor([one + [captioner.vocabulary.pad] * (max(map(len, ids)) - len(one)) for one in ids])
    likelihood = captioner.score(expected["features"], tokens.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(likelihood, expected["forced_scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(prior.score(tokens, trailing=True), expected["prior_scores"], atol=1e-4, rtol=0)
    beyond = prior.score(tokens) - expected["prior_scores"]  # the 2022 code counts a token after <stop> where there is one
    assert (beyond[tokens[:, -1] == captioner.vocabulary.pad] > 1).all()


def published_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights that the data's README describes."""
    state = model.state_dict()
    for index, name in enumerate(sorted(state)):
        value = state[name]
        if not value.is_floating_point():
            continue
        wave = torch.sin(0.37 * torch.arange(value.numel(), dtype=torch.float64) + index)
        if name.endswith("running_var"):
            wave = 1 + 0.1 * wave
        elif name.endswith(("running_mean", "bias")):
            wave = 0.1 * wave
        elif value.ndim == 1:
            wave = 1 + 0.1 * wave
        else:
            wave = wave * math.sqrt(2 / (value.numel() / value.shape[0]))
        state[name] = wave.view(value.shape).float()
    return state


def test_the_encoder_gives_the_same_features(expected: dict[str, Tensor]) -> None:
    model = resnet18(weights=None)
    model.load_state_dict(published_weights(model))
    encoder = Encoder(Target(model.eval(), name="resnet18", image_size=64))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.target.mean, encoder.target.std))
    features = encoder.pooled((expected["encoder_images"] - mean) / std, expected["encoder_masks"])
    torch.testing.assert_close(features, expected["encoder_features"], atol=1e-4, rtol=0)
    assert not features[3].any(), "the last mask is empty"


def test_the_checkpoint_brings_its_encoders_weights(file: Path) -> None:
    encoder = Milan.from_released(file).models.encoder
    assert encoder.length == 1024
    assert not encoder.target.core.fc.weight.any(), "this checkpoint's encoder weights are zeros"


def saved(content: object, file: Path) -> Path:
    torch.save(content, file)
    return file


class Runs:
    """Asks to have a function called when it is unpickled."""

    def __init__(self, function: object, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def write(path: str) -> None:
    Path(path).write_text("ran")


@pytest.mark.parametrize("function", [os.system, os.mkdir, exec, eval, write, io.open, print, pickle.loads, Path.touch, getattr])
def test_a_malicious_pickle_runs_nothing(function: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "mark"
    arguments = {
        os.system: (f"touch {mark}",),
        exec: (f"open({str(mark)!r}, 'w')",),
        eval: (f"open({str(mark)!r}, 'w')",),
        io.open: (str(mark), "w"),
        pickle.loads: (pickle.dumps(Runs(os.system, f"touch {mark}")),),
        Path.touch: (mark,),
        getattr: (mark, "touch"),
    }.get(function, (str(mark),))
    file = saved({"properties": {"indexer": Runs(function, *arguments)}, "children": {}, "state_dict": {}}, tmp_path / "evil.pth")
    with pytest.raises(BadInput, match="evil"):
        read_released(file)
    assert not mark.exists()
    assert not capsys.readouterr().out


def test_the_malice_of_the_test_is_real(tmp_path: Path) -> None:
    file = saved(Runs(os.system, f"touch {tmp_path / 'mark'}"), tmp_path / "evil.pth")
    torch.load(file, weights_only=False)
    assert (tmp_path / "mark").exists()


def test_other_files_are_refused_in_a_line(tmp_path: Path, file: Path) -> None:
    text, zipped, cut, odd = (tmp_path / name for name in ("text.pth", "zip.pth", "cut.pth.gz", "odd.pth"))
    text.write_text("hello")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "hello")
    cut.write_bytes(file.read_bytes()[:100_000])
    saved({"state_dict": {}, "properties": {"indexer": 3}}, odd)
    for wrong in (text, zipped, cut, odd, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(BadInput, match=wrong.name) as told:
            read_released(wrong)
        assert "\n" not in str(told.value)


def test_a_plain_file_reads_as_a_zipped_one(file: Path, tmp_path: Path, released: Released) -> None:
    plain = tmp_path / "checkpoint.pth"
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    again = read_released(plain)
    assert again.captioner.fingerprint == released.captioner.fingerprint
    assert again.prior is not None
    assert again.prior.fingerprint == released.prior.fingerprint
