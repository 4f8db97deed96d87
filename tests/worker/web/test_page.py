"""Texts as pages show them."""

from __future__ import annotations

from docmill.worker.web.page import sentence


def test_commands_in_a_message_are_code_and_all_else_is_text() -> None:
    assert sentence("it is paused; `docmill resume` <b>") == "It is paused; <code>docmill resume</code> &lt;b&gt;"
    assert sentence("`<i>` and ` alone") == "`&lt;i&gt;` and ` alone"
    assert sentence("\u202eback") == "[U+202E]back"
    assert sentence("blocked: no worker; model: x") == "Blocked: no worker; model: x"
    assert sentence("") == ""
