"""The environment of `make run`: uv looks where pip would, and only without other places for torch."""

from __future__ import annotations

from release.install import uv_commands


def test_uv_looks_where_pip_is_told_to_and_leaves_the_choice_of_torch_to_what_is_there() -> None:
    settings = {"index-url": "https://a/simple", "find-links": "/wheels\n/more", "cert": "/ca.pem", "timeout": "9"}
    [(command, environment)] = uv_commands(settings)
    assert [one for one in command if "=" in one] == [
        "--index-url=https://a/simple",
        "--find-links=/wheels",
        "--find-links=/more",
        "--index-strategy=unsafe-best-match",
    ]
    assert environment == {"SSL_CERT_FILE": "/ca.pem"}


def test_without_such_settings_uv_chooses_a_build_of_torch_and_does_not_wait_for_its_index() -> None:
    (chosen, briefly), (command, environment) = uv_commands({})
    assert chosen == [*command, "--torch-backend=auto"]
    assert (briefly["UV_HTTP_RETRIES"], environment) == ("0", {})
