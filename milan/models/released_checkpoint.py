"""Readers of MILAN's 2022 checkpoints, which execute nothing of their content."""

import gzip
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from milan.errors import BadInput
from milan.models.captioner import Captioner
from milan.models.model_files import load_weights
from milan.models.prior import Prior
from milan.pretrained.milan_release import is_released, locate_released_model
from milan.storage.archives import free_bytes
from milan.storage.downloads import fetch
from milan.targets.checkpoints import load_inert

MAX_UNPACKED_BYTES = 8 * 2**30  # larger files are no checkpoints of MILAN
CAPTIONER_NAMES = {
    "init_h.0.": "initial_hidden.",
    "init_c.0.": "initial_cell.",
    "embedding.": "embedding.",
    "attend.query_to_hidden.": "query.",
    "attend.key_to_hidden.": "key.",
    "attend.output.0.": "energy.",
    "feature_gate.0.": "gate.",
    "lstm.": "cell.",
    "output.1.": "readout.",
}
PRIOR_NAMES = {"embedding.": "embedding.", "lstm.": "lstm.", "output.0.": "readout."}
PRIOR, ENCODER_PREFIX = "lm.", "encoder.encoder.model."
PYRAMID = "PyramidConvEncoder"
T = TypeVar("T")


class ReleasedModels(NamedTuple):
    """The content of a released checkpoint.

    Attributes:
        captioner: the captioner.
        prior: the prior, if the checkpoint has one.
        encoder: the name of the encoder in torchvision.
        encoder_weights: the weights of the encoder.
        strategy: the decoding strategy, as the describer ``milan`` takes it.
        beam: the beam size.
        prior_weight: λ.
        steps: the largest number of tokens per description.
    """

    captioner: Captioner
    prior: Prior | None
    encoder: str
    encoder_weights: dict[str, Tensor]
    strategy: str
    beam: int
    prior_weight: float
    steps: int


def load_released_checkpoint(file: str | Path) -> ReleasedModels:
    """Read a ``.pth`` or ``.pth.gz`` of the 2022 release, or of its training script (``decoder.pth``).

    ``released:NAME`` stands for a model of the release, which is downloaded into the cache the first time.

    These files hold pickled objects of spaCy's configuration, and a pickle can name any function to call. Only tensors
    and plain values are rebuilt (``torch.load(weights_only=True)``); every other name in the file becomes an empty
    mapping.

    Raises:
        BadInput: the file cannot be read so, is no checkpoint of MILAN's captioner, or cannot be downloaded.
        UnknownName: the release has no model of that name.
    """
    return _interpret(resolve_checkpoint(file), "captioner", _build_models)


def resolve_checkpoint(file: str | Path) -> Path:
    """Return the path of a checkpoint; ``released:NAME`` is downloaded if it is not in the cache."""
    if not is_released(str(file)):
        return Path(file)
    return fetch(locate_released_model(str(file)), check=lambda path: _interpret(path, "captioner", _build_models))


def read_released_prior(file: str | Path) -> Prior | None:
    """Read the prior of a 2022 checkpoint, or the ``lm.pth`` of the 2022 training script.

    Returns:
        The prior, or None if the checkpoint has none.

    Raises:
        BadInput: as for ``load_released_checkpoint``.
    """

    def read(payload: Mapping[str, Any], path: Path) -> Prior | None:
        alone = "indexer" in payload["properties"] and "encoder" not in payload["properties"]
        return _build_prior(payload, payload["state_dict"], path) if alone else _build_models(payload, path).prior

    return _interpret(resolve_checkpoint(file), "language model", read)


def _interpret(file: Path, kind: str, build: Callable[[Mapping[str, Any], Path], T]) -> T:
    payload = _read_payload(file)
    if not isinstance(payload, dict) or not {"properties", "state_dict"} <= payload.keys():
        raise BadInput(f"{file} is no checkpoint of the 2022 release: it has no properties or no state_dict")
    try:
        return build(payload, file)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise BadInput(f"{file} does not have the layout of a {kind} of the 2022 release: {reason}") from None


