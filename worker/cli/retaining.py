"""The output of `docmill gc --retention`: the rows that each rule removes, or would remove."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from docmill.worker.cli import formatting
from docmill.worker.cli.context import open_store
from docmill.worker.cli.exit_codes import OK
from docmill.worker.cli.printing import print_json, say

if TYPE_CHECKING:
    from docmill.storage.deletion.ages import Ages
    from docmill.storage.deletion.rounds import Count, Swept
    from docmill.worker.settings import Settings


class Seconds(click.ParamType[float]):
    """A duration such as 90s, 10m or 1h, in seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        unit = {"s": 1, "m": 60, "h": 3600}.get(value[-1:].lower())
        try:
            found = float(value[:-1]) * (unit or 0)
        except ValueError:
            found = 0.0
        if not 0 < found < float("inf"):
            self.fail(f"{value!r} is no duration; write 90s, 10m or 1h", param, ctx)
        return found


def retain(settings: Settings, rows: int | None, seconds: float | None, dry_run: bool, as_json: bool) -> int:
    """Apply the rules of retention, or count the rows that they would remove."""
    from docmill.storage.deletion import rounds
    from docmill.storage.deletion.budget import Budget
    from docmill.worker import inventory

    ages = settings.ages
    with open_store(settings) as database:
        if dry_run:
            return _say_counts(rounds.count(database, ages), ages, as_json)
        swept = rounds.apply(database, ages, Budget.of(rows, seconds))
        for sentence in inventory.clear(settings, database):
            say(sentence)
    return _say_swept(swept, ages, as_json)


def _age(ages: Ages, rule: str) -> str:
    age_s = ages.get(rule)
    return "" if age_s is None else formatting.duration(age_s)


def _say_counts(counts: list[Count], ages: Ages, as_json: bool) -> int:
    if as_json:
        print_json({"ages_s": dict(ages.of), "rows": [asdict(one) for one in counts]})
        return OK
    from docmill.worker.cli import show
    from docmill.worker.cli.tables import table

    made = table("rule", "older than", "table", "rows", numbers=["rows"])
    for one in counts:
        made.add_row(one.rule, _age(ages, one.rule), one.table, f"{one.rows:,}")
    show.paper.print(made)
    _say_unset(ages)
    say("Nothing was removed: this was a dry run.")
    return OK


def _say_swept(swept: Swept, ages: Ages, as_json: bool) -> int:
    if as_json:
        print_json({"ages_s": dict(ages.of), "removed": swept.removed, "complete": swept.complete})
        return OK
    from docmill.worker.cli import show
    from docmill.worker.cli.tables import table

    made = table("rule", "older than", "rows removed", numbers=["rows removed"])
    for rule, rows in swept.removed.items():
        made.add_row(rule, _age(ages, rule), f"{rows:,}")
    show.paper.print(made)
    _say_unset(ages)
    if not swept.complete:
        say("More may be left: the limit was reached. The same command goes on.")
    return OK


def _say_unset(ages: Ages) -> None:
    from docmill.storage.deletion.ages import NAMES

    if unset := [rule for rule in NAMES if ages.get(rule) is None]:
        say(f"No age is set for {', '.join(unset)}: these rows stay.")
