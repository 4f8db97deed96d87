"""One Redis URL for redis-py and for Celery, who disagree about its query. With TLS both verify the server."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEME = "docmill"  # of Celery's URL: names `worker.queue.transport`
SHAPE = "a Redis URL is redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///SOCKET"
QUERY = {
    "redis": set[str](),
    "rediss": {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"},
    "unix": {"db"},
}
VALUES = {"ssl_cert_reqs": {"required", "none"}, "ssl_check_hostname": {"true", "false"}}


def problem(url: str) -> str | None:
    """Return the problem of a URL, in words that show nothing of it; None if it has none."""
    try:
        parts = urlsplit(url)
        port, database = parts.port, parts.path.strip("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        return SHAPE
    if parts.scheme not in QUERY or port == 0:
        return SHAPE
    if parts.scheme == "unix":
        database = query.get("db", "")
        if not parts.path:
            return SHAPE
    if database and not database.isdecimal():
        return SHAPE
    if unknown := sorted(query.keys() - QUERY[parts.scheme]):
        known = ", ".join(sorted(QUERY[parts.scheme])) or "none"
        return f"a {parts.scheme}:// URL has no parameter {', '.join(unknown)}; there are: {known}"
    for name, values in VALUES.items():
        if query.get(name) not in {None, *values}:
            return f"{name} is one of {', '.join(sorted(values))}"
    return None


def for_redis(url: str) -> str:
    """The URL for redis-py, which verifies certificates of itself, but host names only in its later versions."""
    return _with_defaults(url)


def for_celery(url: str) -> str:
    """The URL for Celery: our own transport, a socket and its database in Celery's spelling; certificates are
    verified, which Celery leaves out where the URL does not ask for it.
    """
    if not url.startswith("unix://"):
        return f"{SCHEME}://{_with_defaults(url).partition('://')[2]}"
    socket, _, query = url.removeprefix("unix://").partition("?")
    database = dict(parse_qsl(query)).get("db")
    return f"{SCHEME}+socket://{socket}" + (f"?virtual_host={database}" if database else "")


def for_results(url: str) -> str:
    """Return the URL of Celery's own Redis backend for results."""
    return for_celery(url).replace(SCHEME, "redis", 1) if url.startswith("unix://") else _with_defaults(url)


def _with_defaults(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"} | dict(parse_qsl(parts.query))
    return urlunsplit(parts._replace(query=urlencode(query)))
