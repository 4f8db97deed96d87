"""Requests to a server with OpenAI's API: many at a time, and sent again after a temporary failure."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from http import HTTPStatus
from importlib.metadata import version
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from docmill.storage.core.specs import Reason, Spec
from docmill.tasks import tracing
from docmill.tasks.backends import WindowSource
from docmill.tasks.backends.remote import answers
from docmill.tasks.backends.remote.answers import ContentRefused, Passing
from docmill.tasks.backends.remote.journal import Journal
from docmill.tasks.backends.remote.limiter import Limiter
from docmill.tasks.backends.static import Items
from docmill.tasks.batching import UNBOUNDED, Budget
from docmill.tasks.errors import CannotServe, EngineStopped, ServerAway, ServerUnreachable
from docmill.tasks.models.weightless import Server
from docmill.tasks.outputs import Failure, Output
from docmill.tasks.tracing import Attributes, TraceSpan, Value

T = TypeVar("T")
Question = tuple[str, Mapping[str, Any], Callable[[Any], Any]]  # a path, the body, and the reader of the answer

_CONNECT_S = 10.0
_LOOK_S = 30.0  # for a look at the server's models
_MOST_PAUSE_S, _MOST_DOUBLINGS = 60.0, 32
# The most tries of a request while the server answers others; then its document fails. Malformed answers cost money.
_MOST_TRIES, _MOST_PAID = 8, 3
_MOST_BYTES = 32 * 2**20  # of an answer; sixteen long outputs with their log-probabilities take seven million
# Seconds to wait for an answer before asking the source again: with room for more requests, and without room.
_SOME_S, _FULL_S = 0.05, 1.0
HEADER = "Idempotency-Key"  # lets a server recognize a request that it has answered
_OPERATIONS = {"/chat/completions": "chat", "/embeddings": "embeddings"}


class Client:
    """A connection to a server, with an event loop on a thread of its own.

    One other thread uses the client. The requests are for ``spec``. ``hints`` are parts of requests that a server may
    refuse.

    After too many failures with a text, the client asks the ``control`` question, which is short and has an answer.
    If the server answers it, the text has failed. If not, the server is away.
    """

    def __init__(
        self,
        server: Server,
        spec: Spec,
        control: Question,
        *,
        hints: frozenset[str] = frozenset(),
    ) -> None:
        self.limiter = Limiter(server.requests, time.monotonic)
        self._numbers = count()  # of requests
        self._server = server
        self._spec = spec
        self._control = control
        self._controlling: asyncio.Task[bool] | None = None
        self._hints = hints
        self._lacks: frozenset[str] = frozenset()
        self._heard = time.monotonic()
        self._answered = 0
        self._finished: queue.SimpleQueue[tuple[int, Any] | ServerAway] = queue.SimpleQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent_tasks: set[asyncio.Task[Any] | None] = set()  # their requests are at the server
        self._ending = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote", daemon=True)
        self._thread.start()
        self._session: aiohttp.ClientSession = self._wait_for(self._connect())

    @property
    def room(self) -> int:
        """The number of requests in progress, of which some always wait for a place."""
        return 2 * self.limiter.limit

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer. Raises CannotServe if there is none."""
        return self._wait_for(self._get(path))

    def post(self, question: Question) -> Any:
        """Send a request once, and return the answer. Raises CannotServe."""
        try:
            return self._wait_for(self._attempt(question, None))
        except (ServerAway, ContentRefused, Passing) as error:
            raise answers.refusal(error, self._server) from error

    def begin(self, question: Question) -> int:
        """Begin a request, and return its number. ``finished`` returns the number with the answer as it was read."""
        number = next(self._numbers)
        self._loop.call_soon_threadsafe(self._spawn, number, question)
        return number

    def finished(self, wait_s: float) -> list[tuple[int, Any]]:
        """Wait for an answer, and return all answers so far. A Failure belongs to a document.

        None stands for a request that was given up or never sent after ``end_soon``. Raises ServerAway if the server
        refuses all requests, or has answered nothing for too long.
        """
        results: list[tuple[int, Any]] = []
        try:
            result = self._finished.get(timeout=wait_s)
            while True:
                if isinstance(result, ServerAway):
                    if not results:
                        raise result
                    self._finished.put(result)  # first return the answers before the error
                    return results
                results.append(result)
                result = self._finished.get_nowait()
        except queue.Empty:
            return results

    def end_soon(self) -> None:
        """Drop pauses, retries and new requests. Wait only for requests that are at the server."""
        self._loop.call_soon_threadsafe(self._drop)

    def close(self) -> None:
        """Cancel the requests under way, and close the connection."""
        self._wait_for(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # The methods below run on the event loop, except ``_wait_for``.

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> aiohttp.ClientSession:
        key = self._server.api_key
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._server.answer_s, sock_connect=_CONNECT_S),
            headers={
                "Content-Type": "application/json",
                "User-Agent": f"docmill/{version('docmill')}",
                **({} if key is None else {"Authorization": f"Bearer {key}"}),
            },
        )

    async def _end(self) -> None:
        tasks = [*self._tasks, *([] if self._controlling is None else [self._controlling])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def _drop(self) -> None:
        self._ending = True
        for task in self._tasks - self._sent_tasks:
            task.cancel()

    async def _get(self, path: str) -> tuple[int, bytes]:
        url, timeout = self._server.endpoint + path, aiohttp.ClientTimeout(total=_LOOK_S, sock_connect=_CONNECT_S)
        try:
            async with self._session.get(url, allow_redirects=False, timeout=timeout) as response:
                return response.status, await _read(response)
        except Passing as error:
            raise CannotServe(f"{self._server.endpoint}: {error}: correct --endpoint or DOCMILL_ENDPOINT.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerUnreachable(
                f"The server {self._server.endpoint} does not answer ({answers.named(error)}): start it, or correct "
                "--endpoint or DOCMILL_ENDPOINT."
            ) from error

    def _spawn(self, number: int, question: Question) -> None:
        if self._ending:
            self._finished.put((number, None))
            return
        task = self._loop.create_task(self._carry_out(number, question))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # perhaps before its first step
                self._finished.put((number, None))

        task.add_done_callback(ended)

    async def _carry_out(self, number: int, question: Question) -> None:
        try:
            answer = await self._answer(question)
        except ServerAway as away:
            self._finished.put(away)
        except (ContentRefused, Passing) as error:
            given_up = self._ending and isinstance(error, Passing)
            self._finished.put((number, None if given_up else self._make_failure(error)))
        except Exception as error:  # a bug fails one window; otherwise the window would wait for ever
            reason = f"Asking the server raised {type(error).__name__}."
            self._finished.put((number, Failure(reason, Reason.MODEL)))
        else:
            self._finished.put((number, answer))

    def _make_failure(self, error: ContentRefused | Passing) -> Failure:
        if isinstance(error, Passing) and error.advice is None:
            times = "once" if error.tries == 1 else f"{error.tries} times"
            return Failure(f"The server failed {times} at this text: {error}.", Reason.TRANSIENT)
        return Failure(f"The server refuses this text: {error}.", Reason.DOCUMENT if self._answered else Reason.MODEL)

    async def _answer(self, question: Question) -> Any:
        """Send a request until it has an answer or its text has failed. Raises ServerAway."""
        begun, tries, paid = time.monotonic(), 0, 0
        key = None if self._server.journal is None else RequestKey(self._spec)
        doubted: Passing | None = None  # the failure before the last try, while the server answers others
        while True:
            try:
                return await self._attempt(question, key)
            except Passing as passing:
                error = passing
            tries += 1
            paid += error.paid
            error.tries = tries
            if self._ending or paid >= _MOST_PAID:
                raise error
            if doubted is not None and error.throttles <= doubted.throttles:
                raise error
            doubted = None
            silence_s, patience_s = time.monotonic() - max(begun, self._heard), self._server.patience_s
            waits = (error.wait_s or 0.0) > patience_s
            ends = error.advice is not None or waits or silence_s > patience_s
            # An overload does not fail a text before patience ends. A last try follows the control question, since
            # the server may have come back in between.
            if ends or not (error.throttles or tries < _MOST_TRIES - 1):
                if not waits and await self._is_serving():
                    doubted = error
                elif ends:
                    raise answers.away(error, self._server, silence_s) from error
            await asyncio.sleep(max(self._usual_pause_s(tries), error.wait_s or 0.0))

    def _usual_pause_s(self, tries: int) -> float:
        """Return a random pause. Its limit doubles with each try."""
        most_s = min(_MOST_PAUSE_S, self._server.first_wait_s * 2 ** min(tries - 1, _MOST_DOUBLINGS))
        return random.uniform(0.0, most_s)  # noqa: S311 - no secret

    async def _is_serving(self) -> bool:
        """Return True if the server answers the control question. All texts share one such request."""
        if self._controlling is None or self._controlling.done():
            self._controlling = self._loop.create_task(self._answers_control())
        return await asyncio.shield(self._controlling)

    async def _answers_control(self) -> bool:
        try:
            async with asyncio.timeout(max(_LOOK_S, self._server.patience_s)):
                await self._attempt(self._control, None)
        except ContentRefused:  # for example since the limit is too short: the server has read it
            return True
        except (Passing, ServerAway, TimeoutError):
            return False
        return True

    async def _attempt(self, question: Question, key: RequestKey | None) -> Any:
        """Send a request. If the server refuses an optional part, send it again without that part."""
        path, body, read = question
        while True:
            request = answers.without(body, self._lacks)
            try:
                return await self._sent(path, request, read, key)
            except ContentRefused as refused:
                lacking = answers.lacking(refused, request, self._hints)
                if not lacking:
                    raise
                self._lacks |= lacking

    async def _sent(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], key: RequestKey | None) -> T:
        sent = orjson.dumps(body)
        headers = {} if key is None else key.headers(path, sent)
        async with self.limiter.place() as changes:
            with request_span(path, body, self._server.endpoint) as span:
                try:
                    status, answer_headers, raw = await self._post(path, sent, headers)
                except (aiohttp.ClientError, OSError) as error:
                    slow = isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ServerTimeoutError)
                    if isinstance(error, TimeoutError):
                        self.limiter.overloaded(changes)
                    limit = f"no answer within {self._server.answer_s:g} s (DOCMILL_ENDPOINT_ANSWER_S)"
                    raise Passing(limit if slow else answers.named(error)) from error
                if status == HTTPStatus.OK:
                    parsed, is_parsed = None, False
                    try:
                        parsed, is_parsed = answers.parse(raw), True
                        answer = read(parsed)
                        span.set(usage_of(parsed))
                    except (ValueError, LookupError, TypeError, AttributeError) as error:
                        if key is not None:
                            key.renew()
                        is_error = isinstance(parsed, dict) and "error" in parsed
                        words = answers.words_of(raw, body, self._server) if is_error else ""
                        form = "half an answer, or one of another form" + (f" ({words})" if words else "")
                        raise Passing(form, paid=is_parsed) from error
                    self._heard, self._answered = time.monotonic(), self._answered + 1
                    self.limiter.answered()
                    return answer
                failed = answers.error_of(status, answer_headers, raw, body, self._server)
                if isinstance(failed, Passing):
                    if failed.throttles:
                        self.limiter.overloaded(changes)
                        self.limiter.pause(failed.wait_s or 0.0)
                    elif key is not None and status != HTTPStatus.CONFLICT:  # conflict: the request is in progress
                        key.renew()
                raise failed

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of the answer to a request."""
        task = asyncio.current_task()
        self._sent_tasks.add(task)
        try:
            url = self._server.endpoint + path
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, await _read(response)
        finally:
            self._sent_tasks.discard(task)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer. Raises Passing for a body that is too large, before it is in memory."""
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > _MOST_BYTES:
            raise Passing(f"an answer of more than {_MOST_BYTES // 2**20} MiB", paid=True)
    return bytes(raw)


