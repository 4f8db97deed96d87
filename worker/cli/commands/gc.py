"""`docmill gc`: remove unreferenced texts, old results and superseded versions of documents."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict

import click

from docmill.storage.core.database import Database
from docmill.storage.deletion import gc, needed, removal, retention
from docmill.storage.deletion.gc import SpecResults
from docmill.storage.deletion.paging import RemovalBudget, Removed
from docmill.storage.deletion.retention import Ages
from docmill.storage.search import pgvector_index
from docmill.worker import formatting, inventory
from docmill.worker.cli.options import JSON, YES, named, number, whole_number
from docmill.worker.cli.printing import OK, confirm, print_json, print_rich, say
from docmill.worker.consoles import table
from docmill.worker.formatting import counted
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.settings import DAY_S, load_settings, parse_duration
from docmill.worker.stores import open_store

LACKING = "Then the results of jobs with these versions lack them."
RECOMPUTED = "A later job that needs them computes them again."


DRY_RUN = click.option("--dry-run", is_flag=True, help="Only report what would be removed.")


@click.group("gc")
def gc_command() -> None:
    """Remove unreferenced texts, old results and old versions of documents.

    Data of an unfinished job stays. You may interrupt each of these commands, and run it beside any other command.
    docmill computes a dropped result again when a job needs it.
    """


@gc_command.command("texts", epilog="Example: docmill gc texts --dry-run")
@DRY_RUN
@JSON
def texts_command(dry_run: bool, as_json: bool) -> int:
    """Remove texts that nothing refers to, with their results. The other commands do so, too."""
    return _collect(lambda _: (), dry_run, True, as_json)


@gc_command.command("results", epilog="Example: docmill gc results --older-than 90 --dry-run")
@click.option(
    "--older-than",
    "days",
    type=number(0),
    metavar="DAYS",
    help="Drop results that are older than DAYS, and versions that were superseded before that time.",
)
@click.option("--spec", help="Drop results of this spec only: its number in `corpus show`, or KIND/MODEL.")
@DRY_RUN
@YES
@JSON
def results_command(days: float | None, spec: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Drop old results, even results of current documents. The command counts the results, and asks."""
    if days is None and spec is None:
        raise click.UsageError("give --older-than DAYS, or --spec SPEC")
    return _collect(
        lambda database: None if spec is None else _specs(database, spec),
        dry_run,
        yes,
        as_json,
        older_than_s=(days or 0.0) * DAY_S,
        superseded=spec is None,
    )