def _read_payload(file: Path) -> Any:
    try:
        with file.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        if not zipped:
            with file.open("rb") as stream:
                return load_inert(stream)
        with gzip.open(file) as stream, tempfile.TemporaryFile() as plain:
            _copy(stream, plain, file)
            return load_inert(plain)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {file}: {error}") from None
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        TypeError,
        zipfile.BadZipFile,
        AttributeError,
        IndexError,
        KeyError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"{file} is refused: {reason[:200]}; only tensors and plain values are read, and no code is run"
        ) from None


def _copy(stream: BufferedIOBase, into: BufferedIOBase, file: Path) -> None:
    limit = min(MAX_UNPACKED_BYTES, free_bytes(Path(tempfile.gettempdir())) // 2)
    while chunk := stream.read(1 << 24):
        if into.tell() + len(chunk) > limit:
            raise BadInput(
                f"{file} unpacks to more than {limit:,} bytes, too many for a checkpoint or for the disk; free"
                " disk space"
            )
        into.write(chunk)
    into.seek(0)


def _build_models(payload: Mapping[str, Any], file: Path) -> ReleasedModels:
    """Return the models of a captioner's checkpoint; sizes are read from the weights, since settings may be None."""
    properties, state = payload["properties"], payload["state_dict"]
    words, encoder = _read_words(properties), _read_encoder(payload, file)
    captioner = Captioner(
        words,
        features=state["attend.key_to_hidden.weight"].shape[1],
        embedding=state["embedding.weight"].shape[1],
        hidden=state["lstm.weight_hh"].shape[1],
        attention=state["attend.key_to_hidden.weight"].shape[0],
        dropout=properties["dropout"],
        encoder={"spec": f"torchvision:{encoder}"},
    )
    load_weights(captioner, _rename_keys(state, CAPTIONER_NAMES), file)
    prior = _build_prior(properties["lm"], _within(state, PRIOR), file) if properties.get("lm") else None
    if prior and prior.vocabulary.words != words:
        raise BadInput(f"{file}: prior and captioner have different vocabularies, so that they cannot score one text")
    strategy, beam = str(properties.get("strategy") or "rerank"), int(properties.get("beam_size") or 50)
    if prior and strategy in ("beam", "greedy"):
        # With a prior, the 2022 code searches by PMI by default.
        strategy, beam = "pmi", beam if strategy == "beam" else 1
    return ReleasedModels(
        captioner=captioner.eval(),
        prior=prior,
        encoder=encoder,
        encoder_weights=_within(state, ENCODER_PREFIX),
        strategy=strategy if prior or strategy != "rerank" else "beam",
        beam=beam,
        prior_weight=float(properties.get("temperature", 0.2)),
        steps=int(properties.get("length") or 15),
    )


def _build_prior(payload: Mapping[str, Any], state: Mapping[str, Tensor], file: Path) -> Prior:
    sizes = {
        "embedding": state["embedding.weight"].shape[1],
        "hidden": state["lstm.weight_hh_l0"].shape[1],
        "layers": sum(name.startswith("lstm.weight_hh_l") for name in state),
    }
    prior = Prior(_read_words(payload["properties"]), **sizes, dropout=payload["properties"]["dropout"])
    load_weights(prior, _rename_keys(state, PRIOR_NAMES), file)
    return prior.eval()


def _read_words(properties: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in properties["indexer"]["properties"]["vocab"]["properties"]["tokens"]]


def _read_encoder(payload: Mapping[str, Any], file: Path) -> str:
    """Return the name of the encoder in torchvision."""
    kind = payload.get("children", {}).get("encoder", PYRAMID)
    if kind != PYRAMID:
        raise BadInput(f"{file} was trained on features of a {kind}; only those of a {PYRAMID} can be computed")
    return str(payload["properties"]["encoder"]["properties"]["config"])


def _within(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}


def _rename_keys(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {
        new + name.removeprefix(old): value
        for name, value in state.items()
        for old, new in names.items()
        if name.startswith(old)
    }
