"""Texts as pages show them."""

from __future__ import annotations

from docmill.worker.web.page import ago, percents, sentence


def test_a_moment_is_said_by_its_age_also_if_clocks_differ() -> None:
    assert ago(100.0, 130.0) == "just now"
    assert ago(100.0, 99.0) == "just now"
    assert ago(0.0, 600.0) == "10 min ago"


def test_the_pieces_of_a_bar_fill_it() -> None:
    assert percents([1, 0, 1, 2]) == [(0.0, 25.0), (25.0, 0.0), (25.0, 25.0), (50.0, 50.0)]
    assert percents([0, 0]) == [(0.0, 0.0), (0.0, 0.0)]


def test_commands_in_a_message_are_code_and_all_else_is_text() -> None:
    assert sentence("it is paused; `docmill resume` <b>") == "It is paused; <code>docmill resume</code> &lt;b&gt;"
    assert sentence("`<i>` and ` alone") == "`&lt;i&gt;` and ` alone"
    assert sentence("\u202eback") == "[U+202E]back"
    assert sentence("blocked: no worker; model: x") == "Blocked: no worker; model: x"
    assert sentence("") == ""
