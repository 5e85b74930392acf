"""Image captioners: what a network says of pictures, each picture asked about once and the answer kept.

Not MILAN's captioner, which speaks of a unit's exemplars (``milan.models.captioner``): these are borrowed, and see one
picture at a time.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from milan.console.progress import track_progress
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.pretrained.chat_markup import final_answer
from milan.pretrained.model_sources import Precision, check_device, get_dtype, load_from_file, resolve_model
from milan.storage.files import Journal, cache_folder, content_key
from milan.storage.hub_access import format_error_line, quiet
from milan.storage.packaged_data import locate_packaged_data
from milan.targets.fingerprints import network_hash

FAMILIES = ("diorama", "hf")
MAX_TOKENS = 32  # tokens of a caption at most, as Describe-and-Dissect asks BLIP for (notes: max_new_tokens 32)
CHAT_PROMPT = (  # to models that are asked in a chat, where nothing else is given
    "Describe this image in one short sentence."
)
COMPLETION_MODELS = ("blip", "git")  # whose captions begin with the prompt; others answer it


class ImageCaptioner(ABC):
    """Says of a picture what it shows.

    key: what its answers depend on: weights, preprocessing, precision, prompt, how words are chosen;
    batch_size: pictures at a time, which changes no answer (but for rounding).
    """

    key: str
    batch_size: int = 16

    @abstractmethod
    def caption_images(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
        """One caption of each picture, of pixels 0..255 of any size; empty where the network says nothing."""


def load_image_captioner(
    spec: str = "diorama",
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    batch_size: int = 16,
    prompt: str = "",
    max_tokens: int = MAX_TOKENS,
    num_beams: int = 1,
) -> ImageCaptioner:
    """An image captioner by name or path.

    Args:
        spec: ``diorama`` (the BLIP trained on Diorama that comes with the package), ``hf:ID_OR_FOLDER`` (BLIP, BLIP-2,
            GIT, LLaVA and other image-text-to-text models of transformers), or one of yours as ``PATH/FILE.py:NAME``, a
            class or function that is called without arguments and sees to device and precision itself.
        device: where it runs.
        precision: of weights and computation.
        batch_size: pictures at a time.
        prompt: what the caption goes on from (BLIP, GIT), or what is asked (BLIP-2, chat models); nothing unless given,
            but chat models are asked for one short sentence.
        max_tokens: tokens of a caption at most.
        num_beams: how many captions are weighed while one is sought; 1 takes the likeliest word each time.

    Raises:
        UnknownName: no such family or precision.
        BadInput: the path leads to no such model, the hub does not have it or is out of reach, or the device cannot be
            used.
        MissingEvidence: Diorama's captioner was not built.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    get_dtype(precision)
    for name, value in (("batch size", batch_size), ("longest caption", max_tokens), ("number of beams", num_beams)):
        if value < 1:
            raise BadInput(f"a {name} of {value}; give at least 1")
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family == "diorama"):
        raise UnknownName("captioner", spec, ["diorama", "hf:"], "write diorama, hf:ID_OR_FOLDER or PATH/FILE.py:NAME")
    source = name or _find_stand_in()
    return TransformersCaptioner(
        source,
        device=check_device(device),
        precision=precision,
        batch_size=batch_size,
        caption_options=CaptionOptions(prompt, max_tokens, num_beams),
    )


def _load_custom(spec: str) -> ImageCaptioner:
    made = load_from_file(spec, "captioner")
    if not isinstance(made, ImageCaptioner):
        raise BadInput(
            f"{spec} makes a {type(made).__name__}; it must make a milan.pretrained.image_captioner.ImageCaptioner"
        )
    return made


def _find_stand_in() -> str:
    folder = locate_packaged_data("data") / "diorama" / "blip"
    if not (folder / "model.safetensors").is_file():
        raise MissingEvidence(
            f"no captioner of Diorama at {folder}; make it with: python -m milan.diorama build --only blip"
        )
    return str(folder)


class CaptionOptions:
    """How a network is asked: the prompt, the tokens of an answer at most, and the beams."""

    def __init__(self, prompt: str = "", max_tokens: int = MAX_TOKENS, num_beams: int = 1):
        self.prompt, self.max_tokens, self.num_beams = prompt, max_tokens, num_beams


class TransformersCaptioner(ImageCaptioner):
    """An image-text-to-text model of transformers with its own processor; the same picture always gets the same
    caption.

    name: a folder written by ``save_pretrained`` or an id of the hub.
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
        except Exception as error:  # the hub's client, the network and transformers each raise their own
            raise BadInput(f"{self.name} cannot be loaded as a captioner: {format_error_line(error)}") from error
        if not (hasattr(self.processor, "image_processor") and hasattr(self.processor, "tokenizer")):
            kind = type(self.processor).__name__
            raise BadInput(
                f"{self.name} has no processor of pictures and texts, but a {kind}; give a BLIP or a model that comes"
                " with one"
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
            found = self.model.generate(**given, **how)
        asked = given.get("input_ids")
        if asked is not None and self.model.config.model_type not in COMPLETION_MODELS and _starts_with(found, asked):
            found = found[:, asked.shape[1] :]
        return [
            tidy_caption(final_answer(text)) for text in self.processor.batch_decode(found, skip_special_tokens=True)
        ]

    def _make_inputs(self, images: Tensor) -> Any:
        """What the network takes in: pixels, and the prompt's tokens where it has one."""
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
            if (
                self.model.config.model_type == "git"
            ):  # its tokenizer ends the prompt as if all were said; BLIP sees to that itself
                given.update({name: given[name][:, :-1] for name in ("input_ids", "attention_mask")})
            return given
        return self.processor.image_processor(pictures, return_tensors="pt")


def _starts_with(found: Int[Tensor, "b length"], asked: Int[Tensor, "b start"]) -> bool:
    """Whether what came out begins with what was asked, as decoders give it."""
    return found.shape[1] >= asked.shape[1] and bool((found[:, : asked.shape[1]] == asked).all())


def tidy_caption(caption: str) -> str:
    """A caption as it is kept: the spaces that tokenizers leave around signs are taken out.

    >>> tidy_caption(" a grid - patterned t - shirt , and a  dog ' s tail .")
    "a grid-patterned t-shirt, and a dog's tail."
    """
    text = " ".join(caption.split())
    text = re.sub(r"(?<=\w) ([-']) (?=\w)", r"\1", text)
    return re.sub(r" ([.,;:!?])", r"\1", text)


def caption_with_cache(captioner: ImageCaptioner, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
    """The captions of pictures, in their order; each picture is asked about once ever and then found in the cache, by
    its pixels.

    What was captioned is kept at once, so a killed run loses a batch at most.

    Raises:
        BadInput: the cache cannot be read or written.
    """
    keys = [
        hashlib.sha256(repr(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()).hexdigest()
        for image in images
    ]
    with Journal(cache_folder() / "captions" / f"{captioner.key}.sqlite", captioner.key) as known:
        texts = {key: found["caption"] for key in dict.fromkeys(keys) if (found := known.get(key)) is not None}
        new = [place for place, key in enumerate(keys) if key not in texts and key not in keys[:place]]
        for start in track_progress(
            range(0, len(new), captioner.batch_size), description=f"captioning {len(new)} pictures"
        ):
            part = new[start : start + captioner.batch_size]
            for at, text in zip(part, captioner.caption_images(images[part]), strict=True):
                known.put(keys[at], {"caption": text})
                texts[keys[at]] = text
    return [texts[key] for key in keys]
