"""The pages in a real browser, over a real store and a real worker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest

from docmill.storage.core.database import Database
from docmill.storage.leases import dispatch
from docmill.storage.pipelines import pipelines
from docmill.worker.cli.printing import SOME_REJECTED
from tests.fault_points import FAULT, MARKER
from tests.faults.servers import missing
from tests.kinds import KINDS
from tests.storage.builders import numbered, read, request
from tests.worker.harness import EXAMPLES, Docmill, until
from tests.worker.web.chromium import COLOURS, WIDTHS, Browser, chromium, programs

pytestmark = pytest.mark.slow

OWNED = "window.owned = 1"
HOSTILE = (
    f"<script>{OWNED}</script><img src=x onerror='{OWNED}'><svg onload='{OWNED}'> \u202eabc\x1b[31m "
    f"</bdi></main><style>*{{display:none}}</style> <a href='javascript:{OWNED}'>x</a> "
    f'"><form action=/jobs/1/cancel method=post hx-post="/jobs/1/cancel" hx-trigger="load">{{{{7*7}}}}'
)
LOOKS = tuple(product(WIDTHS, COLOURS))
PICTURES = "DOCMILL_TEST_PICTURES"  # a folder: `make pictures`
SHOWN = slice(10, 70)  # the texts of the picture with a changed number
PAGES = ("", "/failures", "/flagged", "/samples", "/document?id=long")


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    paths = programs()
    if paths is None:
        missing("there is no Chromium with its driver: apt-get install chromium chromium-driver")
    with chromium(*paths) as window:
        yield window


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """The browser of all tests, which forgets the pages of a test once it is over."""
    yield window
    window.driver.get("about:blank")
    window.complaints()


@pytest.fixture
def docmill(tmp_path: Path, sqlite_url: str, redis_url: str) -> Docmill:
    """A fleet on SQLite."""
    settings = {"DOCMILL_DATABASE_URL": sqlite_url, "DOCMILL_REDIS_URL": redis_url, "DOCMILL_UPKEEP_S": "0.2"}
    return Docmill(tmp_path, settings)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of texts. One fails, and some are hostile."""
    texts = {
        **{f"d{n}": f"In 19{n:02d} the archive of Geneva had {n} letters about rain." for n in range(60)},
        "failing": f"{MARKER} a text",
        "long": " ".join(f"In {year} the archive of Geneva had letters about rain." for year in range(1850, 1950)),
        HOSTILE: f"A text that means harm: {HOSTILE}",
    }
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items()))
    return path


def test_a_job_is_watched_from_start_to_end_and_operated(
    browser: Browser, docmill: Docmill, url: str, source: Path
) -> None:
    options = ("--window-tokens", "128", "--model", "null@2000", "--corpus", HOSTILE[:60])
    job = docmill.enqueue("summarize", source, *options)
    browser.open(f"{url}/jobs")
    browser.click("Summarize · letters.jsonl")
    browser.waits_for("No live worker serves lane")
    with docmill.variables(**{FAULT: "cut:error"}), docmill.worker():
        browser.comes_to("1 failed")
        until(lambda: "Operate" not in browser.text(), "the page shows that the job has ended")
        assert "62 done" in browser.text()

    browser.open(f"{url}/jobs/{job}/failures")
    browser.comes_to("failing")
    browser.click("Retry all 1")
    browser.comes_to(f"1 text of job {job} will be tried again.")
    with docmill.worker():
        browser.comes_to("63 done")

    browser.open(f"{url}/jobs/{job}/flagged")
    browser.comes_to("The summaries of several windows were summarized again.")
    browser.click("long")
    browser.comes_to("The summaries of several windows were summarized again.")
    assert browser.driver.execute_script("return window.owned") is None
    assert not browser.complaints()
    _look(browser, url, ["/jobs", "/sign-in", *(f"/jobs/{job}{page}" for page in PAGES)])
    _look_at_the_fleet(browser, docmill, url)


def test_real_outputs_are_shown_with_what_is_doubtful_and_what_was_not_processed(
    browser: Browser, docmill: Docmill, url: str, tmp_path: Path
) -> None:
    descriptions = EXAMPLES / "descriptions.jsonl"
    if PICTURES in os.environ:
        docmill("run", "embed", descriptions)
        french = tmp_path / "french.jsonl"
        lines = (EXAMPLES / "french.jsonl").read_text().splitlines(keepends=True)
        french.write_text("".join(lines[SHOWN]))
        docmill("run", "translate", french, "--from", "fr", "--to", "en")
        docmill("run", "classify", descriptions)
    docmill("run", "summarize", descriptions, "--limit", 60)
    docmill("run", "summarize", EXAMPLES / "leaflets", code=SOME_REJECTED)
    browser.open(f"{url}/jobs", width=1200)
    browser.comes_to("6 of 6 done, 1 rejected")
    _take_picture(browser, "web-jobs", 640)
    browser.click("Summarize · leaflets")
    browser.comes_to("Download the results")
    _take_picture(browser, "web-job", 600)
    browser.open(f"{url}/jobs", width=1200)
    browser.click("Summarize · descriptions.jsonl")
    browser.comes_to("Download the results")
    browser.click("Flagged")
    browser.comes_to("is not in the input.")
    if PICTURES in os.environ:
        browser.open(f"{url}/jobs", width=1200)
        browser.click("Translate · french.jsonl")
        browser.comes_to("Download the results")
        browser.click("Flagged")
        browser.comes_to("Any flag")
        browser.click("numbers changed")
        browser.comes_to("is not in the input.")
        _take_picture(browser, "web-output", 820)
    assert not browser.complaints()


def _take_picture(browser: Browser, name: str, height: int) -> None:
    """Write the page as a picture of the documentation, if a folder for pictures is named."""
    if PICTURES in os.environ:
        browser.picture(Path(os.environ[PICTURES]) / f"{name}.png", height)


def _look_at_the_fleet(browser: Browser, docmill: Docmill, url: str) -> None:
    """Look at the other pages: of a pipeline that runs next year, of a worker that has gone, and of the queue."""
    database = Database(docmill.environment["DOCMILL_DATABASE_URL"], kinds=KINDS)
    pipelines.put(
        database, "yearly", "/data", f"# {HOSTILE}", {"cron": "30 2 1 1 *", "timezone": "UTC", "overlap": "skip"}
    )
    pipelines.note(database, pipelines.begin(database, "yearly", "me", 60.0), "failed", reason=HOSTILE)
    dispatch.sign_on(database, "w1", host=HOSTILE, pid=1, device="cpu", lanes=["copy"], slots=4, version="0")
    read(database, request(corpus=HOSTILE), numbered(2))
    database.close()
    pages = ["/pipelines", "/pipelines/yearly", "/workers", "/queue", "/search"]
    _look(browser, url, pages, looks=((WIDTHS[0], COLOURS[0]), (WIDTHS[1], COLOURS[1])))
    browser.open(f"{url}/pipelines")
    browser.click("yearly")
    assert browser.text().count("-01-01 02:30:00") == 5


def _look(browser: Browser, url: str, pages: Sequence[str], looks: Iterable[tuple[int, str]] = LOOKS) -> None:
    """Look at these pages in these widths and colours."""
    for page, (width, colours) in product(pages, looks):
        browser.open(url + page, width=width, colours=colours)
        assert not browser.serious(), (page, width, colours)
        assert not browser.overflows(), (page, width)
        assert browser.driver.execute_script("return window.owned") is None
    assert not browser.complaints()
