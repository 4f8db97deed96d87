"""Answer ten questions of a new operator with the web page of a real fleet. Count clicks and time page loads.

The fleet has two workers, and one of them is stopped most of the time. Its jobs are done, failed in part, running,
cancelled, refused, or without a worker. A browser follows links from the start page, and the last page has to show
the answer.
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
    """A question, the links to follow from the start page, and patterns that the last page has to match.

    A click names a link by the beginning of its text, or a job as `#7`. `typed` has the name of a field, and the text
    that is written into it before the last click.
    """

    text: str
    where: str
    clicks: tuple[str, ...]
    patterns: tuple[str, ...]
    typed: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """The clicks for a question and the median seconds of page loads. `stands_there`: the page showed the answer."""

    question: str
    where: str
    clicks: int
    seconds: float
    stands_there: bool


@dataclass(frozen=True)
class JobIds:
    """The ids of the fleet's jobs."""

    done: int
    flagged: int
    working: int
    refused: int
    waiting: int
    run: int


def list_questions(jobs: JobIds) -> tuple[Question, ...]:
    """Return the ten questions."""
    no_worker = (r"No live worker serves lane", r"classify")
    return (
        Question(f"Why does job {jobs.waiting} not move?", "Jobs", (), (rf"#{jobs.waiting} ", *no_worker)),
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


def answer_question(browser: Browser, url: str, question: Question, width: int) -> tuple[float, bool]:
    """Answer a question as a person would. Return the seconds of page loads, and True if the page has the answer."""
    browser.open(f"{url}/", width=width)
    loads_ms = [_wait_for_load(browser)]
    for place, name in enumerate(question.clicks):
        if question.typed is not None and place == len(question.clicks) - 1:
            field, typed_text = question.typed
            browser.driver.find_element(By.NAME, field).send_keys(typed_text)
        selector = f"#job-{name[1:]} a" if name.startswith("#") else "a, button, summary"
        elements = browser.driver.find_elements(By.CSS_SELECTOR, selector)
        link = next(
            element
            for element in elements
            if element.is_displayed() and (name.startswith("#") or element.text.startswith(name))
        )
        stays = link.tag_name == "summary"
        link.click()
        if not stays:
            loads_ms.append(_wait_for_load(browser))
    page_text = browser.text()
    unmatched = [pattern for pattern in question.patterns if not re.search(pattern, page_text)]
    if unmatched:
        print(f"{question.text} {unmatched} in\n{page_text[:3_000]}", flush=True)
    return sum(loads_ms) / 1_000, not unmatched


def _wait_for_load(browser: Browser) -> float:
    """Wait until the page is loaded, and return the milliseconds that it took."""
    until(lambda: browser.driver.execute_script(LOADED), "the page is loaded")
    return float(browser.driver.execute_script(LOAD_MS))


@contextmanager
def slowed(pids: Sequence[int]) -> Iterator[None]:
    """Stop these processes most of the time, so that they are as slow as on a busy machine."""
    ended = threading.Event()

    def stop_and_continue() -> None:
        while not ended.is_set():
            for signal_number, for_s in ((signal.SIGSTOP, 2.0), (signal.SIGCONT, 0.3)):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal_number)
                ended.wait(for_s)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_continue)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_sources(folder: Path) -> None:
    """Write the sources: letters with one that fails, many notes for a job that takes a while, and a few notes."""
    letters = {f"letter-{n}": f"En 19{n:02d} l'archive de Genève reçut {n} lettres sur la pluie." for n in range(60)}
    english = {key: text.replace("l'archive de Genève", "the archive of Geneva") for key, text in letters.items()}
    failing = {"letter-failing": f"{MARKER} a letter"}
    notes = {f"note-{n}": f"Note {n} of the archive of Geneva: it rained for {n} days." for n in range(40_000)}
    for name, texts in (("letters", english | failing), ("many", notes), ("few", dict([*notes.items()][:50]))):
        lines = (json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "nightly.toml").write_text(PIPELINE)
    (folder / "prices.toml").write_text('currency = "EUR"\n[null]\ninput = 100.0\noutput = 400.0\n')


