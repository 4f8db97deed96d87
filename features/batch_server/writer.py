"""Results of requests in OpenAI's batch format: a line for each request, as the service's output file has it.

A document of a batch file carries its request in its metadata, under `REQUEST`: {"custom_id", "url", "model",
"line"}; {"index", "of"} if it is one of several inputs, and {"encoding_format", "dimensions"} of embeddings.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from docmill.storage.outputs.columns import Column
from docmill.storage.outputs.output_types import TEXT, TRUNCATED, VECTOR
from docmill.storage.writers.formats import FormatUnfit, Row, Writer, to_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NAME = "openai-batch"
REQUEST = "request"
CHAT, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
URLS = (CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS)
INPUTS = {CHAT: "messages", RESPONSES: "input", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
Line: TypeAlias = dict[str, Any]


def find_request(row: Row) -> Mapping[str, Any]:
    """Return the request that a result belongs to. Raises FormatUnfit for a result of another source."""
    request: Mapping[str, Any] | None = (row.get("meta") or {}).get(REQUEST)
    if not isinstance(request, dict) or request.get("url") not in INPUTS:
        raise FormatUnfit(f"{row.get('id')} is not a request of a batch file; write the results of `docmill batch`")
    return request


def make_answer(rows: Sequence[Row], created: int, where: str = "") -> Line:
    """Return the line of a request with the results of its inputs, in their order. `where` is its place in the file.

    If the request wants more `dimensions` than the vectors have, it is an error line. Raises FormatUnfit.
    """
    request = find_request(rows[0])
    if (url := request["url"]) == EMBEDDINGS:
        lengths = {row["vector"].shape[-1] for row in rows}
        if (dimensions := request.get("dimensions")) is not None and dimensions > min(lengths):
            reason = f"the vectors of the model have {min(lengths):,} dimensions; {dimensions:,} were requested"
            return make_error(request["custom_id"], where or f"line {request['line']}", f'"dimensions": {reason}')
    write_body = {CHAT: _chat, RESPONSES: _response, COMPLETIONS: _completion, EMBEDDINGS: _embeddings}[url]
    body = write_body(request, rows, created)
    return _line(request["custom_id"], HTTPStatus.OK, body)


def make_error(custom_id: str | None, where: str, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> Line:
    """Return the line of a request that was answered with an error. `where` is its place in the batch file."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    error = {"message": f"{where}: {reason}", "type": kind, "param": None, "code": None}
    return _line(custom_id, status, {"error": error}, where)


def make_unanswered(custom_id: str, code: str, message: str) -> Line:
    """Return the line of a request that was not carried out."""
    return {
        "id": _identity("batch_req_", custom_id),
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }


def is_error(line: Line) -> bool:
    """Return True for the line of a request without a result."""
    return line["response"] is None or line["response"]["status_code"] != HTTPStatus.OK


def _line(custom_id: str | None, status: HTTPStatus, body: Mapping[str, Any], where: str = "") -> Line:
    name = custom_id or where
    return {
        "id": _identity("batch_req_", name),
        "custom_id": custom_id,
        "response": {"status_code": int(status), "request_id": _identity("req_", name), "body": body},
        "error": None,
    }


def _identity(prefix: str, name: str) -> str:
    """Return an id that is the same whenever the file is written."""
    return prefix + hashlib.sha256(name.encode()).hexdigest()[:24]


def _chat(request: Mapping[str, Any], rows: Sequence[Row], created: int) -> Line:
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        for place, (text, reason) in enumerate(_written(rows))
    ]
    return _completed("chatcmpl-", "chat.completion", request, rows, created, choices)


def _response(request: Mapping[str, Any], rows: Sequence[Row], created: int) -> Line:
    name = request["custom_id"]
    (text, reason), *_ = _written(rows)
    status = "completed" if reason == "stop" else "incomplete"
    read, written = _tokens(rows)
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {"id": _identity("msg_", name), "type": "message", "status": status, "role": "assistant"}
    return {
        "id": _identity("resp_", name),
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": None if reason == "stop" else {"reason": "max_output_tokens"},
        "instructions": None,
        "metadata": {},
        "model": request["model"],
        "output": [{**message, "content": [content]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        },
    }


def _tokens(rows: Sequence[Row]) -> tuple[int, int]:
    read, written = (sum(row[name] for row in rows) for name in ("tokens_in", "tokens_out"))
    return read, written


def _completion(request: Mapping[str, Any], rows: Sequence[Row], created: int) -> Line:
    choices = [
        {"index": place, "text": text, "logprobs": None, "finish_reason": reason}
        for place, (text, reason) in enumerate(_written(rows))
    ]
    return _completed("cmpl-", "text_completion", request, rows, created, choices)


def _completed(
    prefix: str, kind: str, request: Mapping[str, Any], rows: Sequence[Row], created: int, choices: list[Line]
) -> Line:
    read, written = _tokens(rows)
    return {
        "id": _identity(prefix, request["custom_id"]),
        "object": kind,
        "created": created,
        "model": request["model"],
        "choices": choices,
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _written(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """Yield each text with its finish reason."""
    for row in rows:
        texts = row.get("texts") or [row["text"]]
        cut = row.get(TRUNCATED) or ([0] if len(texts) == 1 and "output_truncated" in row["flags"] else [])
        for place, text in enumerate(texts):
            yield text or "", "length" if place in cut else "stop"


def _embeddings(request: Mapping[str, Any], rows: Sequence[Row], _created: int) -> Line:
    read = sum(row["tokens_in"] for row in rows)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": _encoded(_cut(row["vector"], request), request)}
            for place, row in enumerate(rows)
        ],
        "model": request["model"],
        "usage": {"prompt_tokens": read, "total_tokens": read},
    }


def _cut(vector: npt.NDArray[np.float32], request: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return the first `dimensions` of a vector, with length 1 again; the vector itself if none were requested."""
    import numpy as np

    if (dimensions := request.get("dimensions")) is None:
        return vector
    kept = vector[:dimensions].astype(np.float64)
    return (kept / (np.linalg.norm(kept) or 1.0)).astype(np.float32)


def _encoded(vector: npt.NDArray[np.float32], request: Mapping[str, Any]) -> npt.NDArray[np.float32] | str:
    if request.get("encoding_format") == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector


def write(rows: Iterable[Row], _columns: Sequence[Column], file: BinaryIO) -> int:
    """Write a line for each request whose inputs all have results. Return the number of lines.

    Rows of one request follow one another. Raises FormatUnfit.
    """
    created, n = int(time.time()), 0
    for _, group in groupby(rows, key=lambda row: find_request(row)["custom_id"]):
        of_request = list(group)
        if len(of_request) == find_request(of_request[0]).get("of", 1):
            file.write(to_json(make_answer(of_request, created)) + b"\n")
            n += 1
    return n


WRITER = Writer(
    NAME,
    ".jsonl",
    write,
    title="answers of a batch file",
    note="has the answers to the requests of docmill batch",
    lines=True,
    takes=(TEXT, VECTOR),
    only_of="docmill batch",
)
