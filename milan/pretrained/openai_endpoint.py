"""Models behind an HTTP endpoint of OpenAI's chat protocol: OpenAI itself, vLLM, Ollama, llama.cpp and others."""

import asyncio
import ipaddress
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

from milan.console.text_cleaning import clean_text
from milan.errors import BadInput
from milan.pretrained.chat_images import make_data_url
from milan.pretrained.llm import Llm, LlmUnreachable, Message, Question, TemporaryFailure, Unanswered
from milan.storage.files import content_key

OPENAI_URL = "https://api.openai.com/v1"
PREFIX = "openai:"  # of the specs of models behind an endpoint
MAX_RESPONSE_BYTES = 2**20  # read of a response; an ordinary one has a few hundred bytes
SHOWN_CHARACTERS = 160  # of a response that an error message quotes
FATAL_STATUSES = {
    401: "the key is not accepted",
    403: "the key has no permission for this model",
    404: "there is no such model or no such address",
}
RETRY_STATUSES = {408, 409, 425, 429}  # retried, as are all statuses from 500 on
# Values of finish_reason by which some servers report an error.
ERROR_FINISH_REASONS = ("error", "abort", "insufficient_system_resource")


class OpenAiEndpoint(Llm):
    """A model behind an endpoint.

    The key is read from the environment when a request is sent; it is never stored, shown or logged.

    Args:
        name: name of the model at the endpoint.
        base_url: address of the endpoint; $OPENAI_BASE_URL, else OpenAI's own, by default.
        temperature: sampling temperature; the protocol's default is 1.
        longest: maximal length of a reply in tokens; a reply that is cut off there is not used.
        timeout: seconds for one request, from finding the server to the last byte of its reply.
        workers: maximal number of simultaneous requests.
        key_variable: environment variable that holds the key.
        extra: further fields of the request, such as {"top_p": 0.9}; null removes a field, such as {"max_tokens":
            null, "max_completion_tokens": 400} for models that require it.

    Raises:
        BadInput: a value is out of range, the address cannot be used, or OpenAI's own endpoint is meant and there is no
            key.
    """

    reads_images = True

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
        for option, value in (("timeout", timeout), ("longest", longest), ("workers", workers)):
            if value <= 0:
                raise BadInput(f"{option} is {value}; give more than 0")
        self.model, self.base_url = name, _normalize_url(base_url)
        self.name, self.workers, self.timeout, self.longest = f"{PREFIX}{name}", workers, timeout, longest
        self.temperature, self.key_variable, self.extra = temperature, key_variable, dict(extra or {})
        self._requests: set[Future[Any]] = set()
        self.key = content_key(
            llm=self.name, at=self.base_url, temperature=temperature, longest=longest, extra=self.extra
        )
        # Without a key the run must end now and not after the network was dissected.
        self._read_api_key()

    def answer(self, question: Question, attempt: int = 0) -> str:
        """Return the text of the endpoint's reply.

        Raises:
            BadInput: the endpoint rejects every request, for instance because of the key.
            TemporaryFailure: a further request may succeed.
            Unanswered: the request would fail again, or the reply has no text.
        """
        status, headers, body = self._send(question, attempt)
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

    def _send(self, question: Question, attempt: int) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of the response to a question."""
        body = {
            "model": self.model,
            "messages": [{"role": message.role, "content": _make_content(message)} for message in question.messages],
            "temperature": self.temperature,
            "max_tokens": self.longest,
            "seed": 1000 * question.sample_index + attempt,
            "response_format": _make_response_format(question.schema) if question.schema else None,
        } | self.extra
        key = self._read_api_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        sent = {name: value for name, value in body.items() if value is not None}
        request = asyncio.run_coroutine_threadsafe(self._post(sent, headers), _get_event_loop())
        self._requests.add(request)
        try:
            return request.result()
        except TimeoutError:
            raise TemporaryFailure(f"{self._label} gives no answer within {self.timeout:g} s") from None
        except CancelledError:
            raise TemporaryFailure(f"the request to {self._label} was cancelled") from None
        except httpx.ConnectError as error:
            raise LlmUnreachable(f"{self._label} cannot be reached: {self._redact(str(error))}") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise TemporaryFailure(
                f"{self._label} closes the connection: {type(error).__name__} {self._redact(str(error))}"
            ) from None
        finally:
            # A signal may have interrupted the wait.
            request.cancel()
            self._requests.discard(request)

    def stop(self) -> None:
        """Cancel all requests in progress."""
        for request in list(self._requests):
            request.cancel()

    async def _post(self, sent: dict[str, Any], headers: dict[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request and read its response within the time limit.

        Raises:
            Unanswered: the response is larger than ``MAX_RESPONSE_BYTES``.
        """
        parts, size, url = [], 0, f"{self.base_url}/chat/completions"
        async with asyncio.timeout(self.timeout):
            async with self._client.stream("POST", url, json=sent, headers=headers) as response:
                async for part in response.aiter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > MAX_RESPONSE_BYTES:
                        raise Unanswered(f"{self._label} answers with more than {MAX_RESPONSE_BYTES:,} bytes")
                return response.status_code, response.headers, b"".join(parts)

    def _extract_text(self, body: bytes, content_type: str) -> str:
        """Return the text of a response of status 200, or raise the reason why it has none."""
        try:
            response = json.loads(body)
        except (ValueError, RecursionError):
            raise TemporaryFailure(
                f"{self._label} answers with {clean_text(content_type) or 'something'} that is no JSON:"
                f" {self._format_body(body)}"
            ) from None
        if not isinstance(response, dict) or response.get("error"):
            raise TemporaryFailure(f"{self._label} answers with an error: {self._format_body(body)}")
        choices = response.get("choices")
        first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        message = first.get("message") if first else None
        if not first or not isinstance(message, dict):
            raise TemporaryFailure(f"{self._label} answers without any choice: {self._format_body(body)}")
        if message.get("refusal") or first.get("finish_reason") == "content_filter":
            reason = self._redact(str(message.get("refusal") or "its content filter stopped the reply"))
            raise Unanswered(f"{self._label} refuses: {reason}")
        if first.get("error") or first.get("finish_reason") in ERROR_FINISH_REASONS:
            raise TemporaryFailure(f"{self._label} answers with an error: {self._redact(json.dumps(first))}")
        text = _join_content(message.get("content"))
        if first.get("finish_reason") == "length":
            raise Unanswered(
                f"{self._label} reached the limit of {self.longest} tokens: {self._redact(text)}; raise longest"
            )
        if not text.strip():
            raise TemporaryFailure(f"{self._label} answers with an empty text")
        return text

    @property
    def _label(self) -> str:
        return f"{self.model} at {httpx.URL(self.base_url).host}"

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        # The time is limited by _post. Cookies are not kept: one with invalid characters would break later requests.
        limits, cookies = httpx.Limits(max_connections=self.workers), CookieJar(DefaultCookiePolicy(allowed_domains=[]))
        # What is for this machine must not leave it through a proxy that the environment names.
        proxies = not is_on_this_machine(self.base_url)
        return httpx.AsyncClient(
            timeout=None, limits=limits, cookies=cookies, follow_redirects=False, trust_env=proxies
        )

    def _read_api_key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not key and self.base_url == OPENAI_URL:
            raise BadInput(
                f"no key for {self.name}: set ${self.key_variable}, or give another endpoint as --settings.base_url"
            )
        if not key.isascii() or not key.isprintable():
            raise BadInput(f"the key in ${self.key_variable} has characters that no key can have; set it again")
        return key

    def _format_body(self, body: bytes) -> str:
        """Return what an error message quotes of a response: the server's own message where it has one."""
        text = body[: 8 * SHOWN_CHARACTERS].decode("utf-8", "replace")
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            error = json.loads(body)["error"]
            text = str(error.get("message") if isinstance(error, dict) else error)
        return self._redact(text)

    def _redact(self, text: str) -> str:
        """Return the text on one line, shortened, without the key, which some endpoints repeat."""
        key = os.environ.get(self.key_variable, "").strip()
        return clean_text(text.replace(key, "(the key)") if key else text)[:SHOWN_CHARACTERS]


