"""Redacting replaces what a model and the patterns find, over the whole text, and stores nothing of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.storage.core.specs import Outcome, Status
from docmill.storage.outputs.output_types import REDACTED
from docmill.tasks import kinds
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import BadOption, CannotServe
from docmill.tasks.kinds.base import Traits
from docmill.tasks.kinds.redact import join_findings, replace_parts, replacement_by, widen_to_words
from docmill.tasks.models import weightless
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Output, Span, Spans
from docmill.tasks.specs.pinning import Pinned
from docmill.tasks.specs.plan import build_spec
from docmill.tasks.windows.windows import Window
from tests.tasks.conftest import data_of
from tests.tasks.fakes import join
from tests.tasks.kinds.test_entities import LABELS, scores
from tests.tasks.windows.test_windows import Letters

MODEL = Pinned("model", "0" * 40)
PATTERNS = Pinned(weightless.PATTERNS, "patterns:1")
MAIL = "ana@example.org"


def redacted(
    text: str,
    outputs: list[Output] | None = None,
    windows: list[Window] | None = None,
    config: dict[str, Any] | None = None,
    **given: Any,
) -> Outcome:
    """Return the outcome of a text whose windows have these outputs; one window, and nothing found, by default."""
    spec = build_spec("redact", MODEL if outputs else PATTERNS, kinds.options("redact", **given), config or {})
    recipe = kinds.recipe(spec, Traits())
    windows = windows or [Window(0, len(text), None)]
    joined = join(recipe, text, windows, outputs or [Spans(())])
    assert joined.status is not Status.DONE or REDACTED.problem(joined) is None
    return joined


def test_names_by_the_model_and_addresses_by_patterns_are_replaced_together() -> None:
    text = f"Ana Pérez has {MAIL}."
    found = redacted(text, [Spans((Span("per", 0, 9, 0.75),))])
    assert found.text == "[PER] has [EMAIL]."
    per, mail = data_of(found)["spans"]
    assert per == {
        "label": "PER",
        "text": "[PER]",
        "start": 0,
        "end": 5,
        "source_start": 0,
        "source_end": 9,
        "score": 0.75,
    }
    assert text[mail["source_start"] : mail["source_end"]] == MAIL
    assert MAIL not in str(found.data)


def test_a_text_in_several_windows_is_redacted_once_and_in_whole_words() -> None:
    text = f"ab CDEF gh {MAIL} ABCDEFGHIJKLMNOP c " + "x" * 40
    windows = kinds.recipe(build_spec("redact", MODEL, kinds.options("redact"), {}), Traits()).cut(
        [text], Letters(16)
    )[0]
    assert len(windows) > 2
    found = redacted(text, [scores(window, text) for window in windows], windows)
    assert found.text == "ab [UP] gh [EMAIL] [UP] c " + "x" * 40
    assert found.flags == ("windowed",)
    assert LABELS[1] == "B-UP"


def test_a_worker_with_other_patterns_does_not_open_the_spec() -> None:
    spec = build_spec("redact", PATTERNS, kinds.options("redact"), {})
    other = replace(spec, params={**spec.params, "patterns_version": 99})
    for one in (other, replace(other, model="null", revision="null:1")):
        with pytest.raises(CannotServe, match="by patterns 3, not by 99"):
            open_backend(one, device="cpu", folders=ModelFolders(None, Path("none")))


def test_only_the_asked_patterns_and_labels_count() -> None:
    text = f"Ana in Rome: {MAIL}, 10.0.0.1"
    spans = Spans((Span("PER", 0, 3, 1.0), Span("LOC", 7, 11, 1.0)))
    assert redacted(text, [spans], entity=("loc",)).text == "Ana in [LOC]: [EMAIL], [IP]"
    assert redacted(text, pattern=("ip",)).text == f"Ana in Rome: {MAIL}, [IP]"


@pytest.mark.parametrize(
    ("pinned", "given", "message"),
    [
        (PATTERNS, {"pattern": ("emial",)}, "--pattern must be email, .*, not 'emial'; did you mean email"),
        (PATTERNS, {"region": ("XX",)}, "--region must be the two letters of a country"),
        (PATTERNS, {"region": ("DE",), "pattern": ("ip",)}, "--region is for telephone numbers"),
        (PATTERNS, {"replace": "hash"}, "--replace hash needs --salt"),
        (PATTERNS, {"salt": "a secret text"}, "--salt is for the pseudonyms"),
        (PATTERNS, {"replace": "hash", "salt": "short"}, "--salt must have at least 8 characters."),
        (PATTERNS, {"entity": ("PER",)}, "--entity is for the labels of a model"),
    ],
)
def test_options_that_do_not_fit_are_refused(pinned: Pinned, given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        build_spec("redact", pinned, kinds.options("redact", **given), {})


LABELLED = {"model_type": "bert", "id2label": {"0": "O", "1": "B-package", "2": "I-package", "3": "B-LOC"}}


@pytest.mark.parametrize("written", ["package", "PACKAGE", "Package"])
def test_a_label_is_found_whatever_its_capitals(written: str) -> None:
    spec = build_spec("redact", MODEL, kinds.options("redact", entity=(written, "loc", "LOC")), LABELLED)
    assert spec.params["entity"] == ["package", "LOC"]
    spans = Spans((Span("PER", 0, 3, 1.0), Span("package", 9, 12, 1.0)))
    assert redacted("Ana uses vim.", [spans], config=LABELLED, entity=(written,)).text == "Ana uses [PACKAGE]."


SCRIPTS = "aB3 é中にไทяق\u0301𐍈-.[]\n"
TEXTS = st.text(alphabet=SCRIPTS, max_size=40)


@st.composite
def texts_and_findings(draw: st.DrawFn) -> tuple[str, list[Span]]:
    text = draw(TEXTS)
    place = st.integers(0, len(text))
    one = st.builds(
        lambda label, a, b, score: Span(label, min(a, b), max(a, b), score),
        st.sampled_from(["PER", "EMAIL", "IBAN"]),
        place,
        place,
        st.sampled_from([0.5, 1.0]),
    )
    return text, draw(st.lists(one, max_size=6))


@pytest.mark.parametrize("method", ["tag", "hash", "mask"])
@given(given_=texts_and_findings())
def test_each_replacement_stands_at_its_place_and_the_rest_is_as_before(
    method: str, given_: tuple[str, list[Span]]
) -> None:
    text, findings = given_
    output = replace_parts(text, findings, replacement_by(method, "a secret text"))  # type: ignore[arg-type]
    new, done = output.text or "", (output.data or {})["spans"]
    covered = {at for one in findings for at in range(one.start, one.end)}
    assert {at for one in done for at in range(one["source_start"], one["source_end"])} == covered
    at = source = 0
    for one in done:
        assert new[at : one["start"]] == text[source : one["source_start"]]
        assert new[one["start"] : one["end"]] == one["text"]
        at, source = one["end"], one["source_end"]
    assert new[at:] == text[source:]
    if method == "mask":
        assert len(new) == len(text)
        assert all(new[at] == "*" or new[at].isspace() for at in covered)


@given(texts_and_findings())
def test_joined_findings_do_not_overlap_and_have_the_label_of_the_longest(given_: tuple[str, list[Span]]) -> None:
    _, findings = given_
    found = join_findings(findings)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))
    for one in found:
        members = [each for each in findings if each.start < each.end and one.start <= each.start < one.end]
        most = max(each.end - each.start for each in members)
        assert (one.label, one.score) in {
            (each.label, each.score) for each in members if each.end - each.start == most
        }


def test_a_pseudonym_is_the_same_for_the_same_name_and_another_with_another_salt() -> None:
    hashed, other = replacement_by("hash", "a secret text"), replacement_by("hash", "another text")
    assert hashed("PER", "Ada  Lovelace") == hashed("PER", "ada lovelace")
    assert hashed("IBAN", "DE89 3704 0044") == hashed("IBAN", "de8937040044")
    assert hashed("PHONE", "+49 30 90-1820") == hashed("PHONE", "+4930901820")
    assert len({hashed("PER", "Ada"), hashed("PER", "Bob"), hashed("ORG", "Ada"), other("PER", "Ada")}) == 4


@pytest.mark.parametrize(
    ("text", "part", "word"),
    [
        ("met Anderson.", "Ander", "Anderson"),
        ("O'Brien-Smith", "Brien", "Brien"),
        ("naïve Zoé\u0308 x", "Zo", "Zoé\u0308"),
        ("東京都に住む", "東京", "東京"),
        ("สมชายไป", "สมชาย", "สมชาย"),
        ("Москве,", "Москв", "Москве"),
    ],
)
def test_a_finding_that_cuts_a_word_takes_all_of_it(text: str, part: str, word: str) -> None:
    start = text.index(part)
    begin, end = widen_to_words(text, start, start + len(part))
    assert text[begin:end] == word
