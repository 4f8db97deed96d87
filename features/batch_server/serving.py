"""The Batch API of `docmill serve`: OpenAI's endpoints for files, batches and models.

The server checks a request's key before it reads the rest. Errors have OpenAI's form, and say what to do.
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import Any, TypeVar
from uuid import uuid4

import orjson
from anyio import CapacityLimiter, fail_after, to_thread
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from docmill.features.batch_server import keys, stored_batches, stored_files
from docmill.features.batch_server.clerk import Clerk
from docmill.features.batch_server.keys import ApiKey, Refused
from docmill.features.batch_server.stored_batches import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    COST_LIMIT,
    EXPIRED,
    FAILED,
    FINALIZING,
    IN_PROGRESS,
    MAX_COST,
    ApiBatch,
)
from docmill.features.batch_server.stored_files import INPUT, ApiFile, FileWriter
from docmill.features.batch_server.writer import URLS
from docmill.storage.core.normalize import normalize
from docmill.storage.errors import StorageError
from docmill.worker.queue.messages import is_id
from docmill.worker.web.site import HEALTH, health

log = logging.getLogger("docmill.serve")
T = TypeVar("T")

AT_ONCE = 8  # requests that use the store, which has as many connections
UPLOADS_AT_ONCE, UPLOADS_OF_KEY = 4, 2  # so that a key with slow uploads leaves room for others
LONGEST_WAIT_S = 30.0  # for the next piece of a body
LONGEST_UPLOAD_S = 3600.0
MOST_BODY = 64 * 1024  # bytes of a request without a file
MOST_FORM = 64 * 1024  # bytes that an upload has besides its file
MOST_LISTED, MOST_FILES = 100, 10_000
MOST_LABELS = 16
SHORTEST_KEPT_S = 3_600  # for which a client may have its file kept, as in OpenAI's API
_CHUNK = 2**20
_WINDOW = re.compile(r"([1-9]\d{0,3})([hd])")
_WHOLE = re.compile(r"[0-9]{1,9}")
_UNIT_S = {"h": 3600.0, "d": 24 * 3600.0}
_STATUS = {
    "not_found": HTTPStatus.NOT_FOUND,
    "file_in_use": HTTPStatus.CONFLICT,
    "batch_ended": HTTPStatus.CONFLICT,
    "idempotency_key_reused": HTTPStatus.CONFLICT,
    "request_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "storage_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    COST_LIMIT: HTTPStatus.TOO_MANY_REQUESTS,
}
_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class ApiError(Exception):
    """The request cannot be answered; the message says what to do. `param` is the field that is wrong."""

    def __init__(
        self,
        message: str,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def make_app(clerk: Clerk) -> Starlette:
    """Return the application that serves the batches of a clerk."""
    return _Application(clerk).routed()


class _Application:
    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk
        self._database = clerk.database
        self._limits = clerk.limits
        self._limiter = CapacityLimiter(AT_ONCE)
        self._probes = CapacityLimiter(1)  # health checks do not wait for slow requests
        self._uploads = CapacityLimiter(UPLOADS_AT_ONCE)
        self._uploads_of = defaultdict[str, CapacityLimiter](lambda: CapacityLimiter(UPLOADS_OF_KEY))  # by key

    def routed(self) -> Starlette:
        """Return the application with its routes. Other addresses get an error of OpenAI's form."""
        own: tuple[tuple[str, str, Any], ...] = (
            ("GET", "/v1/models", self._list_models),
            ("GET", "/v1/models/{id:path}", self._show_model),
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list_files),
            ("GET", "/v1/files/{id}", self._show_file),
            ("DELETE", "/v1/files/{id}", self._delete_file),
            ("GET", "/v1/files/{id}/content", self._read_file),
            ("POST", "/v1/batches", self._create_batch),
            ("GET", "/v1/batches", self._list_batches),
            ("GET", "/v1/batches/{id}", self._show_batch),
            ("POST", "/v1/batches/{id}/cancel", self._cancel_batch),
        )
        routes = [Route(path, partial(self._let_in, answer), methods=[method]) for method, path, answer in own]
        routes.append(Route(HEALTH, self._health, methods=["GET"]))
        handlers: dict[Any, Any] = {HTTPException: _show_missing, Exception: _show_failure}
        application = Starlette(routes=routes, exception_handlers=handlers)
        application.router.redirect_slashes = False  # its redirects have none of the headers below
        return application

    async def _let_in(self, answer: Any, request: Request) -> Response:
        """Return the answer to a request with a valid key, or an error of OpenAI's form."""
        try:
            if iscoroutinefunction(answer):  # it reads a body
                response: Response = await answer(await self._do(self._key_of, request), request)
            else:
                response = await self._do(lambda: answer(self._key_of(request), request))
        except ApiError as error:
            return _error(str(error), error.status, error.code, error.param)
        except Refused as error:
            return _error(_sentence(error), _STATUS[error.code], error.code)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)  # which nobody reads
        except TimeoutError:
            return _error("The body came too slowly. Send it again.", HTTPStatus.REQUEST_TIMEOUT)
        except StorageError as error:
            log.warning("store_away error=%s", error)
            message = "The store does not answer. Try again in a while."
            return _error(message, HTTPStatus.SERVICE_UNAVAILABLE, "store_away")
        return _with_headers(response)

    def _key_of(self, request: Request) -> ApiKey:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise ApiError(
                "This request has no key. Send the header Authorization: Bearer KEY, with a key of this server.",
                HTTPStatus.UNAUTHORIZED,
                code="invalid_api_key",
            )
        if (key := keys.find_key(self._database, secret.strip())) is None:
            raise ApiError(
                "This key is unknown or revoked. Ask the operator of this server for another.",
                HTTPStatus.UNAUTHORIZED,
                code="invalid_api_key",
            )
        return key

    async def _do(self, act: Callable[..., T], *values: Any) -> T:
        """Call a function of the store on a thread, and return its value."""
        return await to_thread.run_sync(lambda: act(*values), limiter=self._limiter)

    async def _health(self, _: Request) -> Response:
        return _with_headers(await to_thread.run_sync(health, self._database, limiter=self._probes))

    # Models.

    def _list_models(self, _: ApiKey, __: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name) for name in self._clerk.models]})

    def _show_model(self, _: ApiKey, request: Request) -> Response:
        if (name := request.path_params["id"]) not in self._clerk.models:
            raise ApiError(
                f"This server has no such model. It has: {', '.join(self._clerk.models)}.",
                HTTPStatus.NOT_FOUND,
                code="model_not_found",
                param="model",
            )
        return JSONResponse(_model(name))

    # Files.

    async def _upload(self, key: ApiKey, request: Request) -> Response:
        kept_as = _idempotency_key(request)
        most = self._limits.file_bytes + MOST_FORM
        announced = max(0, _said_length(request, most) - MOST_FORM)
        # This only spares an upload that would be refused at its end. A repeated one may be stored already.
        if kept_as is None:
            await self._do(stored_files.check_bytes, self._database, key, announced)
        with fail_after(LONGEST_UPLOAD_S):
            async with (
                self._uploads_of[key.name],
                self._uploads,
                _bounded(request, most).form(max_files=1, max_fields=8) as form,
            ):
                file, purpose = form.get("file"), form.get("purpose")
                if not isinstance(file, UploadFile):
                    raise ApiError('Send the file as the form field "file", with a name.', param="file")
                if purpose != INPUT:
                    raise ApiError('"purpose" must be "batch": this server has no other files.', param="purpose")
                if (file.size or 0) > self._limits.file_bytes:
                    raise _too_long(self._limits.file_bytes)
                keep_s = min(self._limits.keep_s, _expires_after(form))
                stored = await self._do(self._store, key, file, kept_as, keep_s)
        return JSONResponse(_file(stored))

    def _store(self, key: ApiKey, upload: UploadFile, kept_as: str | None, keep_s: float) -> ApiFile:
        """Copy an upload, which starlette keeps in a temporary file, into the store."""
        name = normalize(upload.filename or "requests.jsonl")[0][-255:]
        with FileWriter(self._database, key.name, name, INPUT, keep_s) as written:
            while data := upload.file.read(_CHUNK):
                written.write(data)
            return stored_files.add_file(self._database, key, written, kept_as)

    def _list_files(self, key: ApiKey, request: Request) -> Response:
        limit, order = _limit(request, MOST_FILES, MOST_FILES), request.query_params.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise ApiError('"order" must be asc or desc.', param="order")
        after, purpose = _query(request, "after"), _query(request, "purpose")
        conditions = () if purpose is None else (ApiFile.purpose == purpose,)
        files, more = keys.list_page(
            self._database, ApiFile, key, *conditions, after=after, limit=limit, oldest_first=order == "asc"
        )
        return _listed([_file(file) for file in files], more)

    def _show_file(self, key: ApiKey, request: Request) -> Response:
        return JSONResponse(_file(self._require(ApiFile, key, request)))

    def _delete_file(self, key: ApiKey, request: Request) -> Response:
        file_id = request.path_params["id"]
        stored_batches.delete_file(self._database, key, _storable(file_id))
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def _read_file(self, key: ApiKey, request: Request) -> Response:
        file = self._require(ApiFile, key, request)
        headers = {"Content-Length": str(file.n_bytes)}
        blocks = stored_files.read_blocks(self._database, file.id)
        return StreamingResponse(blocks, media_type="application/octet-stream", headers=headers)

    def _require(self, table: type[Any], key: ApiKey, request: Request) -> Any:
        return keys.require(self._database, table, key, _storable(request.path_params["id"]))

    # Batches.

    async def _create_batch(self, key: ApiKey, request: Request) -> Response:
        kept_as, body = _idempotency_key(request), await _json_of(request)
        endpoint, file_id = body.get("endpoint"), body.get("input_file_id")
        if endpoint not in URLS:
            raise ApiError(f'"endpoint" must be {", ".join(URLS[:-1])} or {URLS[-1]}.', param="endpoint")
        if not isinstance(file_id, str):
            raise ApiError('"input_file_id" must be the id of a file that you uploaded.', param="input_file_id")
        window = _WINDOW.fullmatch(str(body.get("completion_window")))
        if window is None:
            raise ApiError('"completion_window" must be a time such as 24h or 7d.', param="completion_window")
        if body.get("output_expires_after") is not None:
            raise ApiError(
                '"output_expires_after" is not possible here. Delete the files of the batch when you have read them.',
                param="output_expires_after",
            )
        arguments = {
            "endpoint": endpoint,
            "input_file_id": _storable(file_id),
            "completion_window": window[0],
            "labels": self._labels(body.get("metadata")),
        }
        batch = await self._do(self._store_batch, key, arguments, int(window[1]) * _UNIT_S[window[2]], kept_as)
        self._clerk.wake.set()
        return JSONResponse(await self._do(self._batch, batch))

    def _store_batch(self, key: ApiKey, arguments: dict[str, Any], window_s: float, kept_as: str | None) -> ApiBatch:
        """Return a new batch, or the batch of an earlier request with this key. Its file may be deleted."""
        if kept_as is not None:
            earlier = self._database.write(
                lambda transaction: keys.find_earlier(transaction, ApiBatch, key, kept_as, arguments)
            )
            if earlier is not None:
                return earlier
        file = keys.require(self._database, ApiFile, key, arguments["input_file_id"])
        if file.purpose != INPUT:
            raise ApiError('"input_file_id" must be a file with the purpose "batch".', param="input_file_id")
        if file.lines > self._limits.batch_lines:
            raise ApiError(
                f"The file has {file.lines:,} lines, and a batch at most {self._limits.batch_lines:,}. Split it.",
                code="too_many_requests",
                param="input_file_id",
            )
        return stored_batches.create_batch(
            self._database, key, {**arguments, "n_lines": file.lines}, window_s, kept_as
        )

    def _labels(self, value: Any) -> dict[str, str] | None:
        """Return the metadata of a batch. The server itself reads only the cost limit in it."""
        if value is None:
            return None
        if not isinstance(value, dict) or len(value) > MOST_LABELS:
            raise ApiError(f'"metadata" must be an object with at most {MOST_LABELS} members.', param="metadata")
        if any(not isinstance(text, str) or len(text) > 512 or len(name) > 64 for name, text in value.items()):
            raise ApiError(
                '"metadata" must have texts of at most 512 characters under names of at most 64.', param="metadata"
            )
        labels = {_storable(name): _storable(text) for name, text in value.items()}
        if MAX_COST in labels and not _is_amount(labels[MAX_COST]):
            raise ApiError(f'"{MAX_COST}" in "metadata" must be a number, 0 or more, as a text.', param="metadata")
        if MAX_COST in labels and not self._clerk.prices.models:
            raise ApiError(
                f'This server has no prices. Leave "{MAX_COST}" out of "metadata", or ask the operator for prices.',
                param="metadata",
            )
        return labels

    def _list_batches(self, key: ApiKey, request: Request) -> Response:
        after, limit = _query(request, "after"), _limit(request, 20, MOST_LISTED)
        batches, more = keys.list_page(self._database, ApiBatch, key, after=after, limit=limit)
        return _listed([self._batch(batch) for batch in batches], more)

    def _show_batch(self, key: ApiKey, request: Request) -> Response:
        return JSONResponse(self._batch(self._require(ApiBatch, key, request)))

    def _cancel_batch(self, key: ApiKey, request: Request) -> Response:
        batch = stored_batches.cancel_batch(self._database, key, _storable(request.path_params["id"]))
        self._clerk.wake.set()
        return JSONResponse(self._batch(batch))

    def _batch(self, batch: ApiBatch) -> dict[str, Any]:
        """Return a batch as clients see it."""
        completed, failed = stored_batches.count_requests(self._database, batch)
        errors = batch.errors
        if batch.status == IN_PROGRESS:
            errors = stored_batches.describe_limits(self._database, batch)
        times = (IN_PROGRESS, FINALIZING, COMPLETED, FAILED, EXPIRED, CANCELLING, CANCELLED)
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": batch.input_file_id,
            "completion_window": batch.completion_window,
            "status": batch.status,
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "created_at": int(batch.created_at),
            "expires_at": int(batch.expires_at),
            **{f"{status}_at": _time(batch.times.get(status)) for status in times},
            "request_counts": {"total": batch.n_requests, "completed": completed, "failed": failed},
            "metadata": batch.labels,
        }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "docmill"}