def find_endpoint(spec: str, base_url: str = "") -> str:
    """Return the address that a model's spec sends its requests to; empty if the model runs in this process.

    >>> find_endpoint("openai:llava", "http://localhost:8000/v1/"), find_endpoint("hf:a/b")
    ('http://localhost:8000/v1', '')

    Raises:
        BadInput: the address cannot be used.
    """
    return _normalize_url(base_url) if spec.startswith(PREFIX) else ""


def is_on_this_machine(url: str) -> bool:
    """Return whether an address is a loopback address.

    >>> [is_on_this_machine(url) for url in ("http://localhost:1/v1", "http://[::1]:1", "http://127.0.0.1.example.org")]
    [True, True, False]
    """
    host = httpx.URL(url).host.rstrip(".").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _make_content(message: Message) -> str | list[dict[str, Any]]:
    """Return a message's content as the protocol has it: a text, or parts where there are images."""
    if not message.images:
        return message.text
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": make_data_url(part)}}
        for part in message.split_parts()
    ]


def _make_response_format(schema: str) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": json.loads(schema)}}


@cache
def _get_event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all endpoints, which runs in its own thread so that requests can be cancelled."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


def _normalize_url(base_url: str) -> str:
    address = (base_url or os.environ.get("OPENAI_BASE_URL", "") or OPENAI_URL).rstrip("/")
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, TypeError) as error:
        raise BadInput(f"the base_url cannot be parsed: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise BadInput(f"the base_url {address!r} is no address; give one such as http://localhost:8000/v1")
    if url.userinfo or url.query:
        raise BadInput(
            f"the base_url of {url.host} contains a password or a query, which would be stored with results; give the"
            " address without it"
        )
    return address


def _parse_retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None if it gives none."""
    with suppress(TypeError, ValueError):
        return max(0.0, float(header))  # type: ignore[arg-type]
    return None


def _join_content(content: Any) -> str:
    """Return a message's content as a text: of a list only the parts of type text (others are reasoning, or null)."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
