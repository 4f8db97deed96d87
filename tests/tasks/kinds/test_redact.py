"""Redaction replaces what a model and the patterns find in the whole text, and stores none of it."""

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
from docmill.tasks.windows.windows import Window
from tests.tasks.conftest import data_of
from tests.tasks.fakes import PINNED, join, plan_spec
from tests.tasks.kinds.test_entities import LABELS, make_scores
from tests.tasks.windows.test_windows import Letters

PATTERNS = Pinned(weightless.PATTERNS, "patterns:1")
MAIL = "ana@example.org"


def redact(
    text: str,
    outputs: list[Output] | None = None,
    windows: list[Window] | None = None,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Outcome:
    """Return the outcome of a text whose windows have these outputs. By default one window has no entities."""
    spec = plan_spec("redact", config, pinned=PINNED if outputs else PATTERNS, **options)
    windows = windows or [Window(0, len(text), None)]
    joined = join(kinds.recipe(spec, Traits()), text, windows, outputs or [Spans(())])
    assert joined.status is not Status.DONE or REDACTED.problem(joined) is None
    return joined


def test_names_by_the_model_and_addresses_by_patterns_are_replaced_together() -> None:
    text = f"Ana Pérez has {MAIL}."
    outcome = redact(text, [Spans((Span("per", 0, 9, 0.75),))])
    assert outcome.text == "[PER] has [EMAIL]."
    per, mail = data_of(outcome)["spans"]
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
    assert MAIL not in str(outcome.data)


def test_a_text_in_several_windows_is_redacted_once_and_in_whole_words() -> None:
    text = f"ab CDEF gh {MAIL} ABCDEFGHIJKLMNOP c " + "x" * 40
    (windows,) = kinds.recipe(plan_spec("redact"), Traits()).cut([text], Letters(16))
    assert len(windows) > 2
    outcome = redact(text, [make_scores(window, text) for window in windows], windows)
    assert outcome.text == "ab [UP] gh [EMAIL] [UP] c " + "x" * 40
    assert outcome.flags == ("windowed",)
    assert LABELS[1] == "B-UP"


def test_a_worker_with_other_patterns_does_not_open_the_spec() -> None:
    spec = plan_spec("redact", pinned=PATTERNS)
    other_version = replace(spec, params={**spec.params, "patterns_version": 99})
    for unserved in (other_version, replace(other_version, model="null", revision="null:1")):
        with pytest.raises(CannotServe, match="version 3 of the patterns, not 99"):
            open_backend(unserved, device="cpu", folders=ModelFolders(None, Path("none")))


def test_only_the_asked_patterns_and_labels_count() -> None:
    text = f"Ana in Rome: {MAIL}, 10.0.0.1"
    spans = Spans((Span("PER", 0, 3, 1.0), Span("LOC", 7, 11, 1.0)))
    assert redact(text, [spans], entity=("loc",)).text == "Ana in [LOC]: [EMAIL], [IP]"
    assert redact(text, pattern=("ip",)).text == f"Ana in Rome: {MAIL}, [IP]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": ("emial",)}, "--pattern must be email, .*, not 'emial'; did you mean email"),
        ({"region": ("XX",)}, "--region must be the two letters of a country"),
        ({"region": ("DE",), "pattern": ("ip",)}, "--region is for telephone numbers"),
        ({"replace": "hash"}, "--replace hash needs --salt"),
        ({"salt": "a secret text"}, "--salt is for the pseudonyms"),
        ({"replace": "hash", "salt": "short"}, "--salt must have at least 8 characters."),
        ({"entity": ("PER",)}, "--entity is for the labels of a model"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        plan_spec("redact", pinned=PATTERNS, **options)


LABELLED = {"model_type": "bert", "id2label": {"0": "O", "1": "B-package", "2": "I-package", "3": "B-LOC"}}


@pytest.mark.parametrize("written", ["package", "PACKAGE", "Package"])
def test_a_label_is_found_whatever_its_capitals(written: str) -> None:
    spec = plan_spec("redact", LABELLED, entity=(written, "loc", "LOC"))
    assert spec.params["entity"] == ["package", "LOC"]
    spans = Spans((Span("PER", 0, 3, 1.0), Span("package", 9, 12, 1.0)))
    assert redact("Ana uses vim.", [spans], config=LABELLED, entity=(written,)).text == "Ana uses [PACKAGE]."


SCRIPTS = "aB3 é中にไทяق\u0301𐍈-.[]\n"
TEXTS = st.text(alphabet=SCRIPTS, max_size=40)


@st.composite
def texts_and_findings(draw: st.DrawFn) -> tuple[str, list[Span]]:
    """Draw a text and spans in it, which may overlap or be empty."""
    text = draw(TEXTS)
    place = st.integers(0, len(text))
    span = st.builds(
        lambda label, a, b, score: Span(label, min(a, b), max(a, b), score),
        st.sampled_from(["PER", "EMAIL", "IBAN"]),
        place,
        place,
        st.sampled_from([0.5, 1.0]),
    )
    return text, draw(st.lists(span, max_size=6))


@pytest.mark.parametrize("method", ["tag", "hash", "mask"])
@given(example=texts_and_findings())
def test_each_replacement_stands_at_its_place_and_the_rest_is_as_before(
    method: str, example: tuple[str, list[Span]]
) -> None:
    text, findings = example
    output = replace_parts(text, findings, replacement_by(method, "a secret text"))  # type: ignore[arg-type]
    new, replaced = output.text or "", (output.data or {})["spans"]
    covered = {at for finding in findings for at in range(finding.start, finding.end)}
    assert {at for part in replaced for at in range(part["source_start"], part["source_end"])} == covered
    at = source = 0
    for part in replaced:
        assert new[at : part["start"]] == text[source : part["source_start"]]
        assert new[part["start"] : part["end"]] == part["text"]
        at, source = part["end"], part["source_end"]
    assert new[at:] == text[source:]
    if method == "mask":
        assert len(new) == len(text)
        assert all(new[at] == "*" or new[at].isspace() for at in covered)


@given(texts_and_findings())
def test_joined_findings_do_not_overlap_and_have_the_label_of_the_longest(example: tuple[str, list[Span]]) -> None:
    parts = [part for part in example[1] if part.start < part.end]
    joined = join_findings(example[1])
    assert all(earlier.end <= later.start for earlier, later in itertools.pairwise(joined))
    for finding in joined:
        inside = [part for part in parts if finding.start <= part.start < finding.end]
        longest = max(part.end - part.start for part in inside)
        labels = {(part.label, part.score) for part in inside if part.end - part.start == longest}
        assert (finding.label, finding.score) in labels


def test_a_pseudonym_is_the_same_for_the_same_name_and_another_with_another_salt() -> None:
    pseudonym, salted = replacement_by("hash", "a secret text"), replacement_by("hash", "another text")
    assert pseudonym("PER", "Ada  Lovelace") == pseudonym("PER", "ada lovelace")
    assert pseudonym("IBAN", "DE89 3704 0044") == pseudonym("IBAN", "de8937040044")
    assert pseudonym("PHONE", "+49 30 90-1820") == pseudonym("PHONE", "+4930901820")
    assert len({pseudonym("PER", "Ada"), pseudonym("PER", "Bob"), pseudonym("ORG", "Ada"), salted("PER", "Ada")}) == 4


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
