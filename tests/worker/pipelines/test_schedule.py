"""A pipeline is due once at each of its times, whatever the clocks do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docmill.worker.pipelines.schedule import BadSchedule, check, due, next_after
from tests.worker.harness import run_python

DAY_S = 86_400
PARIS = "Europe/Paris"


def parse_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_in_the_hour_that_clocks_repeat_the_next_time_is_later() -> None:
    later = next_after("0 * * * *", PARIS, parse_time("2026-10-25T02:00+02:00"))
    assert later == parse_time("2026-10-25T02:00+01:00")


def test_next_is_strictly_later_and_due_includes_now_but_not_since() -> None:
    schedule, noon = ("0 12 * * *", "UTC"), parse_time("2026-01-01T12:00+00:00")
    assert next_after(*schedule, noon - 0.25) == noon
    assert next_after(*schedule, noon) == noon + DAY_S == next_after(*schedule, noon + 0.25)
    assert due(*schedule, noon - 1, noon - 0.25) is None
    assert due(*schedule, noon - 0.25, noon) == due(*schedule, noon - 0.25, noon + 0.25) == noon
    assert due(*schedule, noon, noon + 60) is None
    assert due(*schedule, noon + 60, noon - 60) is None


@pytest.mark.parametrize(
    ("cron", "since", "now", "expected"),
    [
        ("50 2 * * *", "2026-10-25T02:20+02:00", "2026-10-25T02:50+01:00", "2026-10-25T02:50+02:00"),
        ("50 2 * * *", "2026-10-25T02:50+02:00", "2026-10-25T02:55+01:00", None),
        ("*/20 * * * *", "2026-10-25T02:20+02:00", "2026-10-25T02:10+01:00", "2026-10-25T02:00+01:00"),
        ("*/20 2 * * *", "2026-03-28T02:50+01:00", "2026-03-29T04:00+02:00", None),
        ("30 2 * * *", "2026-03-28T02:50+01:00", "2026-03-29T04:00+02:00", "2026-03-29T03:00+02:00"),
        ("30 2 * * *", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00", None),
    ],
)
def test_the_due_time_on_a_night_when_clocks_change(cron: str, since: str, now: str, expected: str | None) -> None:
    assert due(cron, PARIS, parse_time(since), parse_time(now)) == (expected and parse_time(expected))


@pytest.mark.parametrize(
    ("cron", "timezone", "message"),
    [
        ("60 * * * *", "UTC", "cron is wrong: the minute cannot be '60'; write 0 to 59"),
        ("0 0 * * FRI-MON", "UTC", "cron is wrong: the day of the week cannot be 'FRI-MON'; write 0 (Sunday) to 7"),
        ("@daily", "UTC", "cron takes 5 fields .* '@daily' has 1"),
        ("0" * 501, "UTC", "cron is longer than 500 characters"),
        ("0 0 30 2 *", "UTC", "cron '0 0 30 2 *' is a time that never comes"),
        ("*/10 2 * 3 7L", PARIS, "cron '*/10 2 * 3 7L' is a time that never comes in Europe/Paris"),
        ("0 0 * * *", "Paris", "timezone names no time zone: 'Paris'; did you mean Europe/Paris?"),
        ("0 0 * * *", "../../etc/passwd", "timezone names no time zone"),
        ("0 0 * * *", "", "timezone names no time zone: ''; write an IANA name, such as Europe/Paris"),
    ],
)
def test_a_bad_schedule_is_refused_with_what_is_wrong(cron: str, timezone: str, message: str) -> None:
    pattern = message if ".*" in message else message.translate({ord(sign): f"\\{sign}" for sign in "*()?"})
    with pytest.raises(BadSchedule, match=pattern) as caught:
        check(cron, timezone)
    assert "\n" not in str(caught.value)
    if "never comes in" in message:  # by the rules of 1970 it came
        return
    with pytest.raises(BadSchedule):
        next_after(cron, timezone, 0.0)
    with pytest.raises(BadSchedule):
        due(cron, timezone, 0.0, 1.0)


@pytest.mark.parametrize("cron", ["* * * * *", "0 0 29 2 */7", "0 0 30 2 1"])
def test_a_rare_time_is_accepted(cron: str) -> None:
    check(cron, PARIS)
    assert next_after(cron, PARIS, parse_time("2096-03-01T00:00+00:00")) > 0  # 2100 has no 29 February


@given(
    st.lists(st.text(st.sampled_from("0123456789*/,-#LWSUNMOJAé²"), min_size=1, max_size=6), min_size=5, max_size=5)
)
def test_any_text_is_a_schedule_or_is_refused(fields: list[str]) -> None:
    try:
        check(" ".join(fields), "UTC")
    except BadSchedule:
        return
    assert next_after(" ".join(fields), "UTC", datetime(2026, 1, 1, tzinfo=UTC).timestamp()) > 0


def test_time_zones_are_known_on_a_machine_that_has_none() -> None:
    program = (
        "from docmill.worker.pipelines.schedule import check; check('0 3 * * *', 'Europe/Paris'); print('known')"
    )
    completed = run_python(program, env={"PYTHONTZPATH": ""})
    assert completed.stdout == "known\n", completed.stderr
