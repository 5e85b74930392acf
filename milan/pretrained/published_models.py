"""Facts about published models before they are downloaded: size, licence, address, and place in the cache."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from milan.storage.hub_access import is_offline, is_reachable
from milan.storage.model_places import is_path_like

OPENAI_URL = "https://api.openai.com/v1"


class ModelFacts(NamedTuple):
    """Size as text and licence of a published model; empty where they are not known."""

    size: str = ""
    licence: str = ""


# Sizes are numbers of parameters times four bytes, as the published files hold 32-bit numbers.
KNOWN_MODELS = {
    "open_clip:ViT-B-16-quickgelu/openai": ModelFacts("about 0.6 GB", "MIT"),
    "open_clip:ViT-B-16/openai": ModelFacts("about 0.6 GB", "MIT"),
    "open_clip:ViT-L-16-SigLIP-384/webli": ModelFacts("about 2.6 GB", "Apache 2.0"),
    "open_clip:ViT-SO400M-14-SigLIP-384/webli": ModelFacts("about 3.5 GB", "Apache 2.0"),
    "hf:Salesforce/blip-image-captioning-base": ModelFacts("about 1.0 GB", "BSD 3-Clause"),
    "diffusers:CompVis/stable-diffusion-v1-4": ModelFacts("about 5.5 GB", "CreativeML OpenRAIL-M"),
}


@dataclass(frozen=True)
class MissingModel:
    """A model or file that a describer needs and that can neither be found nor downloaded here.

    Attributes:
        role: what it is needed as, such as ``captioner``.
        spec: its name.
        source: address that it would be downloaded from; empty for an endpoint, of which nothing is downloaded.
        cache: place where it would be kept.
        facts: size and licence.
        hint: how else it can be given.
    """

    role: str
    spec: str
    source: str = ""
    cache: str = ""
    facts: ModelFacts = ModelFacts()  # noqa: RUF009 (a named tuple)
    hint: str = ""

    def __str__(self) -> str:
        if not self.source:
            return f"{self.role} {self.spec}: {self.hint}"
        licence = f"licence {self.facts.licence}" if self.facts.licence else "licence not known"
        about = [self.facts.size or "size not known", licence]
        about += [f"from {self.source}"]
        about += [f"kept in {self.cache}"] if self.cache else []
        return f"{self.role} {self.spec} ({', '.join(about)}){f': {self.hint}' if self.hint else ''}"


def find_missing_model(role: str, spec: str, base_url: str = "") -> MissingModel | None:
    """Return a pretrained model that can be neither found nor downloaded; None if it can, or if nobody needs to.

    Specs of local files and folders, of the user's own classes and of stand-ins count as found: their loaders report
    what is wrong with them.

    Args:
        role: what the model is needed as, for the message.
        spec: as the loaders of ``milan.pretrained`` take it.
        base_url: address of an endpoint of OpenAI's protocol, for ``openai:MODEL``.
    """
    family, _, name = spec.partition(":")
    if spec.rpartition(":")[0].endswith(".py"):
        return None
    if family == "openai":
        return _find_missing_endpoint(role, spec, base_url)
    if family in ("hf", "diffusers"):
        marker = "model_index.json" if family == "diffusers" else "config.json"
        return None if _is_local(name) else _find_missing_repository(role, spec, name, (marker,))
    if family == "open_clip" and not name.startswith("local-dir:"):
        return _find_missing_open_clip(role, spec, name)
    return None


def _is_local(name: str) -> bool:
    return Path(name).expanduser().exists() or is_path_like(name)


def _find_missing_endpoint(role: str, spec: str, base_url: str) -> MissingModel | None:
    base_url = base_url or os.environ.get("OPENAI_BASE_URL", "")
    if base_url or os.environ.get("OPENAI_API_KEY"):
        return None
    hint = f"set OPENAI_API_KEY ({OPENAI_URL}), or base_url for an endpoint such as http://localhost:8000/v1"
    return MissingModel(role, spec, hint=hint)


def _find_missing_repository(
    role: str, spec: str, repository: str, files: tuple[str, ...], hint: str = ""
) -> MissingModel | None:
    """Return a repository of the hub if none of the files is cached and the hub is out of reach; else None."""
    from huggingface_hub import constants, try_to_load_from_cache

    for file in files:
        if isinstance(try_to_load_from_cache(repository, file, cache_dir=constants.HF_HUB_CACHE), str):
            return None
    if not constants.HF_HUB_OFFLINE and not is_offline() and is_reachable(constants.ENDPOINT):
        return None
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    facts = KNOWN_MODELS.get(spec, ModelFacts())
    hint = hint or f"give a local copy as {spec.partition(':')[0]}:FOLDER"
    return MissingModel(role, spec, f"{constants.ENDPOINT}/{repository}", str(cache), facts, hint)


def _find_missing_open_clip(role: str, spec: str, name: str) -> MissingModel | None:
    import open_clip  # type: ignore[import-untyped]

    hint = "give a local copy as open_clip:local-dir:FOLDER"
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        return _find_missing_repository(role, spec, repository, ("open_clip_config.json",), hint)
    model, _, tag = name.rpartition("/")
    published = open_clip.get_pretrained_cfg(model, tag) if model in open_clip.list_models() else {}
    if published.get("hf_hub"):
        repository, _, file = published["hf_hub"].rpartition("/")
        files = (file,) if file else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        return _find_missing_repository(role, spec, repository, files, hint)
    if not (url := published.get("url")):
        return None
    cached = Path("~/.cache/clip").expanduser() / Path(url).name
    if cached.is_file() or is_reachable(url):
        return None
    return MissingModel(role, spec, url, str(cached), KNOWN_MODELS.get(spec, ModelFacts()), hint)
