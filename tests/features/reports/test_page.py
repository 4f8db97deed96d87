"""The page of a report: what it says of a job, its charts, and what hostile texts do in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from string import ascii_lowercase

from docmill.features.reports.page import gather, render_page, sum_device_seconds
from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.storage.deletion import retention
from docmill.storage.leases.shards import Claim
from docmill.storage.results.status import read_status
from docmill.storage.steps.jobs import JobRequest
from docmill.storage.steps.steps import StepRequest
from docmill.tasks.checks import NONE, Checks
from docmill.worker.jobs import Listener
from tests.storage.builders import COPY, finish, make_chunk, numbered, read, read_chunk, request, work

HOSTILE = {
    "<script>alert(1)</script>": "<script>document.title='x'</script><img src=x onerror=f()></style></bdi></body>",
    "template": "{{ 7 * 7 }} {% include 'page.css' %}",
    "marks and controls": "Pay \u202e31.12\u202c now\u200b, مرحبا bell \x07 escape \x1b[31m tab\tend\nline",
}


class _Read(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _page(database: Database, job_id: int, *, with_text: bool = True, checks: Checks = NONE) -> str:
    status = read_status(database, job_id)
    facts = gather(database, status, Listener(), with_text=with_text, checks_of=lambda _: checks)
    return render_page(facts, 1.8e9, "1.2.3")


def _doubt(claim: Claim) -> list[Outcome]:
    """The text itself, flagged; a text of one word fails."""
    return [
        Outcome(key, Status.DONE, text=text, flags=("output_truncated",), tokens_in=40, tokens_out=7)
        if " " in text
        else Outcome(key, Status.FAILED, reason="it is <b>short</b>", reason_class=Reason.DOCUMENT)
        for key, text in claim.texts
    ]


def test_hostile_texts_are_shown_and_do_nothing(database: Database) -> None:
    job = read(database, request(corpus="</title><script>1</script>"), [*HOSTILE.items()])
    work(database, _doubt)
    html = _Read(_page(database, job.id))
    assert {"script", "img", "iframe", "link", "object"}.isdisjoint(html.tags)
    names = {name for name, _ in html.attributes}
    assert not [name for name in names if name.startswith("on")]
    assert names.isdisjoint({"src", "href", "srcdoc", "action"})
    addresses = [value or "" for name, value in html.attributes if not name.startswith("xmlns")]
    assert not [value for value in addresses if "//" in value]
    assert html.tags.count("body") == html.tags.count("html") == 1
    for shown in (
        "</style></bdi></body>",
        "{{ 7 * 7 }}",
        "[U+202E]31.12[U+202C] now[U+200B], مرحبا",
        "bell [U+0007]",
    ):
        assert shown in "".join(html.texts)


def test_a_page_counts_what_was_asked_computed_flagged_and_failed(database: Database) -> None:
    texts = [("a", "two words"), ("b", "two words"), ("c", "three more words"), ("d", "one"), ("e", "one")]
    job = read(database, request(), texts)
    work(database, _doubt)
    text = _Read(_page(database, job.id)).text
    assert "Documents 5" in text
    assert "5 results were asked for, and 3 texts were computed." in text
    assert "2 results could be shared with another document of the same text." in text
    assert "Results by tokens read 32–63 3 Results by tokens written 4–7 3" in text
    assert "may lack its end doubt 3 100.0 %" in text
    assert "document it is <b>short</b> 2" in text
    assert "Examples with the flag output_truncated" in text
    assert "Input three more words Output three more words" in text


def test_flags_of_a_document_are_counted_without_their_offsets_and_have_no_examples(database: Database) -> None:
    chunk = make_chunk(*((f"k{n}", "a text", {}, (f"invalid_utf8@{n}",), n) for n in range(3)))
    job = read_chunk(database, request(), chunk)
    work(database)
    facts = gather(database, read_status(database, job.id), Listener(), with_text=True, checks_of=lambda _: NONE)
    assert (facts.steps[0].flags, facts.steps[0].examples) == ({"invalid_utf8": 3}, {})


def test_a_page_counts_computed_texts_even_after_their_shards_were_folded(database: Database) -> None:
    job = read(database, request(), numbered(3))
    finish(database)
    retention.apply(database, {"shards": 0.0})
    text = _Read(_page(database, job.id)).text
    assert "3 results were asked for, and 3 texts were computed." in text
    assert "Device time" not in text


def test_the_places_that_checks_found_are_marked_and_their_evidence_is_listed(database: Database) -> None:
    source = "Il faut 12 Mo. Le port est ouvert."
    many = " ".join(f"{letter}{other}word" for letter in ascii_lowercase for other in ascii_lowercase)
    output = f"It needs 13 MB. {many} The port is open open open open."
    job = read(database, request(), [("a", source)])
    flags = ("repetition", "output_truncated")
    texts = ["It needs 12 MB.", output]
    done = partial(Outcome, status=Status.DONE, text=texts[0], data={"texts": texts}, flags=flags)
    work(database, lambda claim: [done(key) for key, _ in claim.texts])
    html = _page(database, job.id, checks=Checks(("numbers_changed", "repetition")))
    assert html.count("<mark>open open open open</mark>.") == 2  # under each of the two flags
    text = _Read(html).text
    assert "“open” stands 4 times in a row." in text
    assert " characters before) … " in text
    assert "13 is not in the input" not in text  # today's check finds it, and the result does not have its flag
    hidden = _page(database, job.id, with_text=False, checks=Checks(("repetition",)))
    assert "open" not in hidden


def test_without_texts_a_page_has_no_text_id_or_reason_of_a_document(database: Database) -> None:
    job = read(database, request(), [("secret-id", "two words"), ("d", "one")])
    work(database, _doubt)
    text = _Read(_page(database, job.id, with_text=False)).text
    assert "output_truncated" in text
    assert not [word for word in ("secret-id", "two words", "short") if word in text]


def test_each_step_is_shown_beside_what_it_read(database: Database) -> None:
    second = replace(COPY, revision="sha256:2")
    steps = (StepRequest("first", COPY), StepRequest("second", second, "first"))
    job = read(database, JobRequest("books", "a.jsonl", steps), [("a", "apple tree")])
    work(
        database, lambda claim: [Outcome(key, Status.DONE, text=f"{text}!", tokens_in=2) for key, text in claim.texts]
    )
    text = _Read(_page(database, job.id)).text
    assert "Results of first 1 document has a result." in text
    assert "Input apple tree Output apple tree!" in text
    assert "Input apple tree! Output apple tree!!" in text


def test_shards_that_a_worker_held_at_once_count_once() -> None:
    held = [("w1", 0, 10), ("w1", 5, 12), ("w1", 6, 7), ("w1", 20, 21), ("w2", 0, 3)]
    assert sum_device_seconds(held) == {"w1": 13, "w2": 3}
