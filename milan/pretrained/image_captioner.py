"""Pretrained image captioners: one caption for each image, cached by the image's pixels.

These caption single images; MILAN's own captioner, which describes all exemplars of a unit, is
``milan.models.captioner``.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from milan.console.progress import track_progress
from milan.errors import BadInput, MissingEvidence, UnknownName, require_at_least
from milan.pretrained.chat_images import encode_jpeg
from milan.pretrained.chat_markup import final_answer
from milan.pretrained.llm import IMAGE_MARK, Message, Question
from milan.pretrained.llm_client import CallBudget, LlmClient, NoAnswer, load_llm_client
from milan.pretrained.model_sources import Precision, check_device, get_dtype, load_from_file, resolve_model
from milan.pretrained.reply_parsing import make_explanation_parser
from milan.storage.files import cache_folder, content_key
from milan.storage.hub_access import format_error_line, quiet
from milan.storage.journal import Journal
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.fingerprints import network_hash

FAMILIES = ("diorama", "hf", "openai")
MAX_TOKENS = 32  # of a caption, as in the released code of Describe-and-Dissect (max_new_tokens)
MAX_CAPTION_WORDS = 60  # of a caption from an endpoint
CHAT_PROMPT = "Describe this image in one short sentence."  # default for chat models
COMPLETION_MODELS = ("blip", "git")  # their captions continue the prompt; other models answer it


class ImageCaptioner(ABC):
    """A model that says what an image shows.

    Attributes:
        key: content key of everything that captions depend on: weights, preprocessing, precision, prompt, decoding.
        batch_size: images per batch, which changes no caption (but for rounding).
    """

    key: str
    batch_size: int = 16

    @abstractmethod
    def caption_images(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str] | list[str | NoAnswer]:
        """Return one caption of each image (pixels 0..255, any size), empty where the model says nothing.

        A captioner behind an endpoint returns ``NoAnswer`` for an image whose request failed.
        """


@dataclass(frozen=True)
class EndpointOptions:
    """How a captioner behind an endpoint is reached.

    Attributes:
        base_url: address of the endpoint; $OPENAI_BASE_URL, else OpenAI's own, by default.
        options: of model and client, see ``milan.pretrained.llm_client.load_llm_client``; temperature 0 by default.
        budget: number of requests, shared with other clients; None for no limit.
    """

    base_url: str = ""
    options: Mapping[str, Any] | None = None
    budget: CallBudget | None = None


def load_image_captioner(
    spec: str = "diorama",
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    batch_size: int = 16,
    prompt: str = "",
    max_tokens: int = MAX_TOKENS,
    num_beams: int = 1,
    endpoint: EndpointOptions | None = None,
) -> ImageCaptioner:
    """Load an image captioner by name or path.

    Args:
        spec: ``diorama`` (the BLIP trained on Diorama that comes with the package), ``hf:ID_OR_FOLDER`` (BLIP, BLIP-2,
            GIT, LLaVA and other image-text-to-text models of transformers), ``openai:MODEL`` (a model that reads images
            behind any endpoint of OpenAI's protocol), or ``PATH/FILE.py:NAME`` (a custom class or function, called
            without arguments, that chooses device and precision itself).
        device: device of a model in this process.
        precision: data type of its weights and computation.
        batch_size: images per batch.
        prompt: text that the caption continues (BLIP, GIT) or instruction (BLIP-2, chat models); by default empty, and
            "Describe this image in one short sentence." for chat models.
        max_tokens: maximal length of a caption in tokens, of a model in this process.
        num_beams: beams of the search, of a model in this process; 1 is greedy decoding.
        endpoint: address, options and budget of ``openai:MODEL``.

    Raises:
        UnknownName: no such family or precision.
        BadInput: the path leads to no such model, the hub does not have it or cannot be reached, or the device cannot
            be used.
        MissingEvidence: Diorama's captioner was not built.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    get_dtype(precision)
    require_at_least(1, batch_size=batch_size, max_tokens=max_tokens, num_beams=num_beams)
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family == "diorama"):
        hint = "write diorama, hf:ID_OR_FOLDER, openai:MODEL or PATH/FILE.py:NAME"
        raise UnknownName("captioner", spec, ["diorama", "hf:", "openai:"], hint)
    if family == "openai":
        given = endpoint or EndpointOptions()
        options = {"temperature": 0.0} | dict(given.options or {})
        client = load_llm_client(spec, base_url=given.base_url, max_calls=given.budget, options=options)
        return EndpointCaptioner(client, prompt or CHAT_PROMPT)
    source = name or _find_stand_in()
    return TransformersCaptioner(
        source,
        device=check_device(device),
        precision=precision,
        batch_size=batch_size,
        caption_options=CaptionOptions(prompt, max_tokens, num_beams),
    )


