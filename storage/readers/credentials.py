"""Secrets in a source's URL: found, hidden, and where to put them instead."""

from __future__ import annotations

import re
from netrc import NetrcParseError, netrc
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from docmill.storage.readers.errors import SourceUnreadable
from docmill.storage.readers.streams import printable

_HTTP = ("http", "https")
_DATABASES = ("postgresql", "postgres", "sqlite")
_NAMES_NO_USER = ("github", "gist", "git")  # of which `a:b@` is a repository
# Parameters that are no secret. The value of any other one may be: a signature, a token, a key.
_HARMLESS = frozenset(
    (
        *("page", "part", "offset", "start", "end", "limit", "count", "order", "sort", "filter", "q", "query"),
        *("id", "name", "file", "filename", "path", "sheet", "gid", "table", "field", "fields", "columns", "where"),
        *("year", "month", "day", "date", "from", "to", "since", "until", "lang", "language", "locale", "country"),
        *("format", "type", "output", "alt", "encoding", "compression", "header", "download", "dl", "raw", "export"),
        *("version", "versionId", "generation", "ref", "rev", "revision", "branch", "split", "config", "subset"),
        # libpq's, but for its passwords
        *("host", "hostaddr", "port", "dbname", "user", "service", "options", "application_name", "client_encoding"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslsni", "sslnegotiation", "gssencmode"),
        *("require_auth", "channel_binding", "target_session_attrs", "load_balance_hosts", "connect_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "passfile"),
    )
)
_NESTED = re.compile(r"(://[^/?#@\s:'\"]*):[^/?#@]+@")


def shown(source: str) -> str:
    """Return a source as it may be stored and said: a URL without a password, and with harmless parameters alone."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return printable(source)
    scheme = scheme.lower()
    user, rest = _user(rest)
    address, mark, query = rest.partition("?")
    parameters, statement = _parameters(scheme, query)
    if _secret_parameter(parameters) is not None:
        parameters = "***"  # as a whole: a signature comes with the time that it was made at
    if user is not None:
        account, colon, _ = user.partition(":")
        if colon and account:
            address = f"{account}:***@{address}"
        elif not colon and scheme.startswith(_DATABASES):
            address = f"{account}@{address}"
        else:
            address = f"***@{address}"
    return _NESTED.sub(r"\1:***@", printable(f"{scheme}://{address}{mark}{parameters}{statement}"))


def problem(source: str) -> str | None:
    """Return a message about the secret in a source that is to be stored, with advice; None for a source without one.

    The sentence goes on from "the source" and shows nothing of the secret.
    """
    scheme, separator, rest = source.partition("://")
    if not separator:
        return None
    scheme = scheme.lower()
    user, rest = _user(rest)
    if user is not None and scheme not in _NAMES_NO_USER:
        if user.partition(":")[2]:
            return f"has a password, which would be stored; leave it out, and {_elsewhere(scheme)}"
        if scheme in _HTTP:
            return f"has a token before the @, which would be stored; leave it out, and {_elsewhere(scheme)}"
    parameters, _ = _parameters(scheme, rest.partition("?")[2])
    if (name := _secret_parameter(parameters)) is not None:
        what = f"has a parameter that may be a secret ({printable(name)}), which would be stored"
        how = _elsewhere(scheme) if scheme not in _HTTP else _INSTEAD_OF_A_SIGNATURE
        return f"{what}; leave it out, and {how}"
    if scheme not in _NAMES_NO_USER and _NESTED.search(rest):
        return "has a URL with a password in it, which would be stored; leave it out"
    return None


_INSTEAD_OF_A_SIGNATURE = (
    "name the file by its store's own URL (s3://BUCKET/KEY, gs://, abfs://), whose credentials the workers have: in "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in GOOGLE_APPLICATION_CREDENTIALS, in "
    "AZURE_STORAGE_CONNECTION_STRING, or by a role"
)


def _elsewhere(scheme: str) -> str:
    """Return where the secrets of a kind of URL are put, so that the workers have them."""
    if scheme.startswith(_DATABASES):
        return "give it to the workers by PGPASSWORD, or in the file ~/.pgpass of their user"
    if scheme in _HTTP:
        return (
            "put it into the file ~/.netrc of the workers' user: machine HOST login USER password PASSWORD (a token "
            "is the login or the password, as its server wants it)"
        )
    return (
        "give it to the workers by the environment, as the store's own tools take it (AWS_ACCESS_KEY_ID and "
        f'AWS_SECRET_ACCESS_KEY, say), or in ~/.config/fsspec/docmill.json: {{"{scheme}": {{"password": "…"}}}}'
    )


def with_login(url: str, name: str) -> str:
    """Return an HTTP URL with the login that ~/.netrc has for its host, unless it has one.

    A redirect to another host takes no login along. Raises SourceUnreadable for a file that cannot be used.
    """
    scheme, _, rest = url.partition("://")
    host = urlsplit(url).hostname
    if _user(rest)[0] is not None or not host:
        return url
    try:
        entry = netrc().authenticators(host)
    except (FileNotFoundError, RuntimeError):  # there is no such file, or no home
        return url
    except (NetrcParseError, OSError, UnicodeDecodeError):
        # Not in the error's words, nor from it: they may be a password.
        advice = "it is not written as a .netrc is, or others may read it (chmod 600 ~/.netrc)"
        raise SourceUnreadable(f"{name}: the logins in ~/.netrc cannot be used: {advice}") from None
    if entry is None:
        return url
    login, _, password = entry
    return f"{scheme}://{quote(login or '', safe='')}:{quote(password or '', safe='')}@{rest}"


def _user(rest: str) -> tuple[str | None, str]:
    """Split what follows a scheme into the user (with a password), and the rest.

    A password in which a / or an @ stands as it is ends at the last @.
    """
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    if "@" in authority:
        at = authority.rindex("@")
    elif colon and port and not port.isdecimal() and "[" not in host and "@" in rest:
        at = rest.rindex("@")
    else:
        return None, rest
    return rest[:at], rest[at + 1 :]


def _parameters(scheme: str, query: str) -> tuple[str, str]:
    """Split what follows the first ? into parameters and, of a database, the statement with the ? before it."""
    if not scheme.startswith(_DATABASES):
        return query, ""
    parameters, mark, statement = query.partition("?")
    if re.fullmatch(r"[\w.]+=[^?\s]*", parameters):
        return parameters, mark + statement
    return "", query


def _secret_parameter(query: str) -> str | None:
    """Return the name of the first parameter that may be a secret; "…" for one without a name and a value."""
    for parameter in filter(None, re.split("[&;]", query)):
        name, _, value = parameter.partition("=")
        if (name := unquote_plus(unquote(name))) not in _HARMLESS:
            return name if value else "…"
    return None
