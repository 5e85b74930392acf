"""The interface of language models: questions, replies and failures.

A model is an HTTP endpoint, a chat model of transformers in this process, or a program that stands in for one where
none is available. Ask it through ``milan.pretrained.llm_client``, which caches replies, retries, and limits the number
of requests.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from milan.errors import BadInput, MilanError
from milan.storage.files import content_key

Task = Literal["simplify", "summarize", "explain", "simulate", "describe", "caption"]
# Marks the place of an image in a message's text (OBJECT REPLACEMENT CHARACTER, Unicode's own sign for that).
IMAGE_MARK = "\ufffc"


class Message(NamedTuple):
    """One turn of a conversation.

    ``images`` are encoded files (JPEG or PNG); the i-th one stands at the i-th ``IMAGE_MARK`` of ``text``.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[bytes, ...] = ()

    def split_parts(self) -> list[str | bytes]:
        """Return texts and images in the order in which they are to be read; parts without text are left out.

        >>> Message("user", f"first: {IMAGE_MARK} second: {IMAGE_MARK}", (b"1", b"2")).split_parts()
        ['first:', b'1', 'second:', b'2']

        Raises:
            BadInput: the text has another number of marks than there are images.
        """
        texts = self.text.split(IMAGE_MARK)
        if len(texts) != len(self.images) + 1:
            raise BadInput(f"a message has {len(texts) - 1} places for {len(self.images)} images; check its prompt")
        parts: list[str | bytes] = [texts[0].strip()]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text.strip()]
        return [part for part in parts if part]


@dataclass(frozen=True)
class Question:
    """A conversation for a language model, and the same content as plain data for programs that stand in for one.

    Args:
        messages: the conversation; its last turn is the question.
        task: what the model is asked to do.
        items: the texts that the question is about, each with its integer (0 where they have none); of images what each
            one is, in their order.
        explanation: the explanation to predict from (task "simulate").
        sample_index: number of the sample among several replies to the same words.
        schema: JSON schema of the reply, as JSON text; empty for plain text.
    """

    messages: tuple[Message, ...]
    task: Task
    items: tuple[tuple[str, int], ...]
    explanation: str = ""
    sample_index: int = 0
    schema: str = ""

    @property
    def key(self) -> str:
        """Content key of everything that a model's reply depends on: words, images, sample and schema."""
        words = [
            [message.role, message.text, *(hashlib.sha256(image).hexdigest() for image in message.images)]
            for message in self.messages
        ]
        schema = {"schema": self.schema} if self.schema else {}
        return content_key(messages=words, draw=self.sample_index, **schema)

    @property
    def images(self) -> tuple[bytes, ...]:
        """All images of the conversation, in order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def text(self) -> str:
        """The conversation as one text, for logs and people."""
        return "\n\n".join(f"[{message.role}]\n{message.text}" for message in self.messages)


class Unanswered(MilanError):
    """A question has no answer, and the same request would fail again: a refusal, a truncated reply."""


class TemporaryFailure(Unanswered):
    """A question has no answer this time; a further request may succeed.

    Args:
        reason: what happened, on one line.
        retry_after: seconds to wait first, where the server says so.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class LlmUnreachable(TemporaryFailure):
    """No server accepts connections at the endpoint's address."""


class Llm(ABC):
    """A language model.

    Attributes:
        key: content key of everything that its replies depend on.
        name: its name in messages and tables.
        workers: maximal number of simultaneous requests.
        is_cacheable: whether replies are worth caching and counting (not those of a program that computes them at
            once).
        reads_images: whether it reads the images of a question; others must not be sent any.
        note: what a reader of its replies has to know, where that is not obvious; empty otherwise.
    """

    key: str
    name: str
    workers: int = 1
    is_cacheable: bool = True
    reads_images: bool = False
    note: str = ""

    @abstractmethod
    def answer(self, question: Question, attempt: int = 0) -> str:
        """Return the reply as it is, markup and reasoning included.

        Args:
            question: the question.
            attempt: number of earlier requests for it; a further attempt may sample another reply.

        Raises:
            Unanswered: there is no answer, or (``TemporaryFailure``) none this time.
            BadInput: no question can be answered, for example without a key or with an unknown model.
        """

    def stop(self) -> None:  # noqa: B027 (most models have nothing to stop)
        """Cancel the requests in progress, where that is possible. It is called from another thread than theirs."""
