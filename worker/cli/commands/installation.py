"""Commands about an installation: `docmill db`, `doctor` and `completion`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict

import click
from click.shell_completion import get_completion_class

from docmill.storage.core.invariants import PLANNING, Check, Invariant, check_invariants, invariants
from docmill.storage.leases.diagnosis import UNHEALTHY_S, check_health
from docmill.storage.migrations import upgrade
from docmill.storage.results.counts import recount
from docmill.worker.cli.options import JSON, Choice, number
from docmill.worker.cli.printing import OK, SOME_FAILED, answer, listen, print_json, say
from docmill.worker.formatting import counted, duration, wrapped
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store, store_of


@click.group("db")
def db_command() -> None:
    """Upgrade the store's schema, and correct its counts."""


@db_command.command(
    "upgrade", epilog="Example: DOCMILL_DATABASE_URL=postgresql://docmill@db/docmill docmill db upgrade"
)
@JSON
def upgrade_command(as_json: bool) -> None:
    """Upgrade the store's schema to this version. Safe to run twice, and while workers run."""
    with closing(store_of(load_settings())) as database:
        before, after = upgrade(database)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        say(f"The schema of {database} is up to date ({after}).")
    else:
        say(f"The schema of {database} went from {before or 'nothing'} to {after}.")


@db_command.command("recount", epilog="Example: docmill db recount")
@JSON
def recount_command(as_json: bool) -> None:
    """Correct the kept counts of shards, failures and flags.

    Metrics and pages read these counts, which triggers of the schema keep. After `pg_restore --data-only` they are
    wrong. The command counts the rows again. Run it as the owner of the tables; workers may run meanwhile.
    """
    with open_store(load_settings()) as database:
        corrected = recount(database)
        name = str(database)
    if as_json:
        print_json({"corrected": corrected})
    elif any(corrected.values()):
        said = f"{counted(corrected['shards'], 'count')} of shards, {corrected['outcomes']:,} of failures and flags"
        say(f"Corrected in {name}: {said}.")
    else:
        say(f"The counts of {name} are right.")


@click.command(
    "doctor", epilog="Example: docmill doctor, and in a container: HEALTHCHECK CMD docmill doctor --workers"
)
@click.option("--workers", is_flag=True, help="Check only that this machine's workers live and take work.")
@click.option(
    "--within",
    "within_s",
    type=number(1),
    metavar="SECONDS",
    help="With --workers: longest time without a sign of life from a worker.  [default: 60]",
)
@click.option("--host", help="With --workers: machine to check.  [default: this machine]")
@click.option("--invariants", is_flag=True, help="Check only the store, for what must hold at every moment.")
@click.option("--sql", "as_sql", is_flag=True, help="With --invariants: print the queries, and run none.")
@JSON
def doctor_command(
    workers: bool, within_s: float | None, host: str | None, invariants: bool, as_sql: bool, as_json: bool
) -> int:
    """Check this installation, and say how to repair it.

    Checks the database and its schema, Redis, their clocks, models, device, disk and extras. Changes nothing. Exit
    code 0: every check passed; 1: a check failed.

    With --workers it checks only the workers of this machine, quickly, as a container's probe: each device process
    must have a working device, and must have work or recent contact with the queue. Exit code 0: every process
    passes; 1: a process fails, or there is none; 3: the database does not answer.

    With --invariants it checks only the store: docs/invariants.md lists what must hold. Work may go on meanwhile.
    Exit code 0: all of it holds; 1: some does not, and the rows are shown; 3: the database does not answer.
    """
    if (not workers and (within_s is not None or host is not None)) or (as_sql and not invariants):
        raise click.UsageError("--within and --host need --workers, and --sql needs --invariants")
    if (workers and invariants) or (as_sql and as_json):
        raise click.UsageError("--workers and --invariants exclude each other, and so do --sql and --json")
    if invariants:
        return _check_invariants(as_sql, as_json)
    if workers:
        return _check_workers(host or platform.node(), within_s or UNHEALTHY_S, as_json)
    from docmill.worker.doctor import examine

    findings = examine(load_settings())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _answer_wrapped(f"{'ok ' if finding.ok else 'BAD'} {finding.what:<11} ", finding.detail, finding.advice)
    return OK if all(finding.ok for finding in findings) else SOME_FAILED


def _answer_wrapped(label: str, *sentences: str) -> None:
    """Print sentences beside a label, in lines that fit a terminal."""
    lines = [line for said in sentences for line in wrapped(said)]
    answer("\n".join((" " * len(label) if n else label) + line for n, line in enumerate(lines)))


def _check_invariants(as_sql: bool, as_json: bool) -> int:
    """Print which invariants hold in the store, or their queries. Return the exit code."""
    settings = load_settings()
    if as_sql:
        with closing(store_of(settings)) as database:
            for setting in PLANNING[database.server]:
                answer(f"SET {setting};")
            for each in invariants(database.server):
                answer(f"-- {each.name}: {each.sentence}\n{each.query};\n")
        return OK
    checks: list[Check] = []
    try:
        with (
            open_store(settings) as database,
            database.read() as transaction,
            listen().bar("invariants", total=len(invariants(database.server))) as progress,
        ):

            def begin(invariant: Invariant) -> None:
                progress.update(len(checks), remark=invariant.name)

            for check in check_invariants(transaction, begin):
                checks.append(check)
            progress.update(len(checks))
    finally:  # an interrupted command shows the checks before the one that the bar names
        if not as_json:
            _print_checks(checks)
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "sentence": each.sentence,
                    "advice": each.advice,
                    "rows": rows,
                    "seconds": seconds,
                }
                for each, rows, seconds in checks
            ]
        )
    broken, took = sum(bool(rows) for _, rows, _ in checks), duration(sum(seconds for *_, seconds in checks))
    say(f"{len(checks) - broken} of {counted(len(checks), 'invariant')} hold. Checked in {took}.")
    return SOME_FAILED if broken else OK


def _print_checks(checks: Sequence[Check]) -> None:
    for invariant, rows, seconds in checks:
        answer(f"{'BAD' if rows else 'ok '} {invariant.name:<17} {seconds:7.1f} s")
        if rows:
            _answer_wrapped("    ", invariant.sentence, invariant.advice)
            lines = [" ".join(f"{name}={value}" for name, value in row.items()) for row in rows]
            _answer_wrapped("      ", *lines)


def _check_workers(host: str, within_s: float, as_json: bool) -> int:
    """Print the health of a machine's workers, and return the exit code."""
    with open_store(load_settings()) as database:
        workers, problem = check_health(database, host, within_s)
    if as_json:
        print_json({"workers": workers, "problem": problem})
    elif problem is not None:
        say(f"Unhealthy: {problem}.")
    else:
        say(f"Healthy: {counted(workers, 'worker')}.")
    return OK if problem is None else SOME_FAILED


VARIABLE = "_DOCMILL_COMPLETE"


@click.command(
    "completion",
    epilog="Example: source <(docmill completion bash)   # in ~/.bashrc; docs/tutorial.md has zsh and fish",
)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that lets SHELL complete docmill's commands, options, choices and files."""
    context = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.command, {}, "docmill", VARIABLE).source())