@gc_command.command("versions", epilog="Example: docmill gc versions --older-than 90")
@click.option(
    "--older-than",
    "days",
    type=number(0),
    metavar="DAYS",
    help="Remove only versions that were superseded more than DAYS ago.",
)
@DRY_RUN
@YES
@JSON
def versions_command(days: float | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove superseded versions of documents.

    The command also removes their results. docmill keeps superseded versions until then, so that results of earlier
    jobs stay complete.
    """
    return _collect(lambda _: (), dry_run, yes, as_json, older_than_s=(days or 0.0) * DAY_S, superseded=True)


@gc_command.command("migrated", epilog="Example: docmill gc migrated --older-than 30")
@click.option(
    "--older-than",
    "days",
    type=number(0),
    metavar="DAYS",
    help="Drop only results of migrations that are older than DAYS.",
)
@DRY_RUN
@YES
@JSON
def migrated_command(days: float | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Drop results that a migration replaced in every corpus. Then it cannot be taken back."""
    replaced_before_s = (days or 0.0) * DAY_S
    return _collect(
        lambda database: _replaced_specs(database, replaced_before_s),
        dry_run,
        yes,
        as_json,
        note=lambda database, spec_ids: _note_dropped(database, spec_ids, replaced_before_s),
    )


@gc_command.command("retention", epilog="Example: docmill gc retention --for 1h")
@click.option("--limit", type=whole_number(1), help="Remove about this number of rows at most.")
@click.option(
    "--for", "seconds", type=named("duration", parse_duration), help="End after this time, such as 10m or 1h."
)
@click.option("--dry-run", is_flag=True, help="Only count the rows by table.")
@JSON
def retention_command(limit: int | None, seconds: float | None, dry_run: bool, as_json: bool) -> None:
    """Apply the retention rules.

    Set the rules with DOCMILL_RETENTION. The command removes old runs, shards, results and other rows that nothing
    needs. It does not ask, so you can run it on a schedule.
    """
    settings = load_settings()
    ages = settings.ages
    with open_store(settings) as database:
        if dry_run:
            _say_counts(retention.count(database, ages), ages, as_json)
            return
        removed, is_complete = retention.apply(database, ages, RemovalBudget.of(limit, seconds))
        for sentence in inventory.clear(settings, database):
            say(sentence)
    _say_swept(removed, is_complete, ages, as_json)


SpecIds = Collection[int] | None  # None stands for all specs


def _collect(
    choose: Callable[[Database], SpecIds],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    *,
    older_than_s: float = 0.0,
    superseded: bool = False,
    note: Callable[[Database, SpecIds], SpecIds] = lambda _, spec_ids: spec_ids,
) -> int:
    """Remove results of the chosen specs, after a question, and then the texts that nothing needs.

    With ``superseded``, also remove superseded versions. ``note`` is called before the removal, and may leave out
    specs.
    """
    settings = load_settings()
    with open_store(settings) as database:
        spec_ids = choose(database)
        old = Removed()
        if superseded:
            with database.read() as transaction:
                old = removal.count_versions(transaction, older_than_s)
        asks = dry_run or not yes  # otherwise the counts are not shown
        dropped = gc.count_old(database, older_than_s=older_than_s, spec_ids=spec_ids) if asks else []
        if dry_run:
            _say_would_remove(old, dropped, gc.count_unneeded(database), as_json)
            return OK
        if (old.documents or dropped) and not yes and not confirm("\n".join(_what("This drops:", old, dropped))):
            return BAD_INPUT
        spec_ids = note(database, spec_ids)
        removed = removal.remove_versions(database, older_than_s) if superseded else Removed()
        removed += gc.drop(database, older_than_s=older_than_s, spec_ids=spec_ids)
        removed += gc.collect(database)
        for sentence in inventory.clear(settings, database):
            say(sentence)
        vanished = removal.count_vanished(database)
    if as_json:
        counts = {"superseded": removed.documents, "readings": removed.ingests}
        print_json({**_counts(removed), **counts, "vanished": vanished})
    else:
        _say_removed(removed, vanished)
    return OK


def _specs(database: Database, spec: str) -> SpecIds:
    spec_ids = gc.specs(database, spec)
    if not spec_ids:
        unknown = "there is no such spec; `docmill corpus show` names them"
        raise click.BadParameter(unknown, param_hint="--spec")
    return spec_ids


def _replaced_specs(database: Database, before_s: float) -> SpecIds:
    spec_ids, staying = needed.replaced_specs(database, before_s)
    for sentence in staying:
        say(f"{sentence}.")
    return spec_ids


def _note_dropped(database: Database, spec_ids: SpecIds, before_s: float) -> SpecIds:
    """Return the specs that still may be dropped: a migration may have been undone while the command asked."""
    dropped = needed.note_dropped(database, spec_ids or (), before_s)
    for spec_id in dropped:
        pgvector_index.drop(database, spec_id)
    return dropped


def _what(begins: str, old: Removed, dropped: list[SpecResults]) -> list[str]:
    """Return lines about superseded versions and results that go."""
    versions = [f"  {_old_versions(old)}"] if old.documents else []
    then = [LACKING] if old.documents else []
    return [begins, *versions, *map(_of_spec, dropped), *then, *([RECOMPUTED] if dropped else [])]


def _of_spec(of: SpecResults) -> str:
    """Return a line about the results of one spec."""
    tokens = f"{of.tokens_in:,} tokens read, {of.tokens_out:,} written"
    return f"  spec {of.spec_id}, {of.spec}: {counted(of.outcomes, 'result')}, {tokens}"


def _old_versions(old: Removed) -> str:
    return f"{counted(old.documents, 'superseded version')} of documents, {counted(old.ingests, 'reading')}"


def _say_would_remove(old: Removed, dropped: list[SpecResults], unneeded: Removed, as_json: bool) -> None:
    """Print the versions and results that would be removed, and the texts that nothing needs now."""
    if as_json:
        counts = {"superseded": old.documents, "readings": old.ingests, "unneeded": _counts(unneeded)}
        print_json({"dropped": [asdict(of_spec) for of_spec in dropped], **counts})
        return
    if old.documents or dropped:
        say("\n".join(_what("This would drop:", old, dropped)))
    say(f"Texts that nothing needs: {unneeded.contents:,}, with {counted(unneeded.outcomes, 'result')}.")
    say("Nothing was removed: this was a dry run.")


def _counts(removed: Removed) -> dict[str, int]:
    return {"contents": removed.contents, "outcomes": removed.outcomes}


def _say_removed(removed: Removed, vanished: dict[str, int]) -> None:
    parts = [counted(removed.contents, "text"), counted(removed.outcomes, "result")]
    if removed.documents or removed.ingests:
        parts.append(_old_versions(removed))
    say(f"Removed: {', '.join(parts)}.")
    for name, n in vanished.items():
        advice = f"`docmill corpus rm {shlex.quote(name)} --vanished` removes them"
        which = f"{formatting.documents(n)} that vanished from its sources"
        say(f"The corpus {name} keeps {which}, with their texts; {advice}.")


def _age(ages: Ages, rule: str) -> str:
    age_s = ages.get(rule)
    return "" if age_s is None else formatting.duration(age_s)


def _say_counts(counts: Mapping[str, Mapping[str, int]], ages: Ages, as_json: bool) -> None:
    if as_json:
        rows = [
            {"rule": rule, "table": name, "rows": n} for rule, tables in counts.items() for name, n in tables.items()
        ]
        print_json({"ages_s": ages, "rows": rows})
        return

    made = table("rule", "older than", "table", "rows", numbers=["rows"])
    for rule, tables in counts.items():
        for name, n in tables.items():
            made.add_row(rule, _age(ages, rule), name, f"{n:,}")
    print_rich(made)
    _say_unset(ages)
    say("Nothing was removed: this was a dry run.")


def _say_swept(removed: Mapping[str, int], is_complete: bool, ages: Ages, as_json: bool) -> None:
    if as_json:
        print_json({"ages_s": ages, "removed": removed, "complete": is_complete})
        return

    made = table("rule", "older than", "rows removed", numbers=["rows removed"])
    for rule, rows in removed.items():
        made.add_row(rule, _age(ages, rule), f"{rows:,}")
    print_rich(made)
    _say_unset(ages)
    if not is_complete:
        say("More may be left: the limit was reached. The same command goes on.")


def _say_unset(ages: Ages) -> None:
    if unset := [rule.name for rule in retention.every_rule() if rule.name not in ages]:
        say(f"No age is set for {', '.join(unset)}: these rows stay.")
