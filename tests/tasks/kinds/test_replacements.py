"""Replacements stand at their places, and nothing of what they replace is left."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kinds.replacements import Finding, joined, replaced, replacing, whole_words

SCRIPTS = "aB3 é中にไทяق\u0301𐍈-.[]\n"
TEXTS = st.text(alphabet=SCRIPTS, max_size=40)


@st.composite
def texts_and_findings(draw: st.DrawFn) -> tuple[str, list[Finding]]:
    text = draw(TEXTS)
    place = st.integers(0, len(text))
    one = st.builds(
        lambda label, a, b, score: Finding(label, min(a, b), max(a, b), score),
        st.sampled_from(["PER", "EMAIL", "IBAN"]),
        place,
        place,
        st.sampled_from([0.5, 1.0]),
    )
    return text, draw(st.lists(one, max_size=6))


@pytest.mark.parametrize("method", ["tag", "hash", "mask"])
@given(given_=texts_and_findings())
def test_each_replacement_stands_at_its_place_and_the_rest_is_as_before(
    method: str, given_: tuple[str, list[Finding]]
) -> None:
    text, findings = given_
    new, done = replaced(text, findings, replacing(method, "a secret text"))  # type: ignore[arg-type]
    covered = {at for one in findings for at in range(one.start, one.end)}
    assert {at for one in done for at in range(one.source_start, one.source_end)} == covered
    at = source = 0
    for one in done:
        assert new[at : one.start] == text[source : one.source_start]
        assert new[one.start : one.end] == one.text
        at, source = one.end, one.source_end
    assert new[at:] == text[source:]
    if method == "mask":
        assert len(new) == len(text)
        assert all(new[at] == "*" or new[at].isspace() for at in covered)


@given(texts_and_findings())
def test_joined_findings_do_not_overlap_and_have_the_label_of_the_longest(given_: tuple[str, list[Finding]]) -> None:
    _, findings = given_
    found = joined(findings)
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))
    for one in found:
        members = [each for each in findings if each.start < each.end and one.start <= each.start < one.end]
        most = max(each.end - each.start for each in members)
        assert (one.label, one.score) in {
            (each.label, each.score) for each in members if each.end - each.start == most
        }


def test_a_name_inside_an_address_is_part_of_the_address() -> None:
    text = "ana@example.org"
    findings = [Finding("PER", 0, 3, 0.9), Finding("EMAIL", 0, 15, 1.0)]
    assert replaced(text, findings, replacing("tag"))[0] == "[EMAIL]"


def test_findings_that_overlap_in_part_leave_nothing_of_either() -> None:
    findings = [Finding("PER", 0, 6, 0.9), Finding("EMAIL", 4, 8, 1.0)]
    assert replaced("abcdefgh.", findings, replacing("tag"))[0] == "[PER]."


def test_a_pseudonym_is_the_same_for_the_same_name_and_another_with_another_salt() -> None:
    hashed, other = replacing("hash", "a secret text"), replacing("hash", "another text")
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
    begin, end = whole_words(text, start, start + len(part))
    assert text[begin:end] == word