def make_jobs(docmill: Docmill, browser: Browser, url: str, model: Path) -> JobIds:
    """Make the jobs while the workers run. Wait for the end of the jobs that the questions expect to be done."""
    translate = ("--from", "fr", "--to", "en", "--model", model)
    done = docmill.enqueue("summarize", "letters.jsonl", "--model", "null", "--corpus", "letters")
    flagged = docmill.enqueue("translate", "letters.jsonl", *translate, "--corpus", "letters")
    docmill("pipeline", "add", "nightly.toml")
    until(lambda: {job["state"] for job in docmill.json("jobs")} == {"done"}, "the first jobs are done")
    browser.open(f"{url}/pipelines/nightly")
    browser.click("Run now")
    until(lambda: "is due now. A live worker begins it." in browser.text(), "the run is made")
    until(lambda: docmill.json("pipeline", "history", "nightly")[0]["state"] == "done", "the run is done")
    run = int(docmill.json("pipeline", "history", "nightly")[0]["job"])
    cancelled = docmill.enqueue("generate", "few.jsonl", "--prompt", "Say: {text}", "--model", "null")
    docmill("cancel", cancelled)
    moved_model = shutil.copytree(model, model.with_name("moved-model"))
    refused = docmill.enqueue("translate", "few.jsonl", *translate[:-1], moved_model)
    shutil.rmtree(moved_model)
    waiting = docmill.enqueue("classify", "few.jsonl", "--labels", "rain,sun", "--model", "null")
    working = docmill.enqueue("embed", "many.jsonl", "--model", "null@3000")
    return JobIds(done, flagged, working, refused, waiting, run)


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Docmill, Sequence[int]]]:
    """Start a store, a queue and two workers. Yield docmill's command, and the device processes of one worker."""
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
        for docmill in (fast, slow):
            write_sources(docmill.folder)
        write_sources(folder)
        with fast.worker("--device", "cpu"), slow.worker("--device", "cpu") as slow_worker:
            until(lambda: device_pids(slow_worker), "the device process runs")
            yield fast, device_pids(slow_worker)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path, help="Folder for pictures of the last page of each question")
    parser.add_argument("--model", type=Path, required=True, help="Folder of a translation model to copy")
    options = parser.parse_args()
    browser_programs = programs()
    if browser_programs is None:
        raise SystemExit("This benchmark drives a browser. Install it: apt-get install chromium chromium-driver")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        for name in ("fast", "slow"):
            (folder / name).mkdir()
        browser = stack.enter_context(chromium(*browser_programs))
        docmill, slow_pids = stack.enter_context(fleet(folder))
        web = docmill.start("web", "--port", "0", "--allow-changes")
        stack.callback(web.wait, 30)
        stack.callback(web.send_signal, signal.SIGTERM)
        url = until(lambda: re.search(r"(http://\S+)/ ", docmill.log("web")), "the page is served")[1]
        jobs = make_jobs(docmill, browser, url, shutil.copytree(options.model, folder / "model"))
        stack.enter_context(slowed(slow_pids))
        _wait_for_answers(browser, url, jobs)
        answers = [measure(browser, url, question, options.shots) for question in list_questions(jobs)]
    for answer in answers:
        print(answer, flush=True)
    write_results(answers)


def _wait_for_answers(browser: Browser, url: str, jobs: JobIds) -> None:
    """Wait until the page shows that a worker is slow, that one refuses a model, and the time left of a job."""

    def page_shows(path: str, text: str) -> bool:
        browser.open(url + path)
        return text in browser.text()

    until(lambda: page_shows("/workers", "times as long as those of other workers"), "a worker is slow", every_s=1.0)
    until(lambda: page_shows("/workers", "Refuses"), "a worker refuses a model", every_s=1.0)
    until(lambda: page_shows(f"/jobs/{jobs.working}", " left"), "the time left is known", every_s=1.0)


def measure(browser: Browser, url: str, question: Question, shots: Path | None) -> Answer:
    """Answer a question several times, then once in a narrow window, as on a phone, and once in a wide one."""
    rounds = [answer_question(browser, url, question, WIDTHS[0]) for _ in range(ROUNDS)]
    for width in WIDTHS[::-1]:
        rounds.append(answer_question(browser, url, question, width))
        assert not browser.overflows(), (question.text, width)
        if shots is not None:
            name = re.sub(r"\W+", "-", question.text.lower()).strip("-")
            _save_screenshot(browser, shots / f"{name}-{width}.png", width)
    seconds = statistics.median(seconds for seconds, _ in rounds[:ROUNDS])
    stands_there = all(has_answer for _, has_answer in rounds)
    return Answer(question.text, question.where, len(question.clicks), round(seconds, 3), stands_there)


def _save_screenshot(browser: Browser, path: Path, width: int) -> None:
    """Write a picture of the whole page."""
    height = browser.driver.execute_script("return Math.min(4000, document.documentElement.scrollHeight)")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.save_screenshot(path)


def write_results(answers: Sequence[Answer]) -> None:
    """Write the answers to `bench/results/web-questions.json`."""
    facts: Mapping[str, object] = {
        "machine": machine(),
        "store": "PostgreSQL",
        "load": round(os.getloadavg()[0], 1),
        "rounds": ROUNDS,
        "measured_at": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    results = json.dumps({**facts, "questions": [asdict(answer) for answer in answers]}, indent=1)
    (RESULTS / "web-questions.json").write_text(results + "\n")


if __name__ == "__main__":
    main()
