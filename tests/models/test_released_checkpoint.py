"""The 2022 checkpoint: the same results as the 2022 code, and no code in a file is run."""

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
import torchvision
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import resnet18

from milan.describers.milan import Milan
from milan.errors import BadInput, UnknownName
from milan.models import Captioner, Encoder, Prior, build_encoder
from milan.models.decoding import TokenConstraints, beam_search, greedy_search
from milan.models.released_checkpoint import (
    CAPTIONER_NAMES,
    ENCODER_PREFIX,
    PRIOR_NAMES,
    ReleasedModels,
    load_released_checkpoint,
)
from milan.targets.target import Target
from tests.file_server import serve


@pytest.fixture(scope="module")
def file(shared_data: Path) -> Path:
    return shared_data / "milan_checkpoint" / "checkpoint.pth.gz"


@pytest.fixture(scope="module")
def released(file: Path) -> ReleasedModels:
    return load_released_checkpoint(file)


@pytest.fixture(scope="module")
def expected(shared_data: Path) -> dict[str, Tensor]:
    return load_file(shared_data / "milan_checkpoint" / "expected.safetensors")


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> dict:
    return json.loads((shared_data / "milan_checkpoint" / "expected.json").read_text())


def test_the_vocabulary_and_special_ids_are_the_checkpoints(released: ReleasedModels, texts: dict) -> None:
    vocabulary = released.captioner.vocabulary
    assert vocabulary.words == texts["vocabulary"]
    assert [vocabulary.start, vocabulary.stop, vocabulary.pad, vocabulary.unk] == [
        texts[name] for name in ("start", "stop", "pad", "unk")
    ]
    assert (released.beam, released.prior_weight, released.steps, released.strategy) == (50, 0.2, 15, "rerank")


def test_beam_search_finds_the_same_tokens_and_scores(released: ReleasedModels, expected: dict[str, Tensor]) -> None:
    captioner = released.captioner
    found = beam_search(
        captioner.start_decoding(expected["features"]), 8, TokenConstraints(captioner.vocabulary, allow_specials=True)
    )
    assert torch.equal(found.tokens, expected["beam_tokens"])
    torch.testing.assert_close(found.scores, expected["beam_scores"], atol=1e-4, rtol=0)


def test_milan_reranks_to_the_same_tokens_and_scores(
    file: Path, released: ReleasedModels, expected: dict[str, Tensor], texts: dict
) -> None:
    milan = Milan.from_released(file)
    ranked = milan.search(expected["features"])
    assert torch.equal(ranked.tokens[:, 0], expected["rerank_tokens"])
    torch.testing.assert_close(ranked.scores[:, 0], expected["rerank_scores"], atol=1e-4, rtol=0)
    vocabulary = released.captioner.vocabulary
    assert [vocabulary.decode(tokens[0].tolist()) for tokens in ranked.tokens] == [
        text.lower() for text in texts["rerank"]
    ]
    likeliest = Milan.from_released(file, strategy="beam").search(expected["features"])
    assert [vocabulary.decode(tokens[0].tolist()) for tokens in likeliest.tokens] == [
        text.lower() for text in texts["beam"]
    ]


def test_greedy_takes_the_same_words(released: ReleasedModels, expected: dict[str, Tensor]) -> None:
    captioner = released.captioner
    found = greedy_search(
        captioner.start_decoding(expected["features"]), 8, TokenConstraints(captioner.vocabulary, allow_specials=True)
    )
    assert torch.equal(found.tokens[:, 0], expected["greedy_tokens"])


