"""Image captioners: what a network says of pictures, each picture asked about once and the answer kept.

Not MILAN's captioner, which speaks of a unit's exemplars (``milan.models.captioner``): these are borrowed, and see one picture at a time.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from milan.embedded import embedded
from milan.errors import BadInput, MissingEvidence, UnknownName
from milan.pretrained.chat_markup import final_answer
from milan.pretrained.sources import Precision, dtype_of, from_file, place, usable
from milan.progress import progress
from milan.storage import Journal, cache_folder, content_key
from milan.targets.fingerprints import network_hash
from milan.targets.hubs import first_line, quiet

FAMILIES = ("diorama", "hf")
WORDS = 32  # tokens of a caption at most, as Describe-and-Dissect asks BLIP for (notes: max_new_tokens 32)
PROMPT = "Describe this image in one short sentence."  # to models that are asked in a chat, where nothing else is given
GOES_ON = ("blip", "git")  # whose captions begin with the prompt; others answer it


class ImageCaptioner(ABC):
    """Says of a picture what it shows.

    key: what its answers depend on: weights, preprocessing, precision, prompt, how words are chosen;
    batch_size: pictures at a time, which changes no answer (but for rounding).
    """

    key: str
    batch_size: int = 16

    @abstractmethod
    def captions(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
        """One caption of each picture, of pixels 0..255 of any size; empty where the network says nothing."""


def load_captioner(
    spec: str = "diorama",
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    batch_size: int = 16,
    prompt: str = "",
    longest: int = WORDS,
    beams: int = 1,
) -> ImageCaptioner:
    """An image captioner by name or path.

    Args:
        spec: ``diorama`` (the BLIP trained on Diorama that comes with the package), ``hf:ID_OR_FOLDER`` (BLIP, BLIP-2, GIT, LLaVA and
            other image-text-to-text models of transformers), or one of yours as ``PATH/FILE.py:NAME``, a class or function that is
            called without arguments and sees to device and precision itself.
        device: where it runs.
        precision: of weights and computation.
        batch_size: pictures at a time.
        prompt: what the caption goes on from (BLIP, GIT), or what is asked (BLIP-2, chat models); nothing unless given, but chat models
            are asked for one short sentence.
        longest: tokens of a caption at most.
        beams: how many captions are weighed while one is sought; 1 takes the likeliest word each time.

    Raises:
        UnknownName: no such family or precision.
        BadInput: the path leads to no such model, the hub does not have it or is out of reach, or the device cannot be used.
        MissingEvidence: Diorama's captioner was not built.
    """
    if spec.rpartition(":")[0].endswith(".py"):
        return _own(spec)
    dtype_of(precision)
    for name, value in (("batch size", batch_size), ("longest caption", longest), ("number of beams", beams)):
        if value < 1:
            raise BadInput(f"a {name} of {value}; give at least 1")
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family == "diorama"):
        raise UnknownName("captioner", spec, ["diorama", "hf:"], "write diorama, hf:ID_OR_FOLDER or PATH/FILE.py:NAME")
    source = name or _stand_in()
    return Transformers(source, device=usable(device), precision=precision, batch_size=batch_size, asking=Asking(prompt, longest, beams))


def _own(spec: str) -> ImageCaptioner:
    made = from_file(spec, "captioner")
    if not isinstance(made, ImageCaptioner):
        raise BadInput(f"{spec} makes a {type(made).__name__}; it must make a milan.pretrained.captioner.ImageCaptioner")
    return made


def _stand_in() -> str:
    folder = embedded("data") / "diorama" / "blip"
    if not (folder / "model.safetensors").is_file():
        raise MissingEvidence(f"no captioner of Diorama at {folder}; make it with: python -m milan.diorama build --only blip")
    return str(folder)


class Asking:
    """How a network is asked: the prompt, the tokens of an answer at most, and the beams."""

    def __init__(self, prompt: str = "", longest: int = WORDS, beams: int = 1):
        self.prompt, self.longest, self.beams = prompt, longest, beams


class Transformers(ImageCaptioner):
    """An image-text-to-text model of transformers with its own processor; the same picture always gets the same caption.

    name: a folder written by ``save_pretrained`` or an id of the hub.
    """

    def __init__(self, name: str, *, device: str, precision: Precision, batch_size: int, asking: Asking):
        import transformers

        source, local = place(name)
        self.name, self.device, self.batch_size, self.asking = f"hf:{name}", device, batch_size, asking
        self.dtype = dtype_of(precision)
        try:
            with quiet():
                options = {"local_files_only": local, "trust_remote_code": False}
                self.processor: Any = transformers.AutoProcessor.from_pretrained(source, **options)
                model: Any = transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=self.dtype, **options)
        except Exception as error:  # the hub's client, the network and transformers each raise their own
            raise BadInput(f"{self.name} cannot be loaded as a captioner: {first_line(error)}") from error
        if not (hasattr(self.processor, "image_processor") and hasattr(self.processor, "tokenizer")):
            kind = type(self.processor).__name__
            raise BadInput(f"{self.name} has no processor of pictures and texts, but a {kind}; give a BLIP or a model that comes with one")
        self.model: Any = model.to(device).eval().requires_grad_(False)
        self.chat = bool(getattr(self.processor, "chat_template", None))
        read = self.processor.image_processor.to_json_string() + repr(sorted(self.processor.tokenizer.get_vocab().items()))
        how = [asking.prompt, asking.longest, asking.beams, self.chat and PROMPT]
        self.key = content_key(captioner=network_hash(self.model), precision=precision, read=read, how=how)

    @torch.no_grad()
    def captions(self, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
        starts = range(0, len(images), self.batch_size)
        return [text for start in starts for text in self._batch(images[start : start + self.batch_size])]

    def _batch(self, images: Tensor) -> list[str]:
        given = self._given(images).to(self.device)
        given = {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in given.items()}
        how = {"max_new_tokens": self.asking.longest, "num_beams": self.asking.beams, "do_sample": False}
        with quiet():
            found = self.model.generate(**given, **how)
        asked = given.get("input_ids")
        if asked is not None and self.model.config.model_type not in GOES_ON and _begins(found, asked):
            found = found[:, asked.shape[1] :]
        return [tidied(final_answer(text)) for text in self.processor.batch_decode(found, skip_special_tokens=True)]

    def _given(self, images: Tensor) -> Any:
        """What the network takes in: pixels, and the prompt's tokens where it has one."""
        pictures = list(images)
        if self.chat:
            content = [{"type": "image"}, {"type": "text", "text": self.asking.prompt or PROMPT}]
            text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
            return self.processor(images=pictures, text=[text] * len(pictures), return_tensors="pt")
        if self.asking.prompt:
            given = self.processor(images=pictures, text=[self.asking.prompt] * len(pictures), return_tensors="pt")
            given.pop("token_type_ids", None)
            if self.model.config.model_type == "git":  # its tokenizer ends the prompt as if all were said; BLIP sees to that itself
                given.update({name: given[name][:, :-1] for name in ("input_ids", "attention_mask")})
            return given
        return self.processor.image_processor(pictures, return_tensors="pt")


