"""`docmill web` as its users start it."""

from __future__ import annotations

import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.harness import DEADLINE_S, Docmill, until

pytestmark = pytest.mark.slow


def address(docmill: Docmill) -> str:
    found = until(lambda: re.search(r"Web page: (http://\S+/) ", docmill.log("web")), "the address is printed")
    return str(found[1])


def test_the_page_is_served_until_ctrl_c(embedded: Docmill) -> None:
    process = embedded.start("web", "--port", "0")
    with urllib.request.urlopen(address(embedded)) as page:
        assert "There are no jobs yet" in page.read().decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0
    assert "Token" not in embedded.log("web")


def test_on_other_addresses_a_new_token_is_printed_once_and_asked_for(embedded: Docmill) -> None:
    process = embedded.start("web", "--port", "0", "--host", "0.0.0.0", "--quiet")
    url = address(embedded).replace("0.0.0.0", "127.0.0.1")
    with urllib.request.urlopen(f"{url}jobs") as page:
        assert page.url.endswith("/sign-in?next=/jobs")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert len(re.findall(r"^Token: \S{32}$", embedded.log("web"), re.MULTILINE)) == 1


def test_a_token_of_the_settings_is_asked_for_and_not_printed(embedded: Docmill) -> None:
    embedded.environment["DOCMILL_WEB_TOKEN"] = "a token of sixteen"
    process = embedded.start("web", "--port", "0")
    with urllib.request.urlopen(f"{address(embedded)}jobs") as page:
        assert "/sign-in" in page.url
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 0
    assert "a token" not in embedded.log("web")


def test_a_short_token_and_a_taken_port_are_refused(embedded: Docmill) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = embedded("web", "--port", taken.getsockname()[1], code=2)
    assert "--port 0 is any free one" in done.stderr
    embedded.environment["DOCMILL_WEB_TOKEN"] = "short"
    assert "16 characters" in embedded("web", code=2).stderr


def test_a_run_shows_its_job_until_it_ends(embedded: Docmill, write_corpus: Callable[..., Path]) -> None:
    source = write_corpus({"id": f"k{n}", "text": f"some words of text {n}"} for n in range(200))
    process = embedded.start("run", "embed", source, "--model", "null@600", "--web")
    found = until(lambda: re.search(r"Web page: (http://127.0.0.1:\d+/)$", embedded.log("run"), re.M), "an address")
    with urllib.request.urlopen(f"{found[1]}jobs") as page:
        assert 'aria-label="Pages"' in page.read().decode()
    assert process.wait(DEADLINE_S) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(found[1])