def test_scores_of_given_captions_are_the_same(
    released: ReleasedModels, expected: dict[str, Tensor], texts: dict
) -> None:
    captioner, prior = released.captioner, released.prior
    ids = [captioner.vocabulary.encode(text) for text in texts["forced_captions"]]
    tokens = torch.tensor([one + [captioner.vocabulary.pad] * (max(map(len, ids)) - len(one)) for one in ids])
    likelihood = captioner.score(expected["features"], tokens.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(likelihood, expected["forced_scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(prior.score(tokens, trailing=True), expected["prior_scores"], atol=1e-4, rtol=0)
    beyond = (
        prior.score(tokens) - expected["prior_scores"]
    )  # the 2022 code counts a token after <stop> where there is one
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
    masked = zip(expected["encoder_images"], expected["encoder_masks"].split(1), strict=True)
    features = torch.cat(list(encoder.encode_regions(masked)))
    torch.testing.assert_close(features, expected["encoder_features"], atol=1e-4, rtol=0)
    assert not features[3].any(), "the last mask is empty"


def test_the_checkpoint_brings_its_encoders_weights(file: Path) -> None:
    encoder = Milan.from_released(file).models.encoder
    assert encoder.feature_length == 1024
    assert not encoder.target.core.fc.weight.any(), "this checkpoint's encoder weights are zeros"


def saved(content: object, file: Path) -> Path:
    torch.save(content, file)
    return file


WORDS = ["red", "dots", "cars", "on", "a", "field"]
FEATURES = {"resnet18": 1024, "alexnet": 1152}


def as_of_2022(part: torch.nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """A module's weights under the names that the 2022 code gave them."""
    state = part.state_dict()
    pairs = [(name, old, new) for name in state for old, new in names.items() if name.startswith(new)]
    return {old + name.removeprefix(new): state[name] for name, old, new in pairs}


def trained_2022(file: Path, encoder: str = "resnet18", prior: bool = True, **changed: object) -> Path:
    """What the training script of 2022 writes, with random weights; the encoder's are all equal, to be small."""
    torch.manual_seed(0)
    indexer = {"properties": {"vocab": {"properties": {"tokens": tuple(WORDS)}, "children": {}}}, "children": {}}
    captioner = Captioner(WORDS, features=FEATURES[encoder], embedding=8, hidden=16, attention=16)
    sizes = {"embedding_size": 8, "hidden_size": 16, "dropout": 0.5}
    lm = {"properties": {"indexer": indexer, "layers": 2, **sizes}, "children": {}}
    lm_state = as_of_2022(Prior(WORDS, embedding=8, hidden=16), PRIOR_NAMES)
    with torch.device("meta"):
        network = torchvision.models.get_model(encoder)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    constant = {f"{ENCODER_PREFIX}{name}": torch.full((), 0.01).expand(shape) for name, shape in shapes.items()}
    own = {
        "indexer": indexer,
        "encoder": {"properties": {"config": encoder, "pretrained": True}, "children": {}},
        "lm": lm if prior else None,
    }
    own |= {"attention_hidden_size": None, "length": 15, "temperature": 0.2, **sizes}
    own |= {"strategy": "rerank" if prior else "beam", "beam_size": 5} | changed
    state = as_of_2022(captioner, CAPTIONER_NAMES) | constant
    state |= {f"lm.{name}": value for name, value in lm_state.items()} if prior else {}
    saved({**lm, "state_dict": lm_state}, file.with_name("lm.pth"))
    return saved({"properties": own, "children": {"encoder": "PyramidConvEncoder"}, "state_dict": state}, file)


@pytest.mark.parametrize(
    ("encoder", "strategy", "prior", "found"),
    [
        ("resnet18", "rerank", True, ("rerank", 5)),
        ("resnet18", "beam", True, ("pmi", 5)),
        ("resnet18", "greedy", True, ("pmi", 1)),
        ("resnet18", "beam", False, ("beam", 5)),
        ("alexnet", "rerank", True, ("rerank", 5)),
    ],
)
def test_what_the_training_script_wrote_is_read(
    tmp_path: Path,
    encoder: str,
    strategy: str,
    prior: bool,
    found: tuple[str, int],
) -> None:
    milan = Milan.from_released(trained_2022(tmp_path / "decoder", encoder, prior, strategy=strategy))
    assert (milan.strategy, milan.beam) == found
    assert milan.models.encoder.feature_length == milan.models.captioner.key.in_features == FEATURES[encoder]
    ranked = milan.search(torch.randn(1, 3, FEATURES[encoder]))
    (candidate, *_) = ranked.make_candidates(0, milan.models.captioner.vocabulary)
    assert [name for name, _ in candidate.parts] == (["likelihood", "prior", "pmi"] if prior else ["likelihood"])
    assert milan.key != Milan.from_released(tmp_path / "decoder", beam=7).key


def test_the_prior_is_the_checkpoints_own_or_a_given_one(tmp_path: Path) -> None:
    without = trained_2022(tmp_path / "decoder", prior=False)
    with pytest.raises(BadInput, match="strategy rerank needs a prior"):
        _ = Milan.from_released(without, strategy="rerank").models
    alone = Milan.from_released(without, strategy="rerank", prior=str(tmp_path / "lm.pth")).models.prior
    both = Milan(captioner=str(trained_2022(tmp_path / "both"))).models.prior
    assert alone is not None
    assert both is not None
    assert alone.fingerprint == both.fingerprint


@pytest.mark.filterwarnings("ignore::milan.errors.MilanNotice")
def test_a_released_model_is_loaded_by_name_once_and_only_if_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = trained_2022(tmp_path / "decoder").read_bytes()
    monkeypatch.setenv("MILAN_CACHE", str(tmp_path / "cache"))
    with serve({"/models/milan-base.pth": body, "/models/milan-cls.pth": b"<html>"}) as server:
        monkeypatch.setenv("MILAN_RELEASE_URL", server.url)
        server.faults.append("cut:5000")
        named = Milan(captioner="released:base")
        assert named.models.prior is not None
        assert named.key == Milan(captioner=str(tmp_path / "decoder")).key
        assert Milan.from_released("released:base").as_released
        assert [wanted for _, wanted in server.asked] == ["", "bytes=5000-"]
        server.files["/models/milan-gen.pth"] = body[:-2000]
        for name, fault in (("cls", "web page"), ("gen", "refused|cannot read")):
            with pytest.raises(BadInput, match=fault):
                _ = Milan(captioner=f"released:{name}").models
        with pytest.raises(UnknownName, match="released:base"):
            _ = Milan(captioner="released:bse").models
    monkeypatch.setenv("MILAN_OFFLINE", "1")
    assert Milan(captioner="released:base").key == named.key
    with pytest.raises(BadInput, match="offline"):
        _ = Milan(captioner="released:imagenet").models
    kept = {file.name for file in (tmp_path / "cache" / "downloads" / "milan-2022").iterdir()}
    assert kept >= {"milan-base.pth", "milan-base.pth.json"}
    assert not any(name.startswith(("milan-cls", "milan-gen")) for name in kept)


def test_features_of_another_kind_are_refused(tmp_path: Path) -> None:
    payload = torch.load(trained_2022(tmp_path / "decoder"))
    payload["children"]["encoder"] = "SpatialConvEncoder"
    with pytest.raises(BadInput, match="features of a SpatialConvEncoder"):
        load_released_checkpoint(saved(payload, tmp_path / "decoder"))


def test_alexnets_features_are_what_its_in_place_relus_left() -> None:
    model = torchvision.models.alexnet(weights=None).eval()
    encoder = build_encoder(Target(model, name="torchvision:alexnet"))
    recorded: list[Tensor] = []
    convolutions = [model.features[at] for at in (0, 3, 6, 8, 10)]
    hooks = [each.register_forward_hook(lambda *given: recorded.append(given[2])) for each in convolutions]
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        model(encoder.target.prepare(images))
    for hook in hooks:
        hook.remove()
    expected = torch.cat([maps.mean((2, 3)) for maps in recorded], 1)
    found = encoder.encode(images, torch.ones(2, 1, 224, 224, dtype=torch.bool))
    torch.testing.assert_close(found, expected)


class Runs:
    """Asks to have a function called when it is unpickled."""

    def __init__(self, function: object, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def write(path: str) -> None:
    Path(path).write_text("ran")


@pytest.mark.parametrize(
    "function", [os.system, os.mkdir, exec, eval, write, io.open, print, pickle.loads, Path.touch, getattr]
)
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
    file = saved(
        {"properties": {"indexer": Runs(function, *arguments)}, "children": {}, "state_dict": {}}, tmp_path / "evil.pth"
    )
    with pytest.raises(BadInput, match="evil"):
        load_released_checkpoint(file)
    assert not mark.exists()
    assert not capsys.readouterr().out


def test_the_malicious_pickle_runs_code_without_protection(tmp_path: Path) -> None:
    file = saved(Runs(os.system, f"touch {tmp_path / 'mark'}"), tmp_path / "evil.pth")
    torch.load(file, weights_only=False)
    assert (tmp_path / "mark").exists()


def test_other_files_are_refused_with_one_line(tmp_path: Path, file: Path) -> None:
    text, zipped, cut, odd = (tmp_path / name for name in ("text.pth", "zip.pth", "cut.pth.gz", "odd.pth"))
    text.write_text("hello")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "hello")
    cut.write_bytes(file.read_bytes()[:100_000])
    saved({"state_dict": {}, "properties": {"indexer": 3}}, odd)
    for wrong in (text, zipped, cut, odd, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(BadInput, match=wrong.name) as error:
            load_released_checkpoint(wrong)
        assert "\n" not in str(error.value)


def test_a_plain_file_reads_as_a_zipped_one(file: Path, tmp_path: Path, released: ReleasedModels) -> None:
    plain = tmp_path / "checkpoint.pth"
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    again = load_released_checkpoint(plain)
    assert again.captioner.fingerprint == released.captioner.fingerprint
    assert again.prior is not None
    assert again.prior.fingerprint == released.prior.fingerprint
