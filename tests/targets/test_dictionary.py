"""Dictionaries of all formats: small files with arithmetic by hand, real ones of the libraries, and hostile ones."""

import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from milan import Dictionary, load_dictionary
from milan.errors import BadInput, MilanWarning
from milan.targets.dictionary import DictionaryConfig
from milan.targets.saelens_formats import write_saelens

X = torch.tensor([3.0, 1.0])
ENCODER = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
DECODER = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
# Pre-activations of X are [2, 1, 0.5] with the decoder bias subtracted, and [3, 0, -1.5] without.
BIAS, DECODER_BIAS = torch.tensor([0.0, -1.0, 0.5]), torch.tensor([1.0, -1.0])
W = {"W_enc": ENCODER, "b_enc": BIAS, "W_dec": DECODER, "b_dec": DECODER_BIAS}
LINEAR = {"encoder.weight": ENCODER.T, "encoder.bias": BIAS}
AE = LINEAR | {"decoder.weight": DECODER.T}
GATED = W | {"b_gate": torch.tensor([-3.0, 0, 0]), "r_mag": torch.tensor([0, math.log(2), 0]), "b_mag": torch.eye(3)[2]}
OVER = {
    "encoder.final_block.0.weight": ENCODER.T,
    "encoder.final_block.0.bias": BIAS,
    "dictionary._weights": DECODER,
    "dictionary.multiplier": torch.tensor(math.log(2)),
}
SIZES: dict[str, Any] = {"d_in": 2, "d_sae": 3}
PRISMA = SIZES | {"hook_point_layer": 9, "layer_subtype": "hook_mlp_out", "normalize_activations": "none"}
ReLU = {"activation_fn_str": "relu", "activation_fn_kwargs": {}}


def without(weights: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name not in names}


def write(folder: Path, weights: str, content: Any, **settings: Any) -> Path:
    """Write a file of weights and JSON files; ``saev`` is the header of a file of saev."""
    folder.mkdir(parents=True, exist_ok=True)
    header = settings.pop("saev", None)
    for name, values in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    if weights.endswith(".safetensors"):
        metadata = content.pop("metadata", None) if "metadata" in content else None
        save_file({name: value.contiguous() for name, value in content.items()}, folder / weights, metadata)
    else:
        with (folder / weights).open("wb") as file:
            if header is not None:
                file.write(json.dumps(header).encode() + b"\n")
            torch.save(content, file)
    return folder


def saelens(weights: dict[str, Tensor] = W, scaler: dict | None = None, **cfg: Any) -> Callable[[Path], Path]:
    beside = {} if scaler is None else {"activation_scaler": scaler}
    return lambda folder: write(folder, "sae_weights.safetensors", weights, cfg=SIZES | cfg, **beside)


def saev(weights: dict[str, Tensor] = W, **header: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder, "sae.pt", weights, saev=header)


def prisma(weights: dict[str, Tensor] = W, **config: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder, "weights.pt", weights, config=PRISMA | config)


def learned(name: str, weights: Any, **config: Any) -> Callable[[Path], Path]:
    trainer = {"dict_class": name, "activation_dim": 2, "dict_size": 3} | config
    return lambda folder: write(folder, "ae.pt", weights, config={"trainer": trainer})


def sparsify(weights: dict[str, Tensor] = LINEAR, **cfg: Any) -> Callable[[Path], Path]:
    weights = weights | without(W, "W_enc", "b_enc")
    return lambda folder: write(folder, "sae.safetensors", weights, cfg={"d_in": 2, "num_latents": 3, "k": 2} | cfg)


def directions(**tensors: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder, "directions.safetensors", tensors)


def saev_activation(name: str, **params: Any) -> dict[str, Any]:
    return {"d_model": 2, "d_sae": 3, "activation": {"cls": name, "params": params}}