def _load_custom(spec: str) -> ImageCaptioner:
    captioner = load_from_file(spec, "captioner")
    if not isinstance(captioner, ImageCaptioner):
        raise BadInput(
            f"{spec} returns a {type(captioner).__name__}; it must return a"
            " milan.pretrained.image_captioner.ImageCaptioner"
        )
    return captioner


def _find_stand_in() -> str:
    folder = locate_packaged_data("data") / "diorama" / "blip"
    if not (folder / "model.safetensors").is_file():
        raise MissingEvidence(
            f"no captioner of Diorama at {folder}; build it with: python -m milan.diorama build --only blip"
        )
    return str(folder)


class EndpointCaptioner(ImageCaptioner):
    """A model behind an endpoint that is asked about one image at a time.

    Args:
        client: client of the model.
        prompt: what it is asked.
    """

    def __init__(self, client: LlmClient, prompt: str = CHAT_PROMPT):
        self.client, self.prompt = client, prompt
        self.key = content_key(captioner=client.key, prompt=prompt)

    def caption_images(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str | NoAnswer]:
        """Return the endpoint's caption of each image, or why there is none."""
        files = [encode_jpeg(image.permute(1, 2, 0).contiguous().numpy()) for image in images]
        text = f"{IMAGE_MARK}\n{self.prompt}"
        questions = [Question((Message("user", text, (file,)),), "caption", (("image", 0),)) for file in files]
        return self.client.ask(questions, make_explanation_parser(MAX_CAPTION_WORDS, self.client.language))


class CaptionOptions:
    """How a model in this process captions: prompt, maximal number of tokens, number of beams."""

    def __init__(self, prompt: str = "", max_tokens: int = MAX_TOKENS, num_beams: int = 1):
        self.prompt, self.max_tokens, self.num_beams = prompt, max_tokens, num_beams


