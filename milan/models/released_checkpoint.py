"""Read checkpoints of MILAN's 2022 release without executing anything in them."""

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

MAX_UNPACKED_BYTES = 8 * 2**30  # bytes; no checkpoint of MILAN is larger
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
    """The models of a released checkpoint and the search settings it was saved with."""

    captioner: Captioner
    prior: Prior | None
    encoder: str  # name of the torchvision network
    encoder_weights: dict[str, Tensor]
    strategy: str
    beam: int
    prior_weight: float
    steps: int


def load_released_checkpoint(file: str | Path) -> ReleasedModels:
    """Read a ``.pth`` or ``.pth.gz`` of the 2022 release, or what its training script wrote (``decoder.pth``).

    ``released:NAME`` stands for a model of the release, which is downloaded into the cache the first time.

    These files hold pickled objects of spaCy's configuration, and a pickle can name any function to be called. Here
    only tensors and plain values are rebuilt (``torch.load(weights_only=True)``); every other name in the file stands
    for a class that makes empty mappings.

    Raises:
        BadInput: the file cannot be read so, is no checkpoint of MILAN's captioner, or cannot be downloaded.
        UnknownName: the release has no model of that name.
    """
    return _interpreted(resolve_checkpoint(file), "captioner", _released)


def resolve_checkpoint(file: str | Path) -> Path:
    """Return the path of a checkpoint; ``released:NAME`` is downloaded if it is not in the cache."""
    if not is_released(str(file)):
        return Path(file)
    return fetch(locate_released_model(str(file)), check=lambda path: _interpreted(path, "captioner", _released))


def read_released_prior(file: str | Path) -> Prior | None:
    """Read the prior of a 2022 checkpoint, or the ``lm.pth`` of the 2022 training script; None if there is none.

    Raises:
        BadInput: as of ``load_released_checkpoint``.
    """

    def read(payload: Mapping[str, Any], path: Path) -> Prior | None:
        alone = "indexer" in payload["properties"] and "encoder" not in payload["properties"]
        return _build_prior(payload, payload["state_dict"], path) if alone else _released(payload, path).prior

    return _interpreted(resolve_checkpoint(file), "language model", read)


def _interpreted(file: Path, kind: str, interpret: Callable[[Mapping[str, Any], Path], T]) -> T:
    payload = _read_payload(file)
    if not isinstance(payload, dict) or not {"properties", "state_dict"} <= payload.keys():
        raise BadInput(f"{file} is no checkpoint of the 2022 release: it lacks properties or state_dict")
    try:
        return interpret(payload, file)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise BadInput(f"{file} is not laid out as a {kind} of the 2022 release: {reason}") from None


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
            f"{file} is refused: {reason[:200]}; only tensors and plain values are read from it, nothing is run"
        ) from None


def _copy(stream: BufferedIOBase, into: BufferedIOBase, file: Path) -> None:
    limit = min(MAX_UNPACKED_BYTES, free_bytes(Path(tempfile.gettempdir())) // 2)
    while chunk := stream.read(1 << 24):
        if into.tell() + len(chunk) > limit:
            raise BadInput(f"{file} unpacks to more than {limit:,} bytes: too many for its kind or for the disk")
        into.write(chunk)
    into.seek(0)


def _released(payload: Mapping[str, Any], file: Path) -> ReleasedModels:
    """Build the models of a captioner's checkpoint. Sizes are read from the weights, since unset settings are None."""
    properties, state = payload["properties"], payload["state_dict"]
    words, encoder = _read_words(properties), _encoder(payload, file)
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
        raise BadInput(f"{file}: the prior's vocabulary is not the captioner's, so the two cannot score one text")
    strategy, beam = str(properties.get("strategy") or "rerank"), int(properties.get("beam_size") or 50)
    if prior and strategy in ("beam", "greedy"):
        # With a prior the 2022 code searches by PMI unless mi=False is passed.
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


def _encoder(payload: Mapping[str, Any], file: Path) -> str:
    """Return the name of the torchvision network whose features the captioner was trained on."""
    kind = payload.get("children", {}).get("encoder", PYRAMID)
    if kind != PYRAMID:
        raise BadInput(f"{file} was trained on features of a {kind}; only those of a {PYRAMID} can be made here")
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
