"""Asking a language model: each question once ever, tried again where that may help, and never more often than
allowed.
"""

import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from milan.console.command_line import clean_text
from milan.console.progress import track_progress
from milan.errors import BadInput
from milan.pretrained.llm import Llm, LlmUnreachable, Question, TemporaryFailure, Unanswered, load_llm
from milan.storage.files import Journal, cache_folder, content_key

T = TypeVar("T")
MAX_PAUSE = 60.0  # seconds, whatever the other side asks for
SHOWN_CHARACTERS = 80
ENGLISH = "English"


class UnparsableReply(ValueError):
    """An answer that is not of the form that was asked for."""


@dataclass(frozen=True)
class NoAnswer:
    """A question without an answer, and why."""

    reason: str


class LlmClient:
    """Asks a language model.

    An answer is kept when it could be read; a question that had none is asked again the next time. Every request
    counts, repeated ones too.

    Args:
        llm: whom.
        max_calls: requests at most, in the life of this asker; without end if None.
        tries: requests for one question at most.
        pause: seconds before the second request; each further one waits twice as long, and everyone a little
            differently.
        deadline: seconds for one question, its pauses included, after which it is not tried again.
        language: what to answer in, by its English name. Where it is English, only Latin letters are accepted.
    """

    def __init__(
        self,
        llm: Llm,
        *,
        max_calls: int | None = None,
        tries: int = 4,
        pause: float = 1.0,
        deadline: float = 300.0,
        language: str = ENGLISH,
    ):
        if tries < 1 or (max_calls is not None and max_calls < 0) or pause < 0 or deadline <= 0:
            told = f"max_calls {max_calls}, tries {tries}, pause {pause}, deadline {deadline}"
            raise BadInput(f"{told}: give at least 0, 1 and 0, and more than 0")
        self.llm, self.max_calls, self.tries, self.pause = llm, max_calls, tries, pause
        self.deadline, self.language = deadline, language
        self.calls = 0
        self._lock, self._stopped, self._was_reached = threading.Lock(), threading.Event(), False
        self._rng = random.Random()  # of the pauses alone: no answer depends on it

    @property
    def key(self) -> str:
        """What the answers depend on."""
        return self.llm.key if self.language == ENGLISH else content_key(llm=self.llm.key, language=self.language)

    def ask(self, questions: Sequence[Question], parse: Callable[[str], T]) -> list[T | NoAnswer]:
        """What ``parse`` makes of the answers, in the questions' order.

        Whatever ends it early, a signal or an error, stops all requests that are under way.

        Args:
            parse: raises ``UnparsableReply`` for what is not of the form that was asked for.

        Raises:
            BadInput: no question can be answered: no key, no such model, nobody there.
        """
        self._stopped.clear()
        asked = [self._in_language(question) for question in questions]
        if not self.llm.is_cacheable:
            return [self._ask_one(question, parse)[1] for question in asked]
        found: dict[Question, T | NoAnswer] = {}
        with Journal(cache_folder() / "replies" / f"{self.llm.key}.sqlite", self.llm.key) as kept:
            new = [question for question in dict.fromkeys(asked) if not _find_cached(kept, question, parse, found)]
            with closing(self._answers(new, parse)) as answers:
                for question, reply, value in track_progress(
                    answers, total=len(new), description=f"asking {self.llm.name}"
                ):
                    if not isinstance(value, NoAnswer):
                        kept.put(question.key, {"reply": reply})
                    found[question] = value
        return [found[question] for question in asked]

    def _answers(
        self,
        questions: Sequence[Question],
        read: Callable[[str], T],
    ) -> Generator[tuple[Question, str, T | NoAnswer], None, None]:
        """Each question with its answer, as they come. Whatever ends it stops the requests that are under way."""
        if min(self.llm.workers, len(questions)) < 2:  # in this thread, where a signal is heard at once
            yield from ((question, *self._ask_one(question, read)) for question in questions)
            return
        pool = ThreadPoolExecutor(self.llm.workers)
        waiting = {pool.submit(self._ask_one, question, read): question for question in questions}
        try:
            for done in as_completed(waiting):
                yield waiting[done], *done.result()
        finally:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(each.done() for each in waiting):  # one may begin a request just after it was told to stop
                self.llm.stop()
                wait(waiting, timeout=0.05)

    def _in_language(self, question: Question) -> Question:
        """The question with what to answer in, but for integers."""
        if self.language == ENGLISH or question.task == "simulate" or not question.messages:
            return question
        first, *others = question.messages
        return replace(question, messages=(first._replace(text=f"{first.text}\n\nAnswer in {self.language}."), *others))

    def _ask_one(self, question: Question, parse: Callable[[str], T]) -> tuple[str, T | NoAnswer]:
        """The answer as it came, and what it says."""
        reason, ends = "", time.monotonic() + self.deadline
        for attempt in range(1, self.tries + 1):
            if self._stopped.is_set():
                return "", NoAnswer("the run was stopped")
            if not self._count_call():
                limit = f"the {self.max_calls} calls that max_calls allows are used up"
                return "", NoAnswer(f"{limit} ({reason})" if reason else limit)
            pause = self.pause * 2 ** (attempt - 1) * self._rng.uniform(0.5, 1.5)
            try:
                reply = self.llm.answer(question, attempt - 1)
                self._was_reached = True
                return reply, parse(reply)
            except UnparsableReply as error:
                shown = clean_text(reply[: 4 * SHOWN_CHARACTERS])[:SHOWN_CHARACTERS]
                reason, pause = f"{self.llm.name} answers what cannot be read: {error}: {shown!r}", 0.0
            except LlmUnreachable as error:
                reason = str(error)
                if attempt == self.tries and not self._was_reached:
                    raise BadInput(
                        f"{reason} ({self.tries} tries); look at --settings.base_url, or whether it runs"
                    ) from None
            except TemporaryFailure as error:
                reason, pause = str(error), pause if error.retry_after is None else error.retry_after
            except Unanswered as error:
                return "", NoAnswer(str(error))
            except BadInput:
                self._stopped.set()
                raise
            pause = min(pause, MAX_PAUSE)
            if attempt == self.tries or time.monotonic() + pause > ends:
                break
            self._stopped.wait(pause)
        return "", NoAnswer(f"{reason} ({attempt} tries)")

    def _count_call(self) -> bool:
        """Whether one more request is allowed; it is counted."""
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                return False
            self.calls += 1
            return True


def load_llm_client(
    llm: str,
    *,
    base_url: str = "",
    max_calls: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> LlmClient:
    """An asker of the language model that ``llm`` names.

    options: ``tries``, ``pause``, ``deadline`` and ``language`` of the asker; all others are the model's.
    """
    given = dict(options or {})
    own = {name: given.pop(name) for name in ("tries", "pause", "deadline", "language") if name in given}
    if llm == "phrases" and own.get("language", ENGLISH) != ENGLISH:
        raise BadInput(f"llm phrases cannot answer in {own['language']}; give openai:MODEL or hf:MODEL, or no language")
    return LlmClient(load_llm(llm, base_url=base_url, device=device, options=given), max_calls=max_calls, **own)


def _find_cached(
    journal: Journal, question: Question, parse: Callable[[str], T], answers: dict[Question, T | NoAnswer]
) -> bool:
    """Whether the answer was kept and can still be read; then it is put into ``answers``."""
    before = journal.get(question.key)
    if before is None:
        return False
    try:
        answers[question] = parse(str(before["reply"]))
    except UnparsableReply:  # it is read more strictly now
        return False
    return True