class TransformersCaptioner(ImageCaptioner):
    """An image-text-to-text model of transformers with its own processor; decoding is deterministic.

    Args:
        name: folder written by ``save_pretrained``, or id of the hub.
        device: device of the model.
        precision: data type of weights and computation.
        batch_size: images per batch.
        caption_options: prompt and decoding.

    Raises:
        BadInput: it cannot be loaded as a captioner.
    """

    def __init__(
        self, name: str, *, device: str, precision: Precision, batch_size: int, caption_options: CaptionOptions
    ):
        import transformers

        source, local = resolve_model(name)
        self.name, self.device, self.batch_size, self.caption_options = (
            f"hf:{name}",
            device,
            batch_size,
            caption_options,
        )
        self.dtype = get_dtype(precision)
        try:
            with quiet():
                options = {"local_files_only": local, "trust_remote_code": False}
                self.processor: Any = transformers.AutoProcessor.from_pretrained(source, **options)
                model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
                    source, dtype=self.dtype, **options
                )
        # The hub's client, the network and transformers raise errors of many types.
        except Exception as error:
            raise BadInput(f"{self.name} cannot be loaded as a captioner: {format_error_line(error)}") from error
        if not (hasattr(self.processor, "image_processor") and hasattr(self.processor, "tokenizer")):
            kind = type(self.processor).__name__
            raise BadInput(
                f"{self.name} comes with a {kind}, which does not process images and texts; give a BLIP or another"
                " image-text-to-text model"
            )
        self.model: Any = model.to(device).eval().requires_grad_(False)
        self.chat = bool(getattr(self.processor, "chat_template", None))
        read = self.processor.image_processor.to_json_string() + repr(
            sorted(self.processor.tokenizer.get_vocab().items())
        )
        how = [caption_options.prompt, caption_options.max_tokens, caption_options.num_beams, self.chat and CHAT_PROMPT]
        self.key = content_key(captioner=network_hash(self.model), precision=precision, read=read, how=how)

    @torch.no_grad()
    def caption_images(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
        """Return the model's caption of each image, in batches of ``batch_size``."""
        starts = range(0, len(images), self.batch_size)
        return [text for start in starts for text in self._caption_batch(images[start : start + self.batch_size])]

    def _caption_batch(self, images: Tensor) -> list[str]:
        given = self._make_inputs(images).to(self.device)
        given = {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in given.items()}
        how = {
            "max_new_tokens": self.caption_options.max_tokens,
            "num_beams": self.caption_options.num_beams,
            "do_sample": False,
        }
        with quiet():
            tokens = self.model.generate(**given, **how)
        prompt_tokens = given.get("input_ids")
        if (
            prompt_tokens is not None
            and self.model.config.model_type not in COMPLETION_MODELS
            and _starts_with(tokens, prompt_tokens)
        ):
            tokens = tokens[:, prompt_tokens.shape[1] :]
        return [
            tidy_caption(final_answer(text)) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)
        ]

    def _make_inputs(self, images: Tensor) -> Any:
        """Return the inputs of the model: pixels, and the tokens of the prompt where there is one."""
        pictures = list(images)
        if self.chat:
            content = [{"type": "image"}, {"type": "text", "text": self.caption_options.prompt or CHAT_PROMPT}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return self.processor(images=pictures, text=[text] * len(pictures), return_tensors="pt")
        if self.caption_options.prompt:
            given = self.processor(
                images=pictures, text=[self.caption_options.prompt] * len(pictures), return_tensors="pt"
            )
            given.pop("token_type_ids", None)
            # GIT's tokenizer closes the prompt with an end token, which BLIP's model removes by itself.
            if self.model.config.model_type == "git":
                given.update({name: given[name][:, :-1] for name in ("input_ids", "attention_mask")})
            return given
        return self.processor.image_processor(pictures, return_tensors="pt")


def _starts_with(tokens: Int[Tensor, "b length"], start: Int[Tensor, "b start"]) -> bool:
    """Return whether the generated tokens begin with the prompt, as those of decoders do."""
    return tokens.shape[1] >= start.shape[1] and bool((tokens[:, : start.shape[1]] == start).all())


def tidy_caption(caption: str) -> str:
    """Return a caption without the spaces that tokenizers leave around punctuation.

    >>> tidy_caption(" a grid - patterned t - shirt , and a  dog ' s tail .")
    "a grid-patterned t-shirt, and a dog's tail."
    """
    text = " ".join(caption.split())
    text = re.sub(r"(?<=\w) ([-']) (?=\w)", r"\1", text)
    return re.sub(r" ([.,;:!?])", r"\1", text)


def caption_with_cache(captioner: ImageCaptioner, images: UInt8[Tensor, "b 3 h w"]) -> list[str | NoAnswer]:
    """Return the caption of each image, from the cache where it is there; images are found by their pixels.

    Captions are cached batch by batch, so that a run that is killed loses at most one. A failed request
    (``NoAnswer``) is not cached.

    Raises:
        BadInput: the cache cannot be read or written.
    """
    keys = [
        hashlib.sha256(repr(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()).hexdigest()
        for image in images
    ]
    with Journal(cache_folder() / "captions" / f"{captioner.key}.sqlite", captioner.key) as journal:
        texts: dict[str, str | NoAnswer] = {
            key: entry["caption"] for key in dict.fromkeys(keys) if (entry := journal.get(key)) is not None
        }
        new = [place for place, key in enumerate(keys) if key not in texts and key not in keys[:place]]
        for start in track_progress(
            range(0, len(new), captioner.batch_size), description=f"captioning {len(new)} images"
        ):
            part = new[start : start + captioner.batch_size]
            for at, text in zip(part, captioner.caption_images(images[part]), strict=True):
                if isinstance(text, str):
                    journal.put(keys[at], {"caption": text})
                texts[keys[at]] = text
    return [texts[key] for key in keys]