def _file(file: ApiFile) -> dict[str, Any]:
    """Return a file as clients see it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.n_bytes,
        "created_at": int(file.created_at),
        "expires_at": _time(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _time(at: float | None) -> int | None:
    return None if at is None else int(at)


def _listed(data: list[dict[str, Any]], more: bool) -> Response:
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": more})


def _query(request: Request, name: str) -> str | None:
    value = request.query_params.get(name)
    return None if value is None else _storable(value)


def _limit(request: Request, default: int, most: int) -> int:
    value = request.query_params.get("limit", str(default))
    if not _WHOLE.fullmatch(value) or not 1 <= int(value) <= most:
        raise ApiError(f'"limit" must be a whole number from 1 to {most:,}.', param="limit")
    return int(value)


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not is_id(key):
        raise ApiError("An Idempotency-Key has 1 to 255 characters that can be printed.")
    return key


def _is_amount(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False


def _expires_after(form: Mapping[str, Any]) -> float:
    """Return the seconds for which a client wants its file kept."""
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return math.inf
    if anchor != "created_at":
        raise ApiError('"expires_after[anchor]" must be "created_at".', param="expires_after")
    if isinstance(seconds, str) and _WHOLE.fullmatch(seconds) and int(seconds) >= SHORTEST_KEPT_S:
        return float(seconds)
    reason = f'"expires_after[seconds]" must be a whole number, {SHORTEST_KEPT_S:,} or more.'
    raise ApiError(reason, param="expires_after")


async def _json_of(request: Request) -> dict[str, Any]:
    body = await _bounded(request, MOST_BODY).body()
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"The body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ApiError("The body must be a JSON object.")
    return value


def _bounded(request: Request, most: int) -> Request:
    """Return the request. Reading its body raises ApiError if it is too long, and TimeoutError if it is too slow."""
    left = most

    async def receive() -> Message:
        nonlocal left
        with fail_after(LONGEST_WAIT_S):
            message = await request.receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_long(most)
        return message

    return Request(request.scope, receive)


def _said_length(request: Request, most: int) -> int:
    """Return the body's length by the header; 0 without the header. Raises ApiError if the body is too long."""
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdecimal():
        return 0
    if len(length) > 15 or int(length) > most:
        raise _too_long(most)
    return int(length)