class RequestKey:
    """The key of one request. In any process, the same request under the same spec has the same key.

    After a failed answer, `renew` sets a random key: servers would repeat that answer, too.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec.sha256
        self._renewed = b""

    def headers(self, path: str, body: bytes) -> dict[str, str]:
        """Return the header for a request with this path and this body."""
        whole = hashlib.sha256(self._spec + path.encode() + b"\0" + body + self._renewed)
        return {HEADER: f"docmill-{whole.hexdigest()[:40]}"}

    def renew(self) -> None:
        """Change the key, so that the server takes later requests for new ones."""
        self._renewed = secrets.token_bytes(16)


def request_span(path: str, body: Mapping[str, Any], endpoint: str) -> AbstractContextManager[TraceSpan]:
    """Record a request as a child of the batch on the device, if there is one."""
    operation, model = _OPERATIONS[path], str(body.get("model"))
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    server: dict[str, Value] = {"gen_ai.provider.name": "openai", "server.address": parts.hostname or ""}
    about = tracing.model_use(operation, model) | server | {"server.port": port}
    return tracing.span(f"{operation} {model}", about, kind="client", parent=tracing.current_batch())


def usage_of(answer: Mapping[str, Any]) -> Attributes:
    """Return the tokens that a server states for an answer, read and written."""
    usage = answer.get("usage")
    names = {"prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens"}
    counts = {name: answers.token_count(usage, stated) for stated, name in names.items()}
    return {name: count for name, count in counts.items() if count is not None}


class Flight:
    """Sends windows with a client, at most ``most`` in a request, and takes the answers.

    ``question`` returns the request for some windows. Its answer has the outputs in the same order. Windows with an
    answer in the journal are not sent.
    """

    def __init__(
        self, client: Client, journal: Journal, question: Callable[[Items], Question], most: int = 1
    ) -> None:
        self._client = client
        self._journal = journal
        self._question = question
        self._most = most
        self._under_way: dict[int, Items] = {}

    def run(self, source: WindowSource) -> Iterator[tuple[int, Output]]:
        """Yield the outputs of the source's windows until it has no more.

        Raises ServerAway, and EngineStopped if the client dropped windows after ``end_soon``.
        """
        dropped = False
        while True:
            room = max(0, self._client.room - len(self._under_way))
            taken = source.take(Budget(tokens=UNBOUNDED, rows=room * self._most, spread=UNBOUNDED, packed=True))
            known = self._journal.find([item.encoded for item in taken])
            items = [item for item, output in zip(taken, known, strict=True) if output is None]
            for start in range(0, len(items), self._most):
                self._send(items[start : start + self._most])
            for item, output in zip(taken, known, strict=True):
                if output is not None:
                    yield item.id, output
            if not self._under_way:
                if taken:
                    continue
                if dropped:
                    raise EngineStopped
                return
            for number, outputs in self._client.finished(_SOME_S if room else _FULL_S):
                request = self._under_way.pop(number, None)
                if outputs is None:
                    dropped = True
                elif request is not None:  # None: the request of an earlier flight that failed
                    yield from self._settle(request, outputs)

    def _send(self, items: Items) -> None:
        path, body, read = self._question(items)
        keep = self._journal.keep_when_read([item.encoded for item in items], read)
        self._under_way[self._client.begin((path, body, keep))] = items

    def _settle(self, items: Items, outputs: Sequence[Output] | Failure) -> Iterator[tuple[int, Output]]:
        """Yield the outputs of a request's windows. If the request failed, send its windows one by one."""
        if not isinstance(outputs, Failure):
            yield from zip((item.id for item in items), outputs, strict=True)
        elif len(items) == 1:
            yield items[0].id, outputs
        else:
            for item in items:
                self._send([item])
