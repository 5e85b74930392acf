"""``LlmClient`` sends questions to a language model: replies are cached, failures retried, requests counted."""

import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from milan.console.progress import track_progress
from milan.console.text_cleaning import clean_text
from milan.errors import BadInput, require_at_least
from milan.pretrained.llm import Llm, LlmUnreachable, Question, TemporaryFailure, Unanswered
from milan.pretrained.llm_loading import load_llm
from milan.storage.files import cache_folder, content_key
from milan.storage.journal import Journal

T = TypeVar("T")
MAX_PAUSE = 60.0  # seconds between two requests for one question, whatever the server asks for
SHOWN_CHARACTERS = 80  # of a reply that an error message quotes
ENGLISH = "English"
CLIENT_OPTIONS = ("tries", "pause", "deadline", "language")  # of the client; all others are the model's
UNWORDED_TASKS = ("simulate",)  # tasks whose replies are numbers and need no language


class UnparsableReply(ValueError):
    """A reply that does not have the form that was asked for."""


@dataclass(frozen=True)
class NoAnswer:
    """What takes the place of an answer where a question has none."""

    reason: str


class CallBudget:
    """A number of requests that several clients share.

    Args:
        limit: maximal number of requests, repeated ones included; None for no limit.

    Raises:
        BadInput: the limit is below 0.
    """

    def __init__(self, limit: int | None = None):
        require_at_least(0, max_calls=limit)
        self.limit, self.calls = limit, 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Count one more request and return whether it is allowed; a refused request is not counted."""
        with self._lock:
            if self.limit is not None and self.calls >= self.limit:
                return False
            self.calls += 1
            return True


class LlmClient:
    """Sends questions to a language model.

    A reply is cached when it could be parsed; a question without an answer is asked again the next time. Every request
    counts, repeated ones too, but for those to programs that stand in for a model.

    Args:
        llm: the language model.
        max_calls: maximal number of requests in the life of this client, a budget to share with others, or None.
        tries: maximal number of requests for one question.
        pause: seconds before the second request; the pause doubles with each further one and varies by half of it.
        deadline: seconds for one question, pauses included, after which it is not tried again.
        language: English name of the language to answer in. English replies must be in Latin letters.

    Raises:
        BadInput: a value is out of range.
    """

    def __init__(
        self,
        llm: Llm,
        *,
        max_calls: int | CallBudget | None = None,
        tries: int = 4,
        pause: float = 1.0,
        deadline: float = 300.0,
        language: str = ENGLISH,
    ):
        if tries < 1 or pause < 0 or deadline <= 0:
            given = f"tries {tries}, pause {pause}, deadline {deadline}"
            raise BadInput(f"{given}: give at least 1, at least 0, and more than 0")
        self.llm, self.tries, self.pause, self.deadline, self.language = llm, tries, pause, deadline, language
        self.budget = max_calls if isinstance(max_calls, CallBudget) else CallBudget(max_calls)
        self._stopped, self._was_reached = threading.Event(), False
        # Only pauses are random: no answer depends on this generator.
        self._rng = random.Random()

    @property
    def key(self) -> str:
        """Content key of the model and the language, which the answers depend on."""
        return self.llm.key if self.language == ENGLISH else content_key(llm=self.llm.key, language=self.language)

    def ask(self, questions: Sequence[Question], parse: Callable[[str], T]) -> list[T | NoAnswer]:
        """Return what ``parse`` makes of each reply, in the questions' order.

        A signal or an error that interrupts it cancels all requests in progress.

        Args:
            questions: the questions; equal ones are asked once.
            parse: turns a reply into a value, or raises ``UnparsableReply``, after which the question is tried again.

        Raises:
            BadInput: no question can be answered: no key, an unknown model, no server, or images for a model that
                reads none.
        """
        if any(question.images for question in questions):
            self.require_images()
        self._stopped.clear()
        translated = [self._in_language(question) for question in questions]
        if not self.llm.is_cacheable:
            return [self._ask_one(question, parse)[1] for question in translated]
        answers: dict[Question, T | NoAnswer] = {}
        with Journal(cache_folder() / "replies" / f"{self.llm.key}.sqlite", self.llm.key) as journal:
            new = [
                question
                for question in dict.fromkeys(translated)
                if not _find_cached(journal, question, parse, answers)
            ]
            with closing(self._iter_answers(new, parse)) as replies:
                for question, reply, value in track_progress(
                    replies, total=len(new), description=f"asking {self.llm.name}"
                ):
                    if not isinstance(value, NoAnswer):
                        journal.put(question.key, {"reply": reply})
                    answers[question] = value
        return [answers[question] for question in translated]

    def require_images(self) -> None:
        """Raise ``BadInput`` if the model reads no images."""
        if not self.llm.reads_images:
            raise BadInput(f"{self.llm.name} reads no images; give openai:MODEL with a model that does, or diorama")

    def _iter_answers(
        self, questions: Sequence[Question], parse: Callable[[str], T]
    ) -> Generator[tuple[Question, str, T | NoAnswer], None, None]:
        """Yield each question with its reply and answer, in the order of arrival.

        Closing the generator cancels the requests in progress.
        """
        # A single worker is this thread, where a signal interrupts the request at once.
        if min(self.llm.workers, len(questions)) < 2:
            yield from ((question, *self._ask_one(question, parse)) for question in questions)
            return
        pool = ThreadPoolExecutor(self.llm.workers)
        waiting = {pool.submit(self._ask_one, question, parse): question for question in questions}
        try:
            for done in as_completed(waiting):
                yield waiting[done], *done.result()
        finally:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            # A worker may start a request just after the order to stop.
            while not all(each.done() for each in waiting):
                self.llm.stop()
                wait(waiting, timeout=0.05)

    def _in_language(self, question: Question) -> Question:
        """Return the question with the instruction in which language to answer, where the reply has words."""
        if self.language == ENGLISH or question.task in UNWORDED_TASKS or not question.messages:
            return question
        first, *others = question.messages
        return replace(question, messages=(first._replace(text=f"{first.text}\n\nAnswer in {self.language}."), *others))

    def _ask_one(self, question: Question, parse: Callable[[str], T]) -> tuple[str, T | NoAnswer]:
        """Return the reply and what ``parse`` makes of it; an empty reply and ``NoAnswer`` where there is none."""
        reason, end = "", time.monotonic() + self.deadline
        for attempt in range(1, self.tries + 1):
            if self._stopped.is_set():
                return "", NoAnswer("the run was stopped")
            if self.llm.is_cacheable and not self.budget.take():
                limit = f"all {self.budget.limit} requests that max_calls allows are used"
                return "", NoAnswer(f"{limit} ({reason})" if reason else limit)
            pause = self.pause * 2 ** (attempt - 1) * self._rng.uniform(0.5, 1.5)
            try:
                reply = self.llm.answer(question, attempt - 1)
                self._was_reached = True
                return reply, parse(reply)
            except UnparsableReply as error:
                quoted = clean_text(reply[: 4 * SHOWN_CHARACTERS])[:SHOWN_CHARACTERS]
                reason, pause = f"a reply of {self.llm.name} cannot be used: {error}: {quoted!r}", 0.0
            except LlmUnreachable as error:
                reason = str(error)
                if attempt == self.tries and not self._was_reached:
                    raise BadInput(
                        f"{reason} ({self.tries} tries); check --settings.base_url and whether a server runs there"
                    ) from None
            except TemporaryFailure as error:
                reason, pause = str(error), pause if error.retry_after is None else error.retry_after
            except Unanswered as error:
                return "", NoAnswer(str(error))
            except BadInput:
                self._stopped.set()
                raise
            pause = min(pause, MAX_PAUSE)
            if attempt == self.tries or time.monotonic() + pause > end:
                break
            self._stopped.wait(pause)
        return "", NoAnswer(f"{reason} ({attempt} tries)")


def load_llm_client(
    llm: str,
    *,
    base_url: str = "",
    max_calls: int | CallBudget | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> LlmClient:
    """Load a language model and return a client of it.

    Args:
        llm: spec of the model, see ``milan.pretrained.llm_loading.load_llm``.
        base_url: address of an endpoint.
        max_calls: maximal number of requests, or a budget to share with others.
        options: ``tries``, ``pause``, ``deadline`` and ``language`` of the client; all others are the model's.
        device: device of a model in this process.

    Raises:
        UnknownName: no such model or option.
        BadInput: the model or an option cannot be used.
    """
    given = dict(options or {})
    own = {name: given.pop(name) for name in CLIENT_OPTIONS if name in given}
    if llm in ("phrases", "diorama") and own.get("language", ENGLISH) != ENGLISH:
        raise BadInput(f"llm {llm} answers in English only, not in {own['language']}; give openai:MODEL or hf:MODEL")
    return LlmClient(load_llm(llm, base_url=base_url, device=device, options=given), max_calls=max_calls, **own)


def _find_cached(
    journal: Journal, question: Question, parse: Callable[[str], T], answers: dict[Question, T | NoAnswer]
) -> bool:
    """Put the cached answer into ``answers`` and return whether there is one that can be parsed."""
    cached = journal.get(question.key)
    if cached is None:
        return False
    try:
        answers[question] = parse(str(cached["reply"]))
    # It was cached by a version that accepted more.
    except UnparsableReply:
        return False
    return True