def _too_long(most: int) -> ApiError:
    return ApiError(
        f"The body is too long: at most {most:,} bytes. Split the file.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    )


def _storable(text: str) -> str:
    """Return a client's text as every database can store it: without NUL and without halves of characters."""
    return normalize(text)[0]


def _sentence(error: Exception) -> str:
    message = str(error)
    return f"{message[0].upper()}{message[1:]}."


def _error(message: str, status: HTTPStatus, code: str | None = None, param: str | None = None) -> Response:
    fallback = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    fields = {"message": message, "type": _TYPES.get(status, fallback), "param": param, "code": code}
    # Keeps OpenAI's clients from retrying: a batch takes hours.
    headers = {"X-Should-Retry": "false"} if status == HTTPStatus.TOO_MANY_REQUESTS else None
    return _with_headers(JSONResponse({"error": fields}, status, headers))


def _with_headers(response: Response) -> Response:
    """Add headers to a response: a request id, no caching, no guessing of its content type."""
    own = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Request-Id": f"req_{uuid4().hex}"}
    response.headers.update(own)
    return response


async def _show_missing(request: Request, error: Exception) -> Response:
    status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.NOT_FOUND
    if status == HTTPStatus.BAD_REQUEST:
        return _error("The form cannot be read. Send multipart/form-data as OpenAI's clients do.", status)
    served = "This server has /v1/files, /v1/batches and /v1/models; see docs/batch-server.md."
    return _error(f"{request.method} is not possible here. {served}", status, "unknown_url")


async def _show_failure(_: Request, __: Exception) -> Response:
    return _error("This request met a bug. The operator finds it in the log.", HTTPStatus.INTERNAL_SERVER_ERROR)