def _begins(found: Int[Tensor, "b length"], asked: Int[Tensor, "b start"]) -> bool:
    """Whether what came out begins with what was asked, as decoders give it."""
    return found.shape[1] >= asked.shape[1] and bool((found[:, : asked.shape[1]] == asked).all())


def tidied(caption: str) -> str:
    """A caption as it is kept: the spaces that tokenizers leave around signs are taken out.

    >>> tidied(" a grid - patterned t - shirt , and a  dog ' s tail .")
    "a grid-patterned t-shirt, and a dog's tail."
    """
    text = " ".join(caption.split())
    text = re.sub(r"(?<=\w) ([-']) (?=\w)", r"\1", text)
    return re.sub(r" ([.,;:!?])", r"\1", text)


def captions_of(captioner: ImageCaptioner, images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
    """The captions of pictures, in their order; each picture is asked about once ever and then found in the cache, by its pixels.

    What was captioned is kept at once, so a killed run loses a batch at most.

    Raises:
        BadInput: the cache cannot be read or written.
    """
    keys = [hashlib.sha256(repr(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()).hexdigest() for image in images]
    with Journal(cache_folder() / "captions" / f"{captioner.key}.sqlite", captioner.key) as known:
        texts = {key: found["caption"] for key in dict.fromkeys(keys) if (found := known.get(key)) is not None}
        new = [place for place, key in enumerate(keys) if key not in texts and key not in keys[:place]]
        for start in progress(range(0, len(new), captioner.batch_size), text=f"captioning {len(new)} pictures"):
            part = new[start : start + captioner.batch_size]
            for at, text in zip(part, captioner.captions(images[part]), strict=True):
                known.put(keys[at], {"caption": text})
                texts[keys[at]] = text
    return [texts[key] for key in keys]
