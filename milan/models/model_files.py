"""Models in folders and on the hub: weights as safetensors, settings as json, and a card that reports the training."""

import inspect
import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from milan.errors import BadInput
from milan.storage.files import atomic_write, content_key
from milan.targets.fingerprints import network_hash

FORMAT = 1  # version of config.json and of the names in model.safetensors
S = TypeVar("S", bound="PretrainedMixin")
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
CARD_TEMPLATE = """---
{{ card_data }}
---
# {{ title }}

{{ what }}

## Trained on

{{ trained_on }}

## Use

```python
{{ use }}
```
"""


class PretrainedMixin(PyTorchModelHubMixin, model_card_template=CARD_TEMPLATE):
    """Adds ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` to a module.

    The arguments of the module's constructor must be plain values.

    Attributes:
        card_summary: one sentence for the card.
        trained_on: plain facts about the training (data, annotators, units, seed, scores), kept in the config and
            reported on the card.
    """

    card_summary: ClassVar[str]
    trained_on: dict[str, Any]
    _half: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return dict(self._hub_mixin_config or {})  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str:
        """The content key of settings and weights."""
        return content_key(config=self.config, network=network_hash(self))  # type: ignore[arg-type]

    def save_pretrained(self, save_directory: str | Path, *, half: bool = False, **options: Any) -> str | None:
        """Write model.safetensors, config.json and README.md to a folder.

        Args:
            save_directory: the folder.
            half: whether weights are rounded to 16 bits.
            options: further arguments of ``PyTorchModelHubMixin.save_pretrained``.
        """
        self._half = half
        options.setdefault("model_card_kwargs", self._collect_card_facts())
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        parameters: dict[str, Tensor] = self.state_dict()  # type: ignore[attr-defined]
        state = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
        if self._half:
            state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        with atomic_write(save_directory / WEIGHTS_FILE) as path:
            save_file(state, path)
        facts = {
            "format": FORMAT,
            "class": type(self).__name__,
            **self.config,
            "trained_on": getattr(self, "trained_on", {}),
        }
        with atomic_write(save_directory / CONFIG_FILE) as path:
            path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        # The mixin keeps an existing card, which may describe other weights.
        (save_directory / "README.md").unlink(missing_ok=True)

    def _collect_card_facts(self) -> dict[str, str]:
        name = type(self).__name__
        trained_on = [f"- {key}: {value}" for key, value in getattr(self, "trained_on", {}).items()]
        use = f"from milan.models import {name}\n\n{name.lower()} = {name}.from_pretrained(FOLDER_OR_ID)"
        return {
            "title": f"MILAN {name.lower()}",
            "what": self.card_summary,
            "trained_on": "\n".join(trained_on) or "Unknown.",
            "use": use,
        }

    @classmethod
    def from_pretrained(cls: type[S], pretrained_model_name_or_path: str | Path, **options: Any) -> S:
        """Load a model from a folder, or from the hub by its id, in evaluation mode and 32-bit precision.

        Raises:
            BadInput: there is no such folder or model, or its settings or weights belong to another class; the message
                lists the keys that differ.
        """
        source = str(pretrained_model_name_or_path)
        if not Path(source).is_dir() and (
            source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source).exists()
        ):
            raise BadInput(
                f"no folder {source} with {CONFIG_FILE} and {WEIGHTS_FILE}; give a folder of save_pretrained, or a hub"
                " id OWNER/NAME"
            )
        return cls._from_pretrained(model_id=source, **options)

    @classmethod
    def _from_pretrained(cls: type[S], *, model_id: str, **options: Any) -> S:
        config = _read_config(_find_file(model_id, CONFIG_FILE, options), cls)
        trained_on = config.pop("trained_on", {})
        model = cls(**config)
        model.trained_on = trained_on
        load_weights(model, _read_weights(_find_file(model_id, WEIGHTS_FILE, options)), model_id)  # type: ignore[arg-type]
        model.eval()  # type: ignore[attr-defined]
        return model


def load_weights(model: torch.nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Copy a state dict into a model, in the model's precision.

    Args:
        model: the model.
        state: weights by name.
        source: where the weights are from, for the message.

    Raises:
        BadInput: names or shapes differ; the message lists which.
    """
    own = model.state_dict()
    wrong = [f"missing {name}" for name in own.keys() - state.keys()] + [
        f"unknown {name}" for name in state.keys() - own.keys()
    ]
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    wrong += [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in shapes]
    if wrong:
        raise BadInput(
            f"the weights of {source} do not fit {type(model).__name__} with its settings: {_format_shortened(wrong)}"
        )
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})


def _format_shortened(items: list[str]) -> str:
    return ", ".join(sorted(items)[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")


def _find_file(source: str, name: str, options: dict[str, Any]) -> Path:
    if Path(source).is_dir():
        path = Path(source) / name
        if not path.is_file():
            raise BadInput(f"no {name} in {source}; give a folder of save_pretrained")
        return path
    try:
        return Path(hf_hub_download(source, name, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"cannot get {name} of {source} from the hub: {first}; give a local folder of save_pretrained"
        ) from None


def _read_config(path: Path, cls: type) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not json: {error}") from None
    if not isinstance(config, dict) or "format" not in config:
        raise BadInput(f"{path} is no config of a {cls.__name__}: it has no format version")
    if config["format"] != FORMAT:
        raise BadInput(
            f"{path} has format {config['format']}, this version of milan reads format {FORMAT}; update milan, or save"
            " the model again"
        )
    if config.pop("class", cls.__name__) != cls.__name__:
        raise BadInput(f"{path} is not the config of a {cls.__name__}; load it with the class that it names")
    config.pop("format")
    _check_names(path, config, cls)
    return config


def _check_names(path: Path, config: dict[str, Any], cls: type) -> None:
    parameters = [p for name, p in inspect.signature(cls.__init__).parameters.items() if name != "self"]  # type: ignore[misc]
    unknown = config.keys() - {p.name for p in parameters} - {"trained_on"}
    missing = {p.name for p in parameters if p.default is inspect.Parameter.empty} - config.keys()
    if unknown or missing:
        wrong = [f"unknown {name}" for name in unknown] + [f"missing {name}" for name in missing]
        raise BadInput(f"the settings in {path} do not fit {cls.__name__} of this version: {_format_shortened(wrong)}")


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"cannot read {path}: {error}; copy or download it again") from None
