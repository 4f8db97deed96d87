"""Explain errors of Redis in a sentence, and find the commands that it does not permit a worker."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import redis

DOCS = "docs/security.md has the rights that it takes"

_NOT_PERMITTED = (redis.exceptions.NoPermissionError, redis.exceptions.ExecAbortError)
_LIST, _HASH, _SET, _LOCK = (f"docmill:probe:{kind}" for kind in ("list", "hash", "set", "lock"))
_RESULT = "celery-task-meta-docmill-probe"

# Every command that a worker sends, on keys of its own, so that nothing is left. What a worker's user needs is this
# and nothing else (docs/security.md; a test holds them together).
PROBES: tuple[tuple[Any, ...], ...] = (
    ("PING",),
    ("LLEN", _LIST),
    ("LPUSH", _LIST, "probe"),
    ("RPUSH", _LIST, "probe"),
    ("BRPOP", _LIST, 0.01),
    ("ZADD", _SET, 0, "probe"),
    ("ZRANGE", _SET, 0, 0),
    ("ZREM", _SET, "probe"),
    ("HSET", _HASH, "probe", ""),
    ("HGET", _HASH, "probe"),
    ("HDEL", _HASH, "probe"),
    ("SET", _LOCK, "", "PX", 1000),
    ("GET", _LOCK),
    ("SCRIPT LOAD", "return 0"),
    ("EVALSHA", "0" * 40, 1, _LOCK),
    ("WATCH", _LOCK),
    ("UNWATCH",),
    ("DEL", _LIST, _LOCK),
    ("MULTI",),
    ("EXEC",),
)

# Those of a worker that takes orders: it keeps their results where Celery looks for them.
ORDER_PROBES: tuple[tuple[Any, ...], ...] = (
    ("SETEX", _RESULT, 1, ""),
    ("PUBLISH", _RESULT, ""),
)


def not_permitted(client: redis.Redis, probes: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the commands, or their keys, that this user may not use. Raises RedisError if Redis does not answer."""
    missing = []
    with client.client() as one_connection:  # type: ignore[no-untyped-call]
        for name, *arguments in probes:
            try:
                one_connection.execute_command(name, *arguments)
            except _NOT_PERMITTED:
                missing.append(name.lower().replace(" ", "|"))
            except redis.ResponseError:
                pass  # it may: there is no such script
    return missing


def sentence(error: BaseException, where: str) -> str:
    """Return the reason why the Redis at a (masked) URL cannot be used, and what to do."""
    for cause in _causes(error):
        if isinstance(cause, redis.AuthenticationError):
            return f"Redis at {where} does not know the user and password of DOCMILL_REDIS_URL"
        if isinstance(cause, _NOT_PERMITTED):
            return f"Redis at {where} refuses what docmill does: {cause}; {DOCS}"
        if isinstance(cause, redis.ResponseError):
            return f"Redis at {where} refuses what docmill does: {cause}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of Redis at {where} is not trusted: {cause.verify_message}; "
                "its CA is named in the URL, ?ssl_ca_certs=FILE"
            )
        if isinstance(cause, FileNotFoundError | PermissionError):
            return f"cannot use Redis at {where}: {cause.strerror} (its socket, or a file that the URL names)"
        if isinstance(cause, ssl.SSLError):
            return f"cannot speak TLS with Redis at {where}: {cause.reason or type(cause).__name__}"
    return f"cannot reach Redis at {where}: {type(error).__name__}; is it running?"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
