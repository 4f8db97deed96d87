"""Ten questions of a new operator, answered with the web page of a real fleet: clicks, and seconds of page loads.

The fleet has two workers, one of which is stopped most of the time, and jobs that are done, failed in part, at work,
cancelled, refused, and without a worker. A browser answers each question by following links from the start page, and
the answer has to stand on the page that it ends on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium.webdriver.common.by import By

from bench.pairs import RESULTS, machine
from bench.stores import fresh_postgres, own_redis
from tests.fault_points import FAULT, MARKER
from tests.worker.harness import Docmill, device_pids, until
from tests.worker.web.chromium import WIDTHS, Browser, chromium, programs

ROUNDS = 5
LOADED = "return document.readyState === 'complete' && performance.getEntriesByType('navigation')[0].loadEventEnd > 0"
LOAD_MS = "return performance.getEntriesByType('navigation')[0].duration"
PIPELINE = """name = "nightly"
[corpus]
source = "letters.jsonl"
[[step]]
name = "english"
task = "translate"
from = "fr"
to = "en"
model = "null"
[[step]]
name = "gist"
task = "summarize"
model = "null"
[schedule]
cron = "30 2 * * *"
timezone = "UTC"
"""


@dataclass(frozen=True)
class Question:
    """A question, the links to follow from the start page, and what the last page has to say.

    A link is the beginning of its text, or a job as `#7`. `typed` is written into the field of this name before the
    last click.
    """

    asked: str
    where: str
    clicks: tuple[str, ...]
    said: tuple[str, ...]
    typed: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answered:
    """The clicks and the median seconds of page loads of a question. `stands_there`: the page said the answer."""

    question: str
    where: str
    clicks: int
    seconds: float
    stands_there: bool


@dataclass(frozen=True)
class Jobs:
    """The numbers of the fleet's jobs."""

    done: int
    flagged: int
    working: int
    refused: int
    waiting: int
    run: int


def questions(jobs: Jobs) -> tuple[Question, ...]:
    """Return the ten questions."""
    waiting = (r"No live worker serves lane", r"classify")
    return (
        Question(f"Why does job {jobs.waiting} not move?", "Jobs", (), (rf"#{jobs.waiting} ", *waiting)),
        Question("What did last night cost?", "Jobs", (), (r"made in the last 24 hours", r"cost: \S+ EUR")),
        Question("Which worker is slow?", "Workers", ("Workers",), (r"slow", r"times as long as those of other"),),
        Question("What failed, and why?", "Jobs, N failed", ("1 failed",), (r"Not processed", r"InjectedFault")),
        Question(
            "Which outputs are doubtful, and what was the input?", "Jobs, the job, Flagged",
            (f"#{jobs.flagged}", "Flagged"), (r"(changed|copied|ratio|language)", "Input", "archive of"),
        ),
        Question(
            "When does the pipeline run next, and how did the last run end?", "Pipelines", ("Pipelines",),
            (r"nightly", r"done", r"\d{4}-\d\d-\d\d 02:30:00", r"in \d+"),
        ),
        Question(
            f"How far is job {jobs.working}, and when will it be done?", "Jobs", (),
            (rf"#{jobs.working} ", r"of [\d,]+ done", r"\d+ (s|min).* left"),
        ),
        Question(
            "What does this worker refuse, and why?", "Workers, Refuses", ("Workers", "Refuses"),
            (r"translate by", r"moved-model"),
        ),
        Question(
            "Where does this document come from, and in which jobs is it?", "Search, Find", ("Search", "Find"),
            (r"letters.jsonl", r"read \d{4}-", rf"In jobs {jobs.flagged} \(done\), {jobs.done} "), ("id", "letter-7"),
        ),
        Question(
            "How much waits in the queue, and why?", "Queue", ("Queue",),
            (r"Planned", r"texts? to do", r"No live worker serves lane"),
        ),
    )  # fmt: skip


