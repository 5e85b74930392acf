"""Language models that are asked in words: an endpoint, a chat model in process, or, offline, a counter of phrases.

They are asked through ``milan.pretrained.llm_client``, which keeps replies, tries again, and bounds what is spent.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from milan.errors import BadInput, MilanError, UnknownName
from milan.storage.files import content_key

FAMILIES = ("phrases", "openai", "hf")
Task = Literal["simplify", "summarize", "explain", "simulate"]


class Message(NamedTuple):
    """One turn of a talk."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked: in the words that a language model reads, and as plain data for what counts and cannot read.

    messages: the whole talk, the last turn being the question; task: what is wanted; items: the texts it is about, each
    with its integer (0 where they have none); explanation: the explanation, where it is to be judged by; sample_index:
    which of several answers to the same words.
    """

    messages: tuple[Message, ...]
    task: Task
    items: tuple[tuple[str, int], ...]
    explanation: str = ""
    sample_index: int = 0

    @property
    def key(self) -> str:
        """Of the words and the draw: what a language model's answer depends on."""
        return content_key(messages=[list(message) for message in self.messages], draw=self.sample_index)

    @property
    def text(self) -> str:
        """The whole talk as one text, for a person to read."""
        return "\n\n".join(f"[{message.role}]\n{message.text}" for message in self.messages)


class Unanswered(MilanError):
    """There is no answer to one question, and asking again would not help: a refusal, an answer that was cut off."""


class TemporaryFailure(Unanswered):
    """There was no answer this time; asking again may help. ``retry_after``: seconds to wait first, where the other
    side says so.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class LlmUnreachable(TemporaryFailure):
    """Nobody is there to be asked."""


class Llm(ABC):
    """Answers questions.

    key: what its answers depend on; name: what people call it; workers: questions at a time; is_cacheable: whether
    answers are kept to be found again (they need not be where they cost nothing); note: what a reader of its answers
    has to know, where that is not plain.
    """

    key: str
    name: str
    workers: int = 1
    is_cacheable: bool = True
    note: str = ""

    @abstractmethod
    def answer(self, question: Question, attempt: int = 0) -> str:
        """The answer as it came, with whatever was written around it.

        attempt: how often it was asked before; another attempt may be answered otherwise.

        Raises:
            Unanswered: there is none, or (``TemporaryFailure``) none this time.
            BadInput: no question will be answered: no key, no such model.
        """

    def stop(self) -> None:  # noqa: B027 - most have nothing to end
        """End the requests that are under way, where that can be done; called from another thread than theirs."""


def load_llm(
    spec: str = "phrases", *, base_url: str = "", device: str = "cpu", options: Mapping[str, Any] | None = None
) -> Llm:
    """A language model by name or path.

    Args:
        spec: ``phrases`` (no language model, but a program that counts the phrases in what it is given; it needs
            nothing and costs nothing), ``openai:MODEL`` (any endpoint that speaks OpenAI's protocol: OpenAI, vLLM,
            Ollama, llama.cpp; the key is in the environment), ``hf:ID_OR_FOLDER`` (a chat model of transformers), or
            one of yours as ``PATH/FILE.py:NAME``, a class or function that is called without arguments.
        base_url: of the endpoint, as http://localhost:8000/v1; else that in the environment as OPENAI_BASE_URL, else
            OpenAI's own.
        device: where a model in process runs.
        options: further settings of the one chosen: temperature, longest and timeout, workers, key_variable and extra
            of an endpoint, precision of a model in process (``milan.pretrained.openai_endpoint.OpenAiEndpoint``,
            ``milan.pretrained.chat_model.ChatModel``).

    Raises:
        UnknownName: no such family or option.
        BadInput: the path leads to no such model, or an option cannot be used.
    """
    given = dict(options or {})
    if spec.rpartition(":")[0].endswith(".py"):
        return _load_custom(spec)
    family, _, name = spec.partition(":")
    if family not in FAMILIES or bool(name) == (family == "phrases"):
        raise UnknownName(
            "language model",
            spec,
            ["phrases", "openai:", "hf:"],
            "write phrases, openai:MODEL, hf:ID_OR_FOLDER or FILE.py:NAME",
        )
    if family == "phrases":
        from milan.pretrained.phrase_counter import PhraseCounter

        return PhraseCounter(**_check_options(PhraseCounter, given))
    if family == "openai":
        from milan.pretrained.openai_endpoint import OpenAiEndpoint

        return OpenAiEndpoint(name, base_url=base_url, **_check_options(OpenAiEndpoint, given))
    from milan.pretrained.chat_model import ChatModel

    return ChatModel(name, device=device, **_check_options(ChatModel, given))


def _check_options(cls: type[Llm], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, if the class takes them."""
    known = [
        name
        for name in inspect.signature(cls.__init__).parameters
        if name not in ("self", "name", "base_url", "device")
    ]
    for name in options:
        if name not in known:
            raise UnknownName(f"option of {cls.__name__}", name, known, f"it has: {', '.join(known) or 'none'}")
    return dict(options)


def _load_custom(spec: str) -> Llm:
    from milan.pretrained.model_sources import load_from_file  # needs torch, which an endpoint does not

    made = load_from_file(spec, "language model")
    if not isinstance(made, Llm):
        raise BadInput(f"{spec} makes a {type(made).__name__}; it must make a milan.pretrained.llm.Llm")
    return made
