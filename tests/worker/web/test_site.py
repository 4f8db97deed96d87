"""Secrets of one server."""

from __future__ import annotations

import pytest

from docmill.worker.web.site import (
    LEAST_TOKEN,
    LONGEST_WAIT_S,
    MOST_ADDRESSES,
    SESSION_S,
    Attempts,
    Sessions,
    Signer,
    generated_token,
)


def test_a_signed_sentence_is_read_by_the_server_that_signed_it_alone() -> None:
    signer = Signer()
    value = signer.sign("12 texts – “again”")
    assert signer.signed(value) == "12 texts – “again”"
    assert Signer().signed(value) is None


@pytest.mark.parametrize("value", ["", ".", "aGk=.0", "a", "ü.ü", "////.x"])
def test_a_sentence_that_was_made_up_is_not_shown(value: str) -> None:
    assert Signer().signed(value) is None


def test_tokens_differ_and_are_long_enough() -> None:
    assert generated_token() != generated_token()
    assert len(generated_token()) >= LEAST_TOKEN


def test_a_session_ends_after_its_time_and_at_its_sign_out() -> None:
    now = 100.0
    sessions = Sessions(lambda: now)
    first, second = sessions.begin(), sessions.begin()
    sessions.end(second)
    sessions.end("of nobody")
    assert (sessions.has(first), sessions.has(second), sessions.has("")) == (True, False, False)
    now += SESSION_S - 1
    assert sessions.has(first)
    now += 1
    assert not sessions.has(first)


def test_wrong_tokens_of_an_address_are_slowed_and_forgiven_with_time() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    waits = [attempts.begin("10.0.0.7") for _ in range(20)]
    assert waits[:5] == [0.0] * 5
    assert waits[5:9] == [1.0, 2.0, 4.0, LONGEST_WAIT_S]
    assert set(waits[9:]) == {LONGEST_WAIT_S}
    assert attempts.begin("10.0.0.8") == 0.0
    now += 3_600.0
    assert attempts.begin("10.0.0.7") == 0.0


def test_wrong_tokens_of_many_addresses_slow_all_and_keep_nobody_out() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    waits = [attempts.begin(f"10.0.{n // 250}.{n % 250}") for n in range(2 * MOST_ADDRESSES)]
    assert waits[40] == 0.0
    assert attempts.begin("192.0.2.1") == LONGEST_WAIT_S == max(waits)
    now += 3_600.0
    assert attempts.begin("192.0.2.1") == 0.0


def test_the_right_token_is_not_slowed_however_often_it_comes() -> None:
    attempts = Attempts(lambda: 0.0)
    for _ in range(100):
        assert attempts.begin("10.0.0.7") == 0.0
        attempts.forgive("10.0.0.7")


def test_the_addresses_of_one_network_of_ipv6_count_as_one() -> None:
    attempts = Attempts(lambda: 0.0)
    for n in range(5):
        attempts.begin(f"2001:db8::{n}")
        attempts.begin(f"::ffff:10.0.0.{n}")
    assert attempts.begin("2001:db8::ffff") == 1.0
    assert attempts.begin("2001:db8:0:1::1") == 0.0
    assert attempts.begin("10.0.0.1") == 0.0
