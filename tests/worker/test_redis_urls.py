"""redis-py and Celery read the same server, database, password and verification from a URL."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection

from docmill.worker.queue.broker import celery_url_of, redis_url_of, results_url_of
from docmill.worker.settings import find_redis_problem, mask


def read_by_redis(url: str) -> dict[str, Any]:
    connection = redis.Redis.from_url(redis_url_of(url)).connection_pool.make_connection()
    names = ("host", "port", "path", "db", "username", "password", "cert_reqs", "check_hostname", "ca_certs")
    return {name: value for name in names if (value := getattr(connection, name, None)) is not None}


def read_by_celery(url: str) -> dict[str, Any]:
    transport = Connection(celery_url_of(url)).transport
    channel = object.__new__(type(transport).Channel)
    channel.connection = transport
    connection = redis.ConnectionPool(**channel._connparams()).make_connection()
    names = read_by_redis(url)
    return {name: getattr(connection, name) for name in names}


def read_by_results(url: str) -> dict[str, Any]:
    client = Celery(backend=results_url_of(url), set_as_current=False).backend.client
    connection = client.connection_pool.make_connection()
    return {name: getattr(connection, name) for name in read_by_redis(url)}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://queue:6380/3", {"host": "queue", "port": 6380, "db": 3}),
        ("redis://user:p%40%2F@queue", {"port": 6379, "db": 0, "username": "user", "password": "p@/"}),
        ("unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2}),
        ("unix://user:p%40@/run/redis.sock", {"path": "/run/redis.sock", "username": "user", "password": "p@"}),
        ("rediss://queue", {"cert_reqs": ssl.CERT_REQUIRED, "check_hostname": True}),
        (
            "rediss://queue/1?ssl_ca_certs=/a%20b.pem",
            {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": "/a b.pem", "db": 1},
        ),
        ("rediss://queue?ssl_check_hostname=false", {"cert_reqs": ssl.CERT_REQUIRED, "check_hostname": False}),
        ("rediss://queue?ssl_cert_reqs=none", {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}),
    ],
)
def test_both_clients_read_the_same_out_of_a_url(url: str, expected: dict[str, Any]) -> None:
    assert find_redis_problem(url) is None
    assert read_by_redis(url).items() >= expected.items()
    assert read_by_celery(url) == read_by_results(url) == read_by_redis(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://:secret@queue", "a Redis URL is"),
        ("redis://:secret@queue:port/0", "a Redis URL is"),
        ("redis//:secret@queue/0", "a Redis URL is"),
        ("redis://queue/none", "a Redis URL is"),
        ("unix://", "a Redis URL is"),
        ("unix:///run/redis.sock?db=x", "a Redis URL is"),
        ("redis://queue/0?ssl_ca_certs=/ca.pem", "a redis:// URL has no parameter ssl_ca_certs"),
        ("redis://queue/0?password=secret", "a redis:// URL has no parameter password"),
        ("rediss://queue/0?ssl_cert_reqs=optional", "ssl_cert_reqs is one of none, required"),
        ("rediss://queue/0?ssl_cert_reqs=", "ssl_cert_reqs is one of none, required"),
        ("rediss://queue/0?ssl_check_hostname=no", "ssl_check_hostname is one of false, true"),
    ],
)
def test_a_url_that_a_client_would_misread_is_refused_without_its_secret(url: str, message: str) -> None:
    problem = find_redis_problem(url)
    assert problem is not None
    assert message in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pw@cache:6379/0", "redis://:***@cache:6379/0"),
        ("postgresql://me:pw@h/x?sslmode=require", "postgresql://me:***@h/x?sslmode=require"),
        ("postgresql://h/x?password=pw&sslmode=require", "postgresql://h/x?password=***&sslmode=require"),
        ("postgresql://h/x?sslpassword=pw", "postgresql://h/x?sslpassword=***"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
    ],
)
def test_no_password_of_a_url_is_shown_wherever_it_stands(url: str, masked: str) -> None:
    assert mask(url) == masked