def answer(browser: Browser, url: str, question: Question, width: int) -> tuple[float, bool]:
    """Answer a question as a person would. Return the seconds of page loads, and whether the answer stands there."""
    browser.open(f"{url}/", width=width)
    loads = [_loaded(browser)]
    for place, name in enumerate(question.clicks):
        if question.typed is not None and place == len(question.clicks) - 1:
            field, text = question.typed
            browser.driver.find_element(By.NAME, field).send_keys(text)
        row = f"#job-{name[1:]} a" if name.startswith("#") else "a, button, summary"
        link = next(one for one in browser.driver.find_elements(By.CSS_SELECTOR, row)
                    if one.is_displayed() and (name.startswith("#") or one.text.startswith(name)))  # fmt: skip
        stays = link.tag_name == "summary"
        link.click()
        if not stays:
            loads.append(_loaded(browser))
    text = browser.text()
    lacking = [one for one in question.said if not re.search(one, text)]
    if lacking:
        print(f"{question.asked} {lacking} in\n{text[:3_000]}", flush=True)
    return sum(loads) / 1_000, not lacking


def _loaded(browser: Browser) -> float:
    until(lambda: browser.driver.execute_script(LOADED), "the page is loaded")
    return float(browser.driver.execute_script(LOAD_MS))


