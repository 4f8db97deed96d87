"""The statements of docs/security.md for PostgreSQL and Redis, so that the tests run exactly those."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL, make_url

from tests.faults.servers import RedisServer
from tests.worker.harness import ROOT

DOCS = (ROOT / "docs" / "security.md").read_text()


def sql(number: int) -> list[str]:
    """Return the statements of a block of SQL on the page, by its number."""
    block = re.findall(r"^```sql\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)[number]
    return [statement.strip() for statement in block.split(";") if statement.strip()]


def acl(user: str) -> list[str]:
    """Return the words of the page's line for a user of Redis, from the name on."""
    line = re.search(rf"^user ({user} on .*)$", DOCS, re.MULTILINE)
    assert line is not None
    return line[1].split()


def password(user: str) -> str:
    [word] = [word for word in acl(user) if word.startswith(">")]
    return word[1:]


def protect(server: RedisServer) -> None:
    """Give a Redis the page's users and a keeper."""
    with server.client() as client:
        for user in ("docmill-worker", "docmill-admin", "docmill-producer", "docmill-orders"):
            client.execute_command("ACL", "SETUSER", *acl(user))
        client.execute_command("ACL", "SETUSER", "keeper", "on", ">keeper", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")


def redis_url(server: RedisServer, user: str, secret: str | None = None) -> str:
    return as_user(server.url, user).set(password=secret or password(user)).render_as_string(hide_password=False)


def as_user(url: str, user: str) -> URL:
    return make_url(url).set(username=user)
