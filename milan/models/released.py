"""Reading checkpoints of MILAN's 2022 release, executing nothing that is in them."""

import gzip
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from milan.errors import BadInput
from milan.models.captioner import Captioner
from milan.models.prior import Prior
from milan.models.saving import load_weights
from milan.targets.checkpoints import load_inert

LARGEST = 8 * 2**30  # bytes; what unpacks to more than this is no checkpoint of MILAN
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
PRIOR_NAMES = {"lm.embedding.": "embedding.", "lm.lstm.": "lstm.", "lm.output.0.": "readout."}
ENCODER = "encoder.encoder.model."


class Released(NamedTuple):
    """What a released checkpoint holds."""

    captioner: Captioner
    prior: Prior | None
    encoder: str  # name of the torchvision network
    encoder_weights: dict[str, Tensor]
    strategy: str
    beam: int
    prior_weight: float
    steps: int


def read_released(file: str | Path) -> Released:
    """Reads a ``.pth`` or ``.pth.gz`` of the 2022 release (``{properties, children, state_dict}``).

    These files hold pickled objects of spaCy's configuration, and a pickle can name any function to be called. Here only tensors and plain
    values are rebuilt (``torch.load(weights_only=True)``); every other name in the file stands for a class that makes empty mappings.

    Raises:
        BadInput: the file cannot be read so, or is no checkpoint of MILAN's captioner.
    """
    payload = _payload(Path(file))
    if not isinstance(payload, dict) or not {"properties", "state_dict"} <= payload.keys():
        raise BadInput(f"{file} is no checkpoint of the 2022 release: it lacks properties or state_dict")
    try:
        return _interpret(payload["properties"], payload["state_dict"], Path(file))
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise BadInput(f"{file} is not laid out as a captioner of the 2022 release: {reason}") from None


def _payload(file: Path) -> Any:
    try:
        with file.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if zipped else file.open("rb") as stream, tempfile.TemporaryFile() as plain:
            _copy(stream, plain, file)
            return load_inert(plain)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {file}: {error}") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, zipfile.BadZipFile, AttributeError, IndexError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(f"{file} is refused: {reason[:200]}; only tensors and plain values are read from it, nothing is run") from None


def _copy(stream: BufferedIOBase, into: BufferedIOBase, file: Path) -> None:
    while chunk := stream.read(1 << 24):
        if into.tell() + len(chunk) > LARGEST:
            raise BadInput(f"{file} unpacks to more than {LARGEST >> 30} GiB: no checkpoint of MILAN")
        into.write(chunk)
    into.seek(0)


def _interpret(properties: Mapping[str, Any], state: Mapping[str, Tensor], file: Path) -> Released:
    words = _words(properties["indexer"])
    captioner = Captioner(
        words,
        features=state["attend.key_to_hidden.weight"].shape[1],
        embedding=properties["embedding_size"],
        hidden=properties["hidden_size"],
        attention=properties["attention_hidden_size"],
        dropout=properties["dropout"],
        encoder={"spec": f"torchvision:{_encoder_name(properties)}"},
    )
    load_weights(captioner, _renamed(state, CAPTIONER_NAMES), file)
    return Released(
        captioner=captioner.eval(),
        prior=_prior(properties.get("lm"), state, words, file),
        encoder=_encoder_name(properties),
        encoder_weights={name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)},
        strategy=str(properties.get("strategy") or "rerank"),
        beam=int(properties.get("beam_size") or 50),
        prior_weight=float(properties.get("temperature", 0.2)),
        steps=int(properties.get("length") or 15),
    )


def _prior(module: Mapping[str, Any] | None, state: Mapping[str, Tensor], words: list[str], file: Path) -> Prior | None:
    if not module:
        return None
    properties = module["properties"]
    if _words(properties["indexer"]) != words:
        raise BadInput(f"{file}: the prior's vocabulary is not the captioner's, so the two cannot score one text")
    sizes = {"embedding": properties["embedding_size"], "hidden": properties["hidden_size"], "layers": properties["layers"]}
    prior = Prior(words, **sizes, dropout=properties["dropout"])
    load_weights(prior, _renamed(state, PRIOR_NAMES), file)
    return prior.eval()


def _words(indexer: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in indexer["properties"]["vocab"]["properties"]["tokens"]]


def _encoder_name(properties: Mapping[str, Any]) -> str:
    return str(properties["encoder"]["properties"]["config"])


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {new + name.removeprefix(old): value for name, value in state.items() for old, new in names.items() if name.startswith(old)}
