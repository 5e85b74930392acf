"""Asking a language model: each question once ever, tried again where that may help, and never more often than allowed."""

import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from milan.command import clean
from milan.errors import BadInput
from milan.pretrained.llm import Llm, Passing, Question, Unanswered, Unreachable, load_llm
from milan.progress import progress
from milan.storage import Journal, cache_folder, content_key

T = TypeVar("T")
LONGEST_PAUSE = 60.0  # seconds, whatever the other side asks for
SHOWN = 80
ENGLISH = "English"


class Unreadable(ValueError):
    """An answer that is not of the form that was asked for."""


@dataclass(frozen=True)
class NoAnswer:
    """A question without an answer, and why."""

    reason: str


class Asker:
    """Asks a language model.

    An answer is kept when it could be read; a question that had none is asked again the next time. Every request counts, repeated ones too.

    Args:
        llm: whom.
        max_calls: requests at most, in the life of this asker; without end if None.
        tries: requests for one question at most.
        pause: seconds before the second request; each further one waits twice as long, and everyone a little differently.
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
        self._lock, self._stopped, self._heard = threading.Lock(), threading.Event(), False
        self._dice = random.Random()  # of the pauses alone: no answer depends on it

    @property
    def key(self) -> str:
        """What the answers depend on."""
        return self.llm.key if self.language == ENGLISH else content_key(llm=self.llm.key, language=self.language)

    def ask(self, questions: Sequence[Question], read: Callable[[str], T]) -> list[T | NoAnswer]:
        """What ``read`` makes of the answers, in the questions' order.

        Whatever ends it early, a signal or an error, stops all requests that are under way.

        Args:
            read: raises ``Unreadable`` for what is not of the form that was asked for.

        Raises:
            BadInput: no question can be answered: no key, no such model, nobody there.
        """
        self._stopped.clear()
        asked = [self._in_language(question) for question in questions]
        if not self.llm.kept:
            return [self._one(question, read)[1] for question in asked]
        found: dict[Question, T | NoAnswer] = {}
        with Journal(cache_folder() / "replies" / f"{self.llm.key}.sqlite", self.llm.key) as kept:
            new = [question for question in dict.fromkeys(asked) if not _known(kept, question, read, found)]
            with closing(self._answers(new, read)) as answers:
                for question, reply, value in progress(answers, total=len(new), text=f"asking {self.llm.name}"):
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
            yield from ((question, *self._one(question, read)) for question in questions)
            return
        pool = ThreadPoolExecutor(self.llm.workers)
        waiting = {pool.submit(self._one, question, read): question for question in questions}
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

    def _one(self, question: Question, read: Callable[[str], T]) -> tuple[str, T | NoAnswer]:
        """The answer as it came, and what it says."""
        reason, ends = "", time.monotonic() + self.deadline
        for attempt in range(1, self.tries + 1):
            if self._stopped.is_set():
                return "", NoAnswer("the run was stopped")
            if not self._may():
                told = f"the {self.max_calls} calls that max_calls allows are used up"
                return "", NoAnswer(f"{told} ({reason})" if reason else told)
            pause = self.pause * 2 ** (attempt - 1) * self._dice.uniform(0.5, 1.5)
            try:
                reply = self.llm.answer(question, attempt - 1)
                self._heard = True
                return reply, read(reply)
            except Unreadable as error:
                shown = clean(reply[: 4 * SHOWN])[:SHOWN]
                reason, pause = f"{self.llm.name} answers what cannot be read: {error}: {shown!r}", 0.0
            except Unreachable as error:
                reason = str(error)
                if attempt == self.tries and not self._heard:
                    raise BadInput(f"{reason} ({self.tries} tries); look at --settings.base_url, or whether it runs") from None
            except Passing as error:
                reason, pause = str(error), pause if error.after is None else error.after
            except Unanswered as error:
                return "", NoAnswer(str(error))
            except BadInput:
                self._stopped.set()
                raise
            pause = min(pause, LONGEST_PAUSE)
            if attempt == self.tries or time.monotonic() + pause > ends:
                break
            self._stopped.wait(pause)
        return "", NoAnswer(f"{reason} ({attempt} tries)")

    def _may(self) -> bool:
        """Whether one more request is allowed; it is counted."""
        with self._lock:
            if self.max_calls is not None and self.calls >= self.max_calls:
                return False
            self.calls += 1
            return True


def asker_for(
    llm: str, *, base_url: str = "", max_calls: int | None = None, options: Mapping[str, Any] | None = None, device: str = "cpu"
) -> Asker:
    """An asker of the language model that ``llm`` names.

    options: ``tries``, ``pause``, ``deadline`` and ``language`` of the asker; all others are the model's.
    """
    given = dict(options or {})
    own = {name: given.pop(name) for name in ("tries", "pause", "deadline", "language") if name in given}
    if llm == "phrases" and own.get("language", ENGLISH) != ENGLISH:
        raise BadInput(f"llm phrases cannot answer in {own['language']}; give openai:MODEL or hf:MODEL, or no language")
    return Asker(load_llm(llm, base_url=base_url, device=device, options=given), max_calls=max_calls, **own)


def _known(kept: Journal, question: Question, read: Callable[[str], T], found: dict[Question, T | NoAnswer]) -> bool:
    """Whether the answer was kept and can still be read; then it is put into ``found``."""
    before = kept.get(question.key)
    if before is None:
        return False
    try:
        found[question] = read(str(before["reply"]))
    except Unreadable:  # it is read more strictly now
        return False
    return True