SUBTRACTED, TOP_2, PLAIN = ([2, 1, 0.5], [5.5, 0.5]), ([2, 1, 0], [5, 0]), ([3, 0, 0], [7, -1])
THREE_NEGATIVE = ([3, 0, -1.5], [5.5, -2.5])
TRANSCODER = W | {"W_dec": torch.tensor([[1.0], [2.0], [3.0]]), "b_dec": torch.tensor([10.0])}
PURSUIT = {"W_dec": torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.5]]), "b_dec": DECODER_BIAS}
BACKUP = {"ae": AE | {"b_dec": DECODER_BIAS, "k": torch.tensor(2), "threshold": torch.tensor(9.0)}, "optimizer": {}}
BY_HAND: dict[str, tuple[Callable[[Path], Path], tuple[list[float], list[float]]]] = {
    "saelens": (saelens(architecture="standard"), SUBTRACTED),
    "saelens, bias not subtracted": (saelens(apply_b_dec_to_input=False), PLAIN),
    # Mean 2 and standard deviation 1.41421; codes 1 / 1.41422.
    "saelens, layer norm": (
        saelens(apply_b_dec_to_input=False, normalize_activations="layer_norm"),
        ([0.7071018, 0, 0], [5.4141994, 0.5857864]),
    ),
    # Factor sqrt(2 / 10).
    "saelens, constant norm": (
        saelens(apply_b_dec_to_input=False, normalize_activations="constant_norm_rescale"),
        ([1.3416408, 0, 0], [8.2360680, -2.2360680]),
    ),
    "saelens, activation scaler": (saelens(scaler={"scaling_factor": 0.5}), ([0.5, 0.5, 1.5], [7, 2])),
    "saelens, gated": (saelens(without(GATED, "b_enc"), architecture="gated"), ([0, 4, 0], [1, 3])),
    "saelens, jumprelu": (
        saelens(W | {"threshold": torch.tensor([1.5, 1, -1])}, architecture="jumprelu"),
        ([2, 0, 0.5], [5.5, -0.5]),
    ),
    # Norms 2, 1 and 1.41421: pre-activations 4, 1 and 0.7071.
    "saelens, rescaled": (saelens(architecture="topk", k=2.0, rescale_acts_by_decoder_norm=True), ([4, 1, 0], [5, 0])),
    "saelens, skip transcoder": (
        saelens(TRANSCODER | {"W_skip": torch.ones(1, 2)}, architecture="skip_transcoder", d_out=1),
        ([3, 0, 0], [17]),
    ),
    # Projections of [2, 2] are [4, 2, 3], so that latent 0 is first; those of the residual [-6, 2] are [-12, 2, -5].
    "saelens, matching pursuit": (
        saelens(PURSUIT, architecture="matching_pursuit", max_iterations=2),
        ([4, 2, 0], [9, 1]),
    ),
    "saelens, flat topk": (saelens(activation_fn_str="topk", activation_fn_kwargs={"k": 2}), TOP_2),
    "saelens, flat tanh": (
        saelens(activation_fn_str="tanh-relu", apply_b_dec_to_input=False),
        ([0.9950548, 0, 0], [2.9901095, -1]),
    ),
    "saelens, finetuned": (
        saelens(W | {"finetuning_scaling_factor": torch.tensor([2.0, 1, 1])}, finetuning_scaling_factor=True),
        ([2, 1, 0.5], [9.5, 0.5]),
    ),
    "saev, no schema": (saev(d_vit=2, d_sae=3), SUBTRACTED),
    "saev, relu": (saev(schema=5, cfg=saev_activation("Relu")), PLAIN),
    "saev, topk": (saev(schema=2, cfg=saev_activation("TopK", top_k=3)), THREE_NEGATIVE),
    "saev, batch topk": (
        saev(W | {"activation.threshold": torch.tensor(3.0)}, schema=5, cfg=saev_activation("BatchTopK", top_k=1)),
        ([0, 0, 0], [1, -1]),
    ),
    "vit_prisma": (prisma(**ReLU), SUBTRACTED),
    "vit_prisma, topk": (prisma(activation_fn_kwargs={"k": 2}), TOP_2),
    "vit_prisma, gated": (prisma(GATED, architecture="gated", **ReLU), ([0, 4, 0], [1, 3])),
    "vit_prisma, transcoder": (
        prisma(
            W | {"b_dec_out": torch.tensor([10.0, 0])},
            **ReLU,
            is_transcoder=True,
            transcoder_with_skip_connection=False,
        ),
        ([2, 1, 0.5], [14.5, 1.5]),
    ),
    "dictionary_learning": (learned("AutoEncoder", AE | {"bias": DECODER_BIAS}), ([4, 1, 0.7071068], [5.5, 0.5])),
    "dictionary_learning, new": (learned("AutoEncoderNew", AE | {"decoder.bias": DECODER_BIAS}), PLAIN),
    "dictionary_learning, topk": (learned("AutoEncoderTopK", BACKUP["ae"]), TOP_2),
    "dictionary_learning, matryoshka": (
        learned(
            "MatryoshkaBatchTopKSAE",
            W | {"k": torch.tensor(1), "threshold": torch.tensor(1.0), "group_sizes": torch.tensor([1, 2])},
        ),
        ([2, 0, 0], [5, -1]),
    ),
    # Of X / 2.
    "dictionary_learning, backup": (
        learned("AutoEncoderNew", {"ae": AE | {"decoder.bias": DECODER_BIAS}, "optimizer": {}, "norm_factor": 2.0}),
        ([1.5, 0, 0], [8, -2]),
    ),
    "sparsify": (sparsify(), TOP_2),
    "sparsify, groupmax": (sparsify(activation="groupmax", k=1), ([2, 0, 0], [5, -1])),
    "sparsify, signed": (sparsify(transcode=True, signed=True), THREE_NEGATIVE),
    "directions": (
        directions(directions=torch.tensor([[1.0, 0], [0, 2]]), bias=torch.tensor([0.0, 1])),
        ([3, 3], [3, 1]),
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_codes_and_outputs_are_those_by_hand(case: str, tmp_path: Path) -> None:
    write_files, (codes, outputs) = BY_HAND[case]
    dictionary = load_dictionary(write_files(tmp_path / "mine"))
    assert (dictionary.config.format, dictionary.name) == (case.partition(",")[0], "mine")
    assert_answers(dictionary, codes, outputs)


def assert_answers(dictionary: Dictionary, codes: list[float], outputs: list[float]) -> None:
    torch.testing.assert_close(dictionary.encode(X), torch.tensor(codes, dtype=torch.float32))
    expected = torch.tensor(outputs, dtype=torch.float32).expand(2, 1, -1)
    torch.testing.assert_close(dictionary(X.expand(2, 1, 2)), expected)


@pytest.mark.parametrize(
    ("options", "codes", "outputs"),
    [
        ({"activation": "relu", "normalization": "l2"}, [3, 0, 0], [6, 0]),
        ({"activation": "relu", "normalization": "identity"}, [3, 0, 0], [12, 0]),
        ({"k": 1, "normalization": "max_l2"}, [3, 0, 0], [6, 0]),
        ({"threshold": 3.0, "normalization": "max_l1"}, [3, 0, 0], [6, 0]),
        ({"threshold": 3.1, "normalization": "l1"}, [0, 0, 0], [0, 0]),
    ],
)
def test_state_dicts_of_overcomplete_take_options(options: dict, codes: list, outputs: list, tmp_path: Path) -> None:
    write(tmp_path, "state_dict.pt", OVER)
    dictionary = load_dictionary(tmp_path / "state_dict.pt", **options)
    assert_answers(dictionary, codes, outputs)


STATED = {
    "batchtopk_state_dict": {"threshold": 0.684440016746521, "normalization": "l2"},
    "jump_state_dict": {"normalization": "l2"},
    "standard_state_dict": {"activation": "relu", "normalization": "l2"},
    "standard_max_l2_state_dict": {"activation": "relu", "normalization": "max_l2"},
    "topk_state_dict": {"k": 12, "normalization": "l2"},
    "topk_batchnorm_state_dict": {"k": 12, "normalization": "l2"},
    "topk_identity_multiplier_state_dict": {"k": 12, "normalization": "identity"},
    "archetypal_topk_state_dict": {"k": 12, "delta": 1.0},
}
# Their codes depend on the batch.
REFUSED = {"saelens/batchtopk_training_checkpoint": "architecture", "saev/schema4_batchtopk_no_threshold": "threshold"}


@pytest.mark.parametrize(
    ("file_format", "count"),
    [
        ("saelens", 29),
        ("saelens_flat", 9),
        ("saev", 13),
        ("vit_prisma", 14),
        ("dictionary_learning", 8),
        ("sparsify", 4),
        ("overcomplete", 17),
    ],
)
def test_files_of_the_libraries_are_read_as_they_read_them(file_format: str, count: int, shared_data: Path) -> None:
    folder = shared_data / "dictionaries"
    inputs = load_file(folder / file_format / "inputs.safetensors")
    wrong, read = [], 0
    for case in json.loads((folder / "cases.json").read_text()):
        name = case["path"].partition("/")[2]
        if case["format"] != file_format:
            continue
        if case["path"] in REFUSED:
            assert REFUSED[case["path"]] in refusal(folder / case["path"])
            continue
        with warnings.catch_warnings(action="ignore", category=MilanWarning):
            dictionary = load_dictionary(folder / case["path"], **STATED.get(name, {}))
        read += 1
        expected = load_file(folder / case["path"] / "expected.safetensors")
        reading = "_scaled" if "activation_scaler.json" in case["files"] else ""
        tolerance = 0.15 if name == "standard_bfloat16" else 1e-4
        for places in ("", "_tokens"):
            x = inputs[f"x{places}"]
            answers = {"codes": dictionary.encode(x), "reconstruction": dictionary(x)}
            for kind, answer in answers.items():
                error = (answer - expected[f"{kind}{reading}{places}"].float()).abs().max()
                wrong += [(name, kind, float(error))] if not error <= tolerance else []
    assert (wrong, read) == ([], count)


def refusal(path: Path, **options: Any) -> str:
    """Return the error of loading a dictionary, after a check that it names the file or folder."""
    with pytest.raises(BadInput) as caught:
        load_dictionary(path, **options)
    text = str(caught.value)
    assert str(path.parent if path.is_file() else path) in text
    assert "\n" not in text
    return text


class Trap:
    """Runs code when it is unpickled."""

    sprung: list[str] = []  # noqa: RUF012  what the code would leave behind

    def __reduce__(self) -> tuple[Any, ...]:
        return Trap.sprung.append, ("run",)


def pickled(content: Any, name: str = "weights.pt") -> Callable[[Path], Path]:
    return lambda folder: write(folder, name, content)


NAN = W | {"W_enc": ENCODER / 0}
TRAPPED = {"cfg": Trap(), "state_dict": W}
HUGE = W | {"W_enc": torch.zeros(1, 1).expand(2**20, 2**20)}


@pytest.mark.parametrize(
    ("write_files", "values"),
    [
        (saelens(NAN), ["W_enc", "6", "NaN"]),
        (saelens(without(W, "b_dec")), ["'b_dec'"]),
        (saelens(W | {"b_enc": torch.zeros(4)}), ["encoder_bias", "(4,)", "(3,)"]),
        (saelens(W | {"W_enc": ENCODER.T}), ["d_in is 2", "3"]),
        (saelens(W | {"W_dec": torch.zeros(3)}), ["W_dec", "(3,)"]),
        (saelens(W | {"W_skip": torch.zeros(2, 2)}), ["'W_skip'"]),
        (saelens(d_sae=4), ["d_sae", "4", "3"]),
        (saelens(architecture="topk", k=4), ["k is 4", "3"]),
        (saelens(architecture="topk", k=2.5), ["k is 2.5"]),
        (saelens(architecture="topk", k=True), ["k is True"]),
        (saelens(architecture="topk"), ["'k'"]),
        (saelens(architecture="temporal"), ["'temporal'"]),
        (saelens(architecture="batchtopk"), ["'batchtopk'", "save_inference_model"]),
        (saelens(architecture="jumprelu"), ["'threshold'"]),
        (saelens(normalize_activations="batch_norm"), ["'batch_norm'"]),
        (saelens(activation_fn_str="gelu"), ["'gelu'"]),
        (saelens(reshape_activations="hook_z"), ["'hook_z'"]),
        (saelens(apply_b_dec_to_input="yes"), ["apply_b_dec_to_input", "'yes'", "bool"]),
        (saelens(scaler={"has_whitening": True}), ["whitened"]),
        (saelens(scaler={"scaling_factor": 0}), ["scale is 0"]),
        (saelens(W | {"b_enc": torch.zeros(3, dtype=torch.bool)}), ["b_enc", "torch.bool"]),
        (lambda folder: write(folder, "sae_weights.safetensors", W), ["'d_in'", "cfg.json"]),
        (saev(schema=6, cfg={}), ["schema 6"]),
        (saev(schema=5, cfg=saev_activation("Gelu")), ["'Gelu'"]),
        (saev(schema=5, cfg=saev_activation("TopK")), ["'top_k'"]),
        (saev(schema=5, cfg=saev_activation("BatchTopK", top_k=1)), ["threshold"]),
        (prisma(cls_token_only=True, use_patches_only=True, **ReLU), ["cls_token_only", "use_patches_only"]),
        (prisma(activation_fn_kwargs={"k": 2, "postact_fn": "relu6"}), ["'postact_fn'"]),
        (prisma(is_transcoder=True, **ReLU), ["'b_dec_out'"]),
        (prisma(d_sae=None, expansion_factor=2, **ReLU), ["is 4", "3"]),
        (pickled(W), ["config.json", "W_enc"]),
        (pickled(TRAPPED), ["could run code"]),
        (pickled(OVER | {"fitted": Trap()}, "model.pt"), ["could run code"]),
        (saev(W | {"extra": Trap()}, schema=5, cfg=saev_activation("Relu")), ["could run code"]),
        (pickled(W | {"W_enc": ENCODER.to_sparse()}), ["W_enc", "sparse"]),
        (pickled(W | {"W_enc": ENCODER.to("meta")}), ["W_enc", "meta"]),
        (pickled(HUGE), ["W_enc", "4096.0 GiB"]),
        (pickled([1, 2]), ["list"]),
        (pickled({"cfg": {}, "state_dict": [1]}), ["no state dict"]),
        (learned("CrossCoder", W), ["'CrossCoder'"]),
        (learned("AutoEncoderTopK", BACKUP["ae"] | {"k": torch.tensor(7)}), ["k is 7", "3"]),
        (learned("AutoEncoder", AE | {"bias": DECODER_BIAS, "decoder.weight": DECODER.T * 0}), ["latent 0"]),
        (learned("AutoEncoderTopK", BACKUP), ["'norm_factor'"]),
        (sparsify(activation="relu"), ["'relu'"]),
        (sparsify(num_latents=0, expansion_factor=32), ["64", "3"]),
        (directions(directions=torch.tensor([[1.0, 0], [0, 0]])), ["direction 1"]),
        (directions(directions=torch.eye(2), metadata={"names": '["one"]'}), ["1 names", "2 latents"]),
        (directions(directions=torch.eye(2), metadata={"names": "one"}), ["'one'", "JSON"]),
        (lambda folder: folder, ["sae_weights.safetensors"]),
    ],
)
def test_what_cannot_be_read_is_refused(write_files: Callable[[Path], Path], values: list[str], tmp_path: Path) -> None:
    Trap.sprung.clear()
    text = refusal(write_files(tmp_path))
    assert [value for value in values if value not in text] == []
    assert Trap.sprung == []


@pytest.mark.parametrize(
    ("weights", "options", "value"),
    [
        (OVER, {}, "normalization"),
        (OVER, {"normalization": "l3"}, "'l3'"),
        (OVER, {"normalization": "l2"}, "activation='relu'"),
        (OVER, {"normalization": "l2", "k": 1, "threshold": 0.5}, "k=1"),
        (OVER, {"normalization": "l2", "activation": "relu", "k": 1}, "activation='relu'"),
        (OVER, {"normalization": "l2", "k": 4}, "k is 4"),
        (OVER | {"thresholds": torch.zeros(3)}, {"normalization": "l2", "k": 2}, "JumpSAE"),
        (OVER | {"encoder.final_block.1.weight": torch.ones(3)}, {"normalization": "l2", "k": 2}, "LayerNorm"),
        (OVER | {"encoder.mlp_blocks.0.weight": torch.ones(3)}, {"normalization": "l2", "k": 2}, "mlp_blocks"),
    ],
)
def test_options_that_lack_or_contradict_are_named(weights: dict, options: dict, value: str, tmp_path: Path) -> None:
    assert value in refusal(write(tmp_path, "state_dict.pt", weights) / "state_dict.pt", **options)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "weights.pt", W) / "weights.pt"
    content = bytearray(file.read_bytes())
    # The version needed to extract, in the first entry of the archive's directory.
    content[content.index(b"PK\x01\x02") + 6] = 204
    file.write_bytes(content)
    assert "20.4" in refusal(file)


def test_options_are_for_formats_that_do_not_state_them(tmp_path: Path) -> None:
    assert "omit" in refusal(saelens()(tmp_path), k=2)


def pickled_class(monkeypatch: pytest.MonkeyPatch, name: str) -> type:
    """Return a class that is pickled under a name which cannot be imported when it is read."""
    module, _, attribute = name.rpartition(".")
    written = type(attribute, (), {"__module__": module})
    stand_in = ModuleType(module)
    setattr(stand_in, attribute, written)
    monkeypatch.setitem(sys.modules, module, stand_in)
    for parent in module.split(".")[:-1]:
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    return written


def test_a_pickled_config_is_read_without_its_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = pickled_class(monkeypatch, "vit_prisma.sae.config.VisionModelSAERunnerConfig")()
    vars(config).update(PRISMA | ReLU, cls_token_only=True, model_name="a-vit", dtype=torch.float32)
    write(tmp_path, "weights.pt", {"cfg": config, "state_dict": W})
    monkeypatch.undo()
    dictionary = load_dictionary(tmp_path)
    stated = dictionary.config
    assert (stated.hook_point, stated.layer_index, stated.tokens) == ("blocks.9.hook_mlp_out", 9, "cls")
    assert dictionary.encode(X).tolist() == [2, 1, 0.5]
    assert "a-vit" in repr(dictionary)
    assert "\n" not in repr(dictionary)


def test_a_pickled_module_of_another_class_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = pickled_class(monkeypatch, "overcomplete.sae.optimization.ConvexNMF")()
    write(tmp_path, "model.pt", module)
    monkeypatch.undo()
    assert "optimization.ConvexNMF" in refusal(tmp_path)


def test_names_of_directions_are_kept(tmp_path: Path) -> None:
    names = {"names": json.dumps(["stripes", "dots"])}
    assert load_dictionary(directions(directions=torch.eye(2), metadata=names)(tmp_path)).config.latent_names == (
        "stripes",
        "dots",
    )


def test_one_of_several_files_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a", "sae.pt", W, saev={})
    write(tmp_path / "b", "weights.pt", W)
    assert "a, b" in refusal(tmp_path)
    write(tmp_path / "a", "ae.pt", W)
    assert "ae.pt, sae.pt" in refusal(tmp_path / "a")
    assert load_dictionary(tmp_path / "a" / "sae.pt").encode(X).tolist() == [2, 1, 0.5]
    with pytest.raises(BadInput, match="'nowhere'"):
        load_dictionary("nowhere")


@pytest.mark.parametrize(
    ("write_files", "value"),
    [
        (saelens(normalize_activations="expected_average_only_in"), "expected_average_only_in"),
        (saelens(normalize_activations=True), "expected_average_only_in"),
        (saev(schema=1, cfg={"d_vit": 2}, cls="Relu"), "schema 1"),
    ],
)
def test_what_a_file_leaves_open_is_a_warning(write_files: Callable[[Path], Path], value: str, tmp_path: Path) -> None:
    with pytest.warns(MilanWarning, match=value):
        assert load_dictionary(write_files(tmp_path)).encode(X).tolist() == [2, 1, 0.5]


def test_a_written_top_k_autoencoder_is_read_back(tmp_path: Path) -> None:
    read = load_dictionary(saelens(architecture="topk", k=2, metadata={"hook_name": "blocks.3"})(tmp_path / "one"))
    write_saelens(read, tmp_path / "other" / "one")
    settings = json.loads((tmp_path / "other" / "one" / "cfg.json").read_text())
    # Without its version, SAELens takes the file for an older one and drops the layer's name.
    assert settings["metadata"]["sae_lens_version"].startswith("6.")
    assert set(settings) == {
        "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations", "reshape_activations",
        "metadata", "k", "rescale_acts_by_decoder_norm", "architecture",
    }  # fmt: skip
    again = load_dictionary(tmp_path / "other" / "one")
    assert again.config == read.config
    assert torch.equal(again.encode(X), torch.tensor([2.0, 1.0, 0.0]))
    assert torch.equal(again(X), read(X))
    with pytest.raises(BadInput, match="'one'"):
        write_saelens(load_dictionary(saelens()(tmp_path / "two" / "one")), tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_quality_by_hand() -> None:
    dictionary = Dictionary(torch.eye(2), torch.eye(2), config=DictionaryConfig(name="mine", hook_point="blocks.1"))
    quality = dictionary.quality(torch.tensor([[1.0, 0], [3, 0], [2, 3]]))
    assert (quality.explained_variance, quality.mean_l0, quality.dead_share) == (1, pytest.approx(4 / 3), 0)
    # Squared error 2, variance 2.
    with pytest.warns(MilanWarning, match=r"'mine' explains 0\.00 .* 2 activations.*'blocks\.1'"):
        quality = dictionary.quality(torch.tensor([[1.0, -1], [3, -1]]))
    assert (quality.explained_variance, quality.mean_l0, quality.dead_share) == (0, 1, 0.5)
    transcoder = Dictionary(torch.eye(2), torch.ones(2, 1), config=DictionaryConfig(transcoder=True))
    assert transcoder.quality(torch.ones(2, 2)).explained_variance is None


def test_quality_does_not_depend_on_how_rows_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = Dictionary(ENCODER, DECODER, config=DictionaryConfig(activation="topk", k=1))
    rows = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(action="ignore", category=MilanWarning):
        whole = dictionary.quality(rows)
        monkeypatch.setattr("milan.targets.dictionary._MAX_CODES", 21)
        split = dictionary.quality(rows)
    assert (split.mean_l0, split.dead_share) == (whole.mean_l0, whole.dead_share)
    assert split.explained_variance == pytest.approx(whole.explained_variance)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda dictionary: dictionary.encode(torch.zeros(4, 3)), "width 3"),
        (lambda dictionary: dictionary.decode(torch.zeros(4, 2)), "2 codes"),
        (lambda dictionary: dictionary.decode(torch.zeros(4, 3)), "'layer_norm'"),
        (lambda dictionary: dictionary.quality(torch.zeros(0, 2)), "no activations"),
        (lambda dictionary: dictionary.quality(torch.full((2, 2), torch.nan)), "4 activations"),
    ],
)
def test_activations_that_do_not_fit_are_named(call: Callable[[Dictionary], Any], value: str) -> None:
    dictionary = Dictionary(ENCODER, DECODER, config=DictionaryConfig(normalization="layer_norm"))
    with pytest.raises(BadInput, match=value):
        call(dictionary)


@pytest.mark.parametrize(
    ("weights", "config", "value"),
    [
        ({}, {"activation": "gelu"}, "'gelu'"),
        ({}, {"normalization": "batch"}, "'batch'"),
        ({}, {"tokens": "register"}, "'register'"),
        ({}, {"k": 2}, "k is 2"),
        ({}, {"activation": "groupmax", "k": 2}, "k is 2"),
        ({}, {"activation": "gated"}, "'log_gain'"),
        ({"threshold": BIAS}, {}, "'threshold'"),
        ({"skip": torch.eye(3)}, {}, "skip"),
        ({"encoder_bias": BIAS / 0}, {}, "encoder_bias has 3"),
        ({}, {"scale": math.inf}, "scale is inf"),
    ],
)
def test_weights_and_settings_that_contradict_are_named(weights: dict, config: dict, value: str) -> None:
    with pytest.raises(BadInput, match=value):
        Dictionary(ENCODER, DECODER, **weights, config=DictionaryConfig(**config))
