"""`docmill gc`: remove what nothing refers to, and results by age or spec."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from worker.cli import formatting
from worker.cli.context import open_store, settings_from
from worker.cli.exit_codes import BAD_INPUT, OK
from worker.cli.options import JSON
from worker.cli.printing import confirmed, print_json, say

if TYPE_CHECKING:
    from storage.disposal.collection import Collected
    from storage.disposal.cost import Cost

DAY_S = 86_400.0
RECOMPUTED = "Whoever asks for them again has them computed anew."


@click.command("gc", epilog="Example: docmill gc --older-than 90 --spec embed/minilm --dry-run")
@click.option("--older-than", "days", type=click.FloatRange(0), help="Drop results that are older than so many DAYS.")
@click.option("--spec", help="Drop results of this spec only: its number in `corpus show`, or KIND/MODEL.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed, and how long it took to compute.")
@click.option("--yes", is_flag=True, help="Drop results without asking.")
@JSON
def gc_command(days: float | None, spec: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove texts that nothing refers to, and with an option results too: by age, by spec or by both.

    What an unfinished job works with stays. Dropped results are computed again when somebody asks for them, so the
    command says what they took and asks first. It may be interrupted, and run beside anything else.
    """
    from storage.disposal import collection, cost, removal, selection

    with open_store(settings_from()) as database:
        spec_ids = None
        if spec is not None:
            spec_ids = collection.specs(database, spec)
            if not spec_ids:
                unknown = "no spec is called that; `docmill corpus show` names them"
                raise click.BadParameter(unknown, param_hint="--spec")
        removed, older_than_s = collection.Collected(), (days or 0.0) * DAY_S
        drops = days is not None or spec is not None
        costs = cost.of_dropping(database, older_than_s=older_than_s, spec_ids=spec_ids) if drops else []
        if dry_run:
            return _say_would_remove(costs, cost.of_collecting(database), as_json)
        if costs and not yes and not confirmed("\n".join(["This drops:", *map(_cost, costs), RECOMPUTED])):
            return BAD_INPUT
        if costs:
            removed += collection.drop(database, older_than_s=older_than_s, spec_ids=spec_ids)
        removed += collection.collect(database)
        removal.settle(database)
        vanished = selection.count_vanished(database)
    if as_json:
        print_json({**asdict(removed), "vanished": vanished})
        return OK
    say(f"Removed: {removed.contents:,} texts, {removed.outcomes:,} results.")
    for name, n in vanished.items():
        advice = f"`docmill corpus rm {shlex.quote(name)} --vanished` removes them"
        kept = f"{formatting.documents(n)} that vanished from its sources, with their texts"
        say(f"The corpus {name} keeps {kept}; {advice}.")
    return OK


def _cost(of: Cost) -> str:
    """Return a line about the results of one spec and what they took."""
    took = "" if of.seconds is None else f", about {formatting.duration(of.seconds)} as they were computed"
    tokens = f"{of.tokens_in:,} tokens read, {of.tokens_out:,} written"
    return f"  spec {of.spec_id}, {of.spec}: {of.outcomes:,} result{'s' * (of.outcomes != 1)}, {tokens}{took}"


def _say_would_remove(costs: list[Cost], unneeded: Collected, as_json: bool) -> int:
    if as_json:
        print_json({"dropped": [asdict(one) for one in costs], "unneeded": asdict(unneeded)})
        return OK
    if costs:
        say("\n".join(["This would drop:", *map(_cost, costs), RECOMPUTED]))
    say(f"Texts that nothing needs: {unneeded.contents:,}, with {unneeded.outcomes:,} results.")
    say("Nothing was removed: this was a dry run.")
    return OK
