"""Secrets of one server."""

from __future__ import annotations

import pytest

from worker.web.signing import LEAST_TOKEN, Signer, generated_token, session_of


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


def test_the_cookie_follows_from_the_token_and_does_not_contain_it() -> None:
    assert session_of("one token") == session_of("one token") != session_of("another")
    assert "one" not in session_of("one token")
