"""`docmill web` as its users start it."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from docmill.worker.cli.commands.web import choose_token
from docmill.worker.settings import load_settings
from tests.worker.harness import DEADLINE_S, Docmill, until

pytestmark = pytest.mark.slow


def wait_for_address(docmill: Docmill) -> str:
    match = until(lambda: re.search(r"Web page: (http://\S+/) ", docmill.log("web")), "the address is printed")
    return str(match[1])


def test_the_page_is_served_until_ctrl_c(embedded: Docmill) -> None:
    process = embedded.start("web", "--port", "0")
    with urllib.request.urlopen(wait_for_address(embedded)) as page:
        assert "There are no jobs yet" in page.read().decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0
    assert "Token" not in embedded.log("web")


def test_on_other_addresses_a_new_token_is_printed_once_and_asked_for(embedded: Docmill) -> None:
    process = embedded.start("web", "--port", "0", "--host", "0.0.0.0", "--quiet")
    url = wait_for_address(embedded).replace("0.0.0.0", "127.0.0.1")
    with urllib.request.urlopen(f"{url}jobs") as page:
        assert page.url.endswith("/sign-in?next=/jobs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert len(re.findall(r"^Token: \S{32}$", embedded.log("web"), re.MULTILINE)) == 1


def test_a_token_of_the_settings_is_not_printed_and_asked_for_everywhere() -> None:
    settings = load_settings(web_token="a token of sixteen")
    assert choose_token(settings, "127.0.0.1", ()) == ("a token of sixteen", False)
    assert choose_token(load_settings(), "127.0.0.1", ()) == (None, False)
    assert choose_token(load_settings(), "127.0.0.1", ("docmill.example",))[1] is True


def test_a_run_shows_its_job_until_it_ends(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    source = write_corpus({"id": f"k{n}", "text": f"some words of text {n}"} for n in range(200))
    process = embedded.start("run", "embed", source, "--model", "null@600", "--web")
    match = until(lambda: re.search(r"Web page: (http://127.0.0.1:\d+/)$", embedded.log("run"), re.M), "an address")
    with urllib.request.urlopen(f"{match[1]}jobs") as page:
        assert 'aria-label="Pages"' in page.read().decode()
    assert process.wait(DEADLINE_S) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(match[1])