@contextmanager
def slowed(pids: Sequence[int]) -> Iterator[None]:
    """Stop processes for most of the time, as on a machine that does other work."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.is_set():
            for sign, for_s in ((signal.SIGSTOP, 2.0), (signal.SIGCONT, 0.3)):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, sign)
                over.wait(for_s)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write_sources(folder: Path) -> None:
    """Write the documents: letters of which one fails, and many for a job that takes a while."""
    letters = {f"letter-{n}": f"En 19{n:02d} l'archive de Genève reçut {n} lettres sur la pluie." for n in range(60)}
    english = {key: text.replace("l'archive de Genève", "the archive of Geneva") for key, text in letters.items()}
    failing = {"letter-failing": f"{MARKER} a letter"}
    many = {f"note-{n}": f"Note {n} of the archive of Geneva: it rained for {n} days." for n in range(40_000)}
    for name, texts in (("letters", english | failing), ("many", many), ("few", dict([*many.items()][:50]))):
        lines = (json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "nightly.toml").write_text(PIPELINE)
    (folder / "prices.toml").write_text('currency = "EUR"\n[null]\ninput = 100.0\noutput = 400.0\n')


def make_jobs(docmill: Docmill, browser: Browser, url: str, model: Path) -> Jobs:
    """Make the jobs while the workers work, and wait until each is in the state that it is asked about in."""
    translate = ("--from", "fr", "--to", "en", "--model", model)
    done = docmill.enqueue("summarize", "letters.jsonl", "--model", "null", "--corpus", "letters")
    flagged = docmill.enqueue("translate", "letters.jsonl", *translate, "--corpus", "letters")
    docmill("pipeline", "add", "nightly.toml")
    until(lambda: {one["state"] for one in docmill.json("jobs")} == {"done"}, "the first jobs are done")
    browser.open(f"{url}/pipelines/nightly")
    browser.click("Run now")
    until(lambda: "is due now. A live worker begins it." in browser.text(), "the run is made")
    until(lambda: docmill.json("pipeline", "history", "nightly")[0]["state"] == "done", "the run is done")
    run = int(docmill.json("pipeline", "history", "nightly")[0]["job"])
    cancelled = docmill.enqueue("generate", "few.jsonl", "--prompt", "Say: {text}", "--model", "null")
    docmill("cancel", cancelled)
    model = shutil.copytree(model, model.with_name("moved-model"))
    refused = docmill.enqueue("few.jsonl", *translate[:-1], model)
    shutil.rmtree(model)
    waiting = docmill.enqueue("classify", "few.jsonl", "--labels", "rain,sun", "--model", "null")
    working = docmill.enqueue("embed", "many.jsonl", "--model", "null@3000")
    return Jobs(done, flagged, working, refused, waiting, run)


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Docmill, Sequence[int]]]:
    """Start a store, a queue and two workers; yield the command, and the device processes of one worker."""
    with fresh_postgres() as database_url, own_redis(folder) as (redis_url, _):
        settings = {
            "DOCMILL_DATABASE_URL": database_url,
            "DOCMILL_REDIS_URL": redis_url,
            "DOCMILL_UPKEEP_S": "1",
            FAULT: "cut:error",
            "DOCMILL_LANES": "summarize,translate,embed",
            "DOCMILL_PRICES": str(folder / "prices.toml"),
        }
        fast, slow = (Docmill(folder / name, settings) for name in ("fast", "slow"))
        for one in (fast, slow):
            write_sources(one.folder)
        write_sources(folder)
        with fast.worker("--device", "cpu"), slow.worker("--device", "cpu") as stopped:
            until(lambda: device_pids(stopped), "the device process runs")
            yield fast, device_pids(stopped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path, help="Folder for pictures of the last page of each question")
    parser.add_argument("--model", type=Path, required=True, help="Folder of a translation model, which is copied")
    given = parser.parse_args()
    found = programs()
    if found is None:
        raise SystemExit("this benchmark drives a browser: apt-get install chromium chromium-driver")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        for name in ("fast", "slow"):
            (folder / name).mkdir()
        browser = stack.enter_context(chromium(*found))
        docmill, device = stack.enter_context(fleet(folder))
        web = docmill.start("web", "--port", "0", "--allow-changes")
        stack.callback(web.wait, 30)
        stack.callback(web.send_signal, signal.SIGTERM)
        url = until(lambda: re.search(r"(http://\S+)/ ", docmill.log("web")), "the page is served")[1]
        jobs = make_jobs(docmill, browser, url, shutil.copytree(given.model, folder / "model"))
        stack.enter_context(slowed(device))
        _wait_for_words(browser, url, jobs)
        rows = [measure(browser, url, question, given.shots) for question in questions(jobs)]
    for row in rows:
        print(row, flush=True)
    write(rows)


def _wait_for_words(browser: Browser, url: str, jobs: Jobs) -> None:
    """Wait until the fleet has come to what is asked: a worker is slower, one refuses, and the time left is known."""

    def stands(path: str, said: str) -> bool:
        browser.open(url + path)
        return said in browser.text()

    until(lambda: stands("/workers", "times as long as those of other workers"), "a worker is slow", every_s=1.0)
    until(lambda: stands("/workers", "Refuses"), "a worker refuses a model", every_s=1.0)
    until(lambda: stands(f"/jobs/{jobs.working}", " left"), "the time left is known", every_s=1.0)


def measure(browser: Browser, url: str, question: Question, shots: Path | None) -> Answered:
    """Answer a question several times, and once more on a telephone."""
    found = [answer(browser, url, question, WIDTHS[0]) for _ in range(ROUNDS)]
    for width in WIDTHS[::-1]:
        found.append(answer(browser, url, question, width))
        assert not browser.overflows(), (question.asked, width)
        if shots is not None:
            name = re.sub(r"\W+", "-", question.asked.lower()).strip("-")
            _photograph(browser, shots / f"{name}-{width}.png", width)
    seconds = statistics.median(seconds for seconds, _ in found[:ROUNDS])
    return Answered(
        question.asked, question.where, len(question.clicks), round(seconds, 3), all(stands for _, stands in found)
    )


def _photograph(browser: Browser, path: Path, width: int) -> None:
    """Write a picture of the whole page."""
    height = browser.driver.execute_script("return Math.min(4000, document.documentElement.scrollHeight)")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.save_screenshot(path)


def write(rows: Sequence[Answered]) -> None:
    """Write the figures to `bench/results/web-questions.json`."""
    facts: Mapping[str, object] = {
        "machine": machine(),
        "store": "PostgreSQL",
        "load": round(os.getloadavg()[0], 1),
        "rounds": ROUNDS,
        "measured_at": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    found = json.dumps({**facts, "questions": [asdict(row) for row in rows]}, indent=1)
    (RESULTS / "web-questions.json").write_text(found + "\n")


if __name__ == "__main__":
    main()
