"""Asking a language model: each question once ever, tried again where that may help, and never more often than allowed."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, TypeVar

from milan.command import clean
from milan.errors import BadInput
from milan.pretrained.llm import Llm, Passing, Question, Unanswered, Unreachable, load_llm
from milan.progress import progress
from milan.storage import Journal, cache_folder

T = TypeVar("T")
LONGEST_PAUSE = 60.0  # seconds, whatever the other side asks for
SHOWN = 80


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
    """

    def __init__(self, llm: Llm, *, max_calls: int | None = None, tries: int = 4, pause: float = 1.0):
        if tries < 1 or (max_calls is not None and max_calls < 0) or pause < 0:
            raise BadInput(f"max_calls {max_calls}, tries {tries}, pause {pause}: give at least 0, 1 and 0")
        self.llm, self.max_calls, self.tries, self.pause = llm, max_calls, tries, pause
        self.calls = 0
        self._lock, self._heard = threading.Lock(), False
        self._dice = random.Random()  # of the pauses alone: no answer depends on it

    def ask(self, questions: Sequence[Question], read: Callable[[str], T]) -> list[T | NoAnswer]:
        """What ``read`` makes of the answers, in the questions' order.

        Args:
            read: raises ``Unreadable`` for what is not of the form that was asked for.

        Raises:
            BadInput: no question can be answered: no key, no such model, nobody there.
        """
        if not self.llm.kept:
            return [self._one(question, read)[1] for question in questions]
        found: dict[Question, T | NoAnswer] = {}
        with Journal(cache_folder() / "replies" / f"{self.llm.key}.sqlite", self.llm.key) as kept:
            new = [question for question in dict.fromkeys(questions) if not _known(kept, question, read, found)]
            pool = ThreadPoolExecutor(self.llm.workers)
            try:
                waiting: dict[Future[tuple[str, T | NoAnswer]], Question] = {pool.submit(self._one, each, read): each for each in new}
                for done in progress(as_completed(waiting), total=len(waiting), text=f"asking {self.llm.name}"):
                    reply, value = done.result()
                    if not isinstance(value, NoAnswer):
                        kept.put(waiting[done].key, {"reply": reply})
                    found[waiting[done]] = value
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return [found[question] for question in questions]

    def _one(self, question: Question, read: Callable[[str], T]) -> tuple[str, T | NoAnswer]:
        """The answer as it came, and what it says."""
        reason = ""
        for attempt in range(self.tries):
            if not self._may():
                told = f"the {self.max_calls} calls that max_calls allows are used up"
                return "", NoAnswer(f"{told} ({reason})" if reason else told)
            wait = self.pause * 2**attempt * self._dice.uniform(0.5, 1.5)
            try:
                reply = self.llm.answer(question, attempt)
                self._heard = True
                return reply, read(reply)
            except Unreadable as error:
                reason, wait = f"{self.llm.name} answers what cannot be read: {error}: {clean(reply)[:SHOWN]!r}", 0.0
            except Unreachable as error:
                reason = str(error)
                if attempt == self.tries - 1 and not self._heard:
                    raise BadInput(f"{reason} ({self.tries} tries); look at --settings.base_url, or whether it runs") from None
            except Passing as error:
                reason, wait = str(error), wait if error.after is None else error.after
            except Unanswered as error:
                return "", NoAnswer(str(error))
            if attempt < self.tries - 1:
                time.sleep(min(wait, LONGEST_PAUSE))
        return "", NoAnswer(f"{reason} ({self.tries} tries)")

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
    """An asker of the language model that ``llm`` names; ``options`` are of both, ``tries`` and ``pause`` the asker's."""
    given = dict(options or {})
    own = {name: given.pop(name) for name in ("tries", "pause") if name in given}
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
