"""Patterns find generated personal data in five languages, and little else."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import redact
from docmill.tasks import patterns
from docmill.tasks.kinds.redact import replace_parts
from docmill.tasks.outputs import Span


@pytest.mark.parametrize(
    ("text", "regions", "expected"),
    [
        ("Call +49 30 901820 today.", (), ["+49 30 901820"]),
        ("Call (030) 901820 today.", (), []),
        ("Call (030) 901820 today.", ("DE",), ["(030) 901820"]),
        ("Call 212-555-2368 or +1 212 555 2368.", ("DE", "US"), ["212-555-2368", "+1 212 555 2368"]),
        ("On 2026-11-27 at 10:30 it cost 1,234.56.", ("US", "DE"), []),
    ],
)
def test_national_telephone_numbers_count_where_their_region_is_given(
    text: str, regions: Collection[str], expected: list[str]
) -> None:
    places = sorted((start, end) for _, start, end in patterns.find(text, ["phone"], regions))
    assert sorted(text[start:end] for start, end in places) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ip", "from 192.168.1.10, port 80", ["192.168.1.10"]),
        ("ip", "at 2001:db8::1: and fe80::1%eth0.", ["2001:db8::1", "fe80::1"]),
        ("ip", "a::b, std::vector, 10:20:30, 1.2.3.4.5, 300.1.1.1, v1.2.3.4", []),
        (
            "url",
            "see https://x.org/~a, www.example.com/a?b=1. Not example.com or file.py.",
            ["https://x.org/~a", "www.example.com/a?b=1"],
        ),
        ("email", "Mail <ana@mail.example.org>, not ana@localhost or @ana.", ["ana@mail.example.org"]),
        ("iban", "FR14 2004 1010 0505 0001 3M02 606 Und so", ["FR14 2004 1010 0505 0001 3M02 606"]),
        ("iban", "de89370400440532013000, DE89370400440532013001", ["de89370400440532013000"]),
        ("iban", "DE89 DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        ("card", "4111-1111-1111-1111 and 4111 1111 1111 1112, 0.4111111111111111", ["4111-1111-1111-1111"]),
    ],
)
def test_a_finding_has_the_whole_address_or_number(name: str, text: str, expected: list[str]) -> None:
    assert [text[start:end] for _, start, end in patterns.find(text, [name])] == expected


# Personal data in surroundings that once hid it.
@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("ana@startup.dev, bo@a.berlin, cy@b.bank", "[EMAIL], [EMAIL], [EMAIL]"),
        ("**bob@example.org** [carol@x.org] `dave@x.org` 'eve@x.org'", "**[EMAIL]** [[EMAIL]] `[EMAIL]` '[EMAIL]'"),
        ("o'neil@x.org, müller@x.org, ana@müller.de, 用户@例子.中国", "[EMAIL], [EMAIL], [EMAIL], [EMAIL]"),
        ("to=ana@x.org bob%40x.org bob&#64;x.org bob@x.org입니다", "to=[EMAIL] [EMAIL] [EMAIL] [EMAIL]입니다"),
        ('"a b"@x.org ana@[10.0.0.1] q="ana@x.org"', '[EMAIL] [EMAIL] q="[EMAIL]"'),
        (r"\nana@x.org\n192.168.1.1\nwww.x.org\n", r"\n[EMAIL]\n[IP]\n[URL]\n"),
        ("[a](https://x.org/a_(b)) **https://x.org/a** (www.x.org)", "[a]([URL]) **[URL]** ([URL])"),
        ("url=https://x.org/a;`ssh://ana@x.org` https:\\/\\/x.org //x.org/a", "url=[URL];`[URL]` [URL] [URL]"),
        ("4111.1111.1111.1111 4111 1111\n1111 1111, 4111–1111–1111–1111", "[CARD] [CARD], [CARD]"),
        ("ana,4111111111111111,12/26 4111 1111 1111 1111 123", "ana,[CARD],12/26 [CARD] 123"),
        ("DE89.3704.0044.0532.0130.00, IBANDE89370400440532013000", "[IBAN], IBAN[IBAN]"),
        ("0049 30 901820, 011 49 30 901820, +49 (0)30 901820, (+49) 30 901820", "[PHONE], [PHONE], [PHONE], [PHONE]"),
        ("x+49 30 901820 tel:+49-30-901820, 001-555-123-4567x12", "x[PHONE] tel:[PHONE], [PHONE]"),
        ("ip:2001:db8::1, _2001:db8::1_ _10.0.0.1_ 192.168.001.010", "ip:[IP], _[IP]_ _[IP]_ [IP]"),
    ],
)
def test_personal_data_is_found_in_any_surroundings(text: str, redacted: str) -> None:
    findings = [Span(*place, 1.0) for place in patterns.find(text, patterns.PATTERNS)]
    assert replace_parts(text, findings, lambda label, _text: f"[{label}]").text == redacted


@pytest.mark.parametrize("name", list(patterns.PATTERNS))
def test_no_form_and_no_surroundings_hide_much(name: str) -> None:
    # As `make bench-redact` measures, without the packages that it downloads.
    for group, forms in redact.measure(redact.read_corpus(None, seed=7), 40, [name])[name].items():
        for form, (texts, whole, exact) in forms.items():
            assert whole >= 0.9 * texts, (group, form)
            assert exact >= 0.8 * texts or name == "url" or group == "scripts without spaces", (group, form)


def test_few_texts_without_personal_data_are_changed() -> None:
    alarms = redact.false_alarms(redact.read_corpus(None, seed=7), 20)
    for name in patterns.PATTERNS:
        assert sum(alarms[name].values()) <= 0.02 * sum(alarms["texts"].values()), name


WORDS = st.sampled_from(
    ["a@b.org", "://", "www.", "1.2.3.4", "::", "+49 30 ", "DE89", " ", "0", "é", "中", "\0", "٣٤"]
)


@given(st.lists(WORDS | st.text(max_size=4), max_size=30).map("".join))
def test_findings_lie_in_the_text_and_those_of_one_pattern_do_not_overlap(text: str) -> None:
    for name in patterns.PATTERNS:
        places = sorted((start, end) for _, start, end in patterns.find(text, [name]))
        assert all(0 <= start < end <= len(text) for start, end in places)
        if name not in {"ip", "phone"}:  # an IPv6 address may end with an IPv4 address, and regions may disagree
            assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(places))


# Repeated, each of these makes a naive regular expression try every end for every start.
HOSTILE = (
    "a", "é", "@", "a@", "a.", "a@a.", "a=", "a'", '"a', "%40", "1", "1 ", "1.", "0", "00 1", "+1", "+1 ", "DE89 ",
    "DE 89", "4111 ", "http://", "http:", "//a.", "www.", "www.a", "://", "](", "._", ")", "()", "&quot", "&#0", ":",
    "1:", "a:", "::", "_", "-", "\\n", "\n", "中",
)  # fmt: skip


def test_the_time_for_a_hostile_text_grows_with_its_length() -> None:
    for hostile in HOSTILE:
        patterns.find(hostile * (30_000 // len(hostile)), patterns.PATTERNS)  # quadratic time would take minutes
