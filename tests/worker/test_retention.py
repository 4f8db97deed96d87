"""The setting of retention: an age for each rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docmill.worker.errors import WorkerError
from docmill.worker.settings import DAY_S, load_settings, parse_age


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without a .env


def test_ages_have_units_and_bounds() -> None:
    days = [parse_age(age) / DAY_S for age in ("12h", "90d", "6w", "1.5d", "1h", "1000y")]  # type: ignore[operator]
    assert days == [0.5, 90, 42, 1.5, 1 / 24, 365_000]
    assert parse_age("never") is None
    for wrong in ("90", "d", "-1d", "1 month", "nan d"):
        with pytest.raises(ValueError, match="is not an age; write 12h, 90d, 6w, 1y or never"):
            parse_age(wrong)
    for wrong in ("0d", "0.5h", "1001y", "9" * 400 + "y"):
        with pytest.raises(ValueError, match="is not an age from 1h to 1000y; write never to keep all"):
            parse_age(wrong)


def test_without_settings_upkeep_has_its_days_and_nothing_else_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMILL_RETENTION_DAYS", "10")
    assert load_settings().ages == dict.fromkeys(("runs", "step_texts", "rejections"), 10 * DAY_S)


def test_an_explicit_age_beats_the_days_of_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCMILL_RETENTION", "results=1y, shards=2w,step_texts=never,rejections=never")
    upkeep = {"runs": 90 * DAY_S}
    assert load_settings().ages == upkeep | {"results": 365 * DAY_S, "shards": 14 * DAY_S}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("results", "results: '' is not an age"),
        ("runs=1y,result=1y", "unknown rule 'result'; the rules are step_texts,"),
        ("docmill.toml", "unknown rule 'docmill.toml'"),
    ],
)
def test_wrong_ages_and_rules_are_refused_with_their_names(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("DOCMILL_RETENTION", value)
    with pytest.raises(WorkerError, match=re.escape(message)):
        load_settings()
