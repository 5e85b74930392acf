"""Language models behind an endpoint that speaks OpenAI's protocol: OpenAI itself, vLLM, Ollama, llama.cpp and
others.
"""

import asyncio
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import cache, cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from milan.console.command_line import clean_text
from milan.errors import BadInput
from milan.pretrained.llm import Llm, LlmUnreachable, Question, TemporaryFailure, Unanswered
from milan.storage.files import content_key

OPENAI_URL = "https://api.openai.com/v1"
MAX_RESPONSE_BYTES = 2**20  # bytes of a response that are read: a sane one has a few hundred
SHOWN_CHARACTERS = 160  # signs of a response that an error shows
FATAL_STATUSES = {
    401: "the key is not accepted",
    403: "the key may not be used for it",
    404: "there is no such model or no such address",
}
RETRY_STATUSES = {408, 409, 425, 429}  # and all from 500 on: worth another try
# Reasons to finish that some servers give where something failed.
BROKEN = ("error", "abort", "insufficient_system_resource")


class OpenAiEndpoint(Llm):
    """A model behind an endpoint. The key is read from the environment when a question is sent, and nowhere kept, shown
    or logged.

    Args:
        name: of the model, as the endpoint calls it.
        base_url: of the endpoint; else $OPENAI_BASE_URL, else OpenAI's own.
        temperature: with which words are drawn; the protocol's default is 1.
        longest: tokens of an answer at most; one that is cut off there is no answer.
        timeout: seconds for one request, from finding the server to the last byte of its answer.
        workers: questions at a time.
        key_variable: the environment variable that holds the key.
        extra: further fields of the request, as {"top_p": 0.9}; one that is null takes a field out, as {"max_tokens":
            null, "max_completion_tokens": 400} for models that want it so.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str = "",
        temperature: float = 1.0,
        longest: int = 400,
        timeout: float = 60.0,
        workers: int = 4,
        key_variable: str = "OPENAI_API_KEY",
        extra: Mapping[str, Any] | None = None,
    ):
        for option, value in (("timeout", timeout), ("longest answer", longest), ("number of workers", workers)):
            if value <= 0:
                raise BadInput(f"a {option} of {value}; give more than 0")
        self.model, self.base_url = name, _normalize_url(base_url)
        self.name, self.workers, self.timeout, self.longest = f"openai:{name}", workers, timeout, longest
        self.temperature, self.key_variable, self.extra = temperature, key_variable, dict(extra or {})
        self._requests: set[Future[Any]] = set()
        self.key = content_key(
            llm=self.name, at=self.base_url, temperature=temperature, longest=longest, extra=self.extra
        )

    def answer(self, question: Question, attempt: int = 0) -> str:
        status, headers, body = self._sent(question, attempt)
        if status in FATAL_STATUSES:
            raise BadInput(
                f"{self._label} answers {status}: {FATAL_STATUSES[status]} (the key is taken from ${self.key_variable})"
            )
        if status != 200:
            reason = f"{self._label} answers {status}: {self._format_body(body)}"
            raise (
                TemporaryFailure(reason, _parse_retry_after(headers.get("retry-after")))
                if status in RETRY_STATUSES or status >= 500
                else Unanswered(reason)
            )
        return self._extract_text(body, headers.get("content-type", ""))

    def _sent(self, question: Question, attempt: int) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the response to a question."""
        body = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.text} for message in question.messages],
            "temperature": self.temperature,
            "max_tokens": self.longest,
            "seed": 1000 * question.sample_index + attempt,
        } | self.extra
        key = self._read_api_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        sent = {name: value for name, value in body.items() if value is not None}
        request = asyncio.run_coroutine_threadsafe(self._post(sent, headers), _loop())
        self._requests.add(request)
        try:
            return request.result()
        except TimeoutError:
            raise TemporaryFailure(f"{self._label} gives no answer within {self.timeout:g} s") from None
        except CancelledError:
            raise TemporaryFailure(f"{self._label} was not waited for") from None
        except httpx.ConnectError as error:
            raise LlmUnreachable(f"{self._label} cannot be reached: {self._redact(str(error))}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise TemporaryFailure(
                f"{self._label} breaks off: {type(error).__name__} {self._redact(str(error))}"
            ) from None
        finally:
            # A signal may have ended the wait.
            request.cancel()
            self._requests.discard(request)

    def stop(self) -> None:
        for request in list(self._requests):
            request.cancel()

    async def _post(self, sent: dict[str, Any], headers: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request and read the answer, as far as its size is allowed, within the time."""
        parts, size, url = [], 0, f"{self.base_url}/chat/completions"
        async with asyncio.timeout(self.timeout):
            async with self._client.stream("POST", url, json=sent, headers=headers) as response:
                async for part in response.aiter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > MAX_RESPONSE_BYTES:
                        raise Unanswered(f"{self._label} answers with more than {MAX_RESPONSE_BYTES:,} bytes")
                return response.status_code, response.headers, b"".join(parts)

    def _extract_text(self, body: bytes, kind: str) -> str:
        """The text in a response that was accepted."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise TemporaryFailure(
                f"{self._label} answers with no JSON but {clean_text(kind) or 'something else'}:"
                f" {self._format_body(body)}"
            ) from None
        if not isinstance(found, dict) or found.get("error"):
            raise TemporaryFailure(f"{self._label} answers with an error: {self._format_body(body)}")
        choices = found.get("choices")
        first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        message = first.get("message") if first else None
        if not first or not isinstance(message, dict):
            raise TemporaryFailure(f"{self._label} answers without any choice: {self._format_body(body)}")
        if message.get("refusal") or first.get("finish_reason") == "content_filter":
            raise Unanswered(f"{self._label} refuses: {self._redact(str(message.get('refusal') or 'its filter'))}")
        if first.get("error") or first.get("finish_reason") in BROKEN:
            raise TemporaryFailure(f"{self._label} answers with an error: {self._redact(json.dumps(first))}")
        text = _join_content(message.get("content"))
        if first.get("finish_reason") == "length":
            raise Unanswered(
                f"{self._label} was cut off after {self.longest} tokens: {self._redact(text)}; allow more as longest"
            )
        if not text.strip():
            raise TemporaryFailure(f"{self._label} answers with an empty text")
        return text

    @property
    def _label(self) -> str:
        return f"{self.model} at {httpx.URL(self.base_url).host}"

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        # The time is limited by _post. No cookie is kept: one of odd signs would make every further request fail.
        limits, cookies = httpx.Limits(max_connections=self.workers), CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        return httpx.AsyncClient(timeout=None, limits=limits, cookies=cookies, follow_redirects=False)

    def _read_api_key(self) -> str:
        found = os.environ.get(self.key_variable, "").strip()
        if not found and self.base_url == OPENAI_URL:
            raise BadInput(
                f"no key for {self.name}: put it into ${self.key_variable}, or name another --settings.base_url"
            )
        if not found.isascii() or not found.isprintable():
            raise BadInput(f"the key in ${self.key_variable} has signs that no key has")
        return found

    def _format_body(self, body: bytes) -> str:
        """What an error shows of a response: its own message where it has one."""
        text = body[: 8 * SHOWN_CHARACTERS].decode("utf-8", "replace")
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            error = json.loads(body)["error"]
            text = str(error.get("message") if isinstance(error, dict) else error)
        return self._redact(text)

    def _redact(self, text: str) -> str:
        """On one line, short, and without the key, which some endpoints repeat."""
        key = os.environ.get(self.key_variable, "").strip()
        return clean_text(text.replace(key, "(the key)") if key else text)[:SHOWN_CHARACTERS]


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all endpoints, in a thread of its own, where requests can be stopped at any moment."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


def _normalize_url(base_url: str) -> str:
    found = (base_url or os.environ.get("OPENAI_BASE_URL", "") or OPENAI_URL).rstrip("/")
    try:
        url = httpx.URL(found)
    except (httpx.InvalidURL, TypeError) as error:
        raise BadInput(f"the base_url cannot be read: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BadInput(f"the base_url {found!r} is no address; give one as http://localhost:8000/v1")
    if url.userinfo or url.query:
        raise BadInput(
            f"the base_url of {url.host} holds a password or a query, which would be kept with results; give the bare"
            " address"
        )
    return found


def _parse_retry_after(header: str | None) -> float | None:
    """What Retry-After says, where it gives seconds."""
    with suppress(TypeError, ValueError):
        return max(0.0, float(header))  # type: ignore[arg-type]
    return None


def _join_content(content: Any) -> str:
    """A message's content: a text, or parts of which some are texts (others are thoughts, or null)."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
