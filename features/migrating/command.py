"""`docmill migrate`: compute a corpus by a new model, and switch to its results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click

from docmill.features.migrating import stored_migrations
from docmill.features.migrating.plan import MigrationPlan, choose_step, forecast, make_spec, plan
from docmill.features.migrating.switching import (
    Survey,
    TooManyLost,
    find_views,
    last_switched,
    migrate,
    survey_documents,
    undo,
)
from docmill.storage.core.database import Database
from docmill.storage.errors import NotFound
from docmill.storage.outputs.output_types import VECTOR
from docmill.storage.steps import jobs
from docmill.storage.steps.replacements import FILLING, SpecReplacement
from docmill.tasks import kinds
from docmill.worker import formatting
from docmill.worker.cli.options import BACKEND, DEVICE, JOB_ID, JSON, PROMPT, check_filled, complete_models, number
from docmill.worker.cli.printing import OK, SOME_FAILED, answer, confirm, listen, print_json, say
from docmill.worker.engines import devices_for
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.settings import load_settings
from docmill.worker.stores import find_named_corpus, open_store
from docmill.worker.submit.dry_run import Forecast
from docmill.worker.submit.rehearsal import require_possible
from docmill.worker.terminal import warn

NOT_SWITCHED = "Nothing was changed"
MEANING = {
    "filling": "under way: the old model answers until the switch",
    "switched": "switched: the new model answers; `docmill migrate back` takes it back",
    "dropped": "switched: the new model answers; the old results are removed",
    "cancelled": "cancelled: the old model stayed",
    "undone": "taken back: the old model answers",
}


@click.group("migrate", epilog="Example: docmill migrate run tickets --from minilm --to intfloat/e5-small-v2")
def migrate_command() -> None:
    """Compute a corpus with another model, and switch to its results when they are complete.

    Until then the old results stay in use. `docmill migrate back` switches back to them.
    """


@migrate_command.command(
    "run", epilog="Example: docmill migrate run tickets --from minilm --to intfloat/e5-small-v2 --dry-run"
)
@click.argument("corpus")
@click.option("--from", "old", metavar="MODEL", required=True, help="Model whose results the corpus has.")
@click.option(
    "--to",
    "new",
    metavar="MODEL",
    required=True,
    help="New model.",
    shell_complete=complete_models,
)
@click.option("--revision", help="Branch, tag or commit of the new model on the hub.  [default: main]")
@click.option("--prompt", type=PROMPT, help="Prompt of the new model.")
@click.option("--model-prompt", "prompt_name", metavar="NAME", help="One of the new model's own prompts.")
@click.option("--job", type=JOB_ID, help="Job whose results to replace.  [default: the latest with the model]")
@click.option("--step", metavar="NAME", help="Step of that job.  [default: the one with the model]")
@click.option(
    "--max-failures",
    "most_lost",
    type=number(0, 100),
    default=0.0,
    metavar="PERCENT",
    help="Do not switch if more than this share of the documents would lose their result.  [default: 0]",
)
@click.option("--enqueue", "by_workers", is_flag=True, help="Leave the computing to the workers, and wait for them.")
@click.option("--dry-run", is_flag=True, help="Only estimate the cost; store and compute nothing.")
@click.option("--yes", is_flag=True, help="Migrate without asking.")
@DEVICE
@BACKEND
@JSON
def run_command(
    corpus: str,
    old: str,
    new: str,
    revision: str | None,
    prompt: str | None,
    prompt_name: str | None,
    job: int | None,
    step: str | None,
    most_lost: float,
    by_workers: bool,
    dry_run: bool,
    yes: bool,
    device: str | None,
    backend: str | None,
    as_json: bool,
) -> int:
    """Compute CORPUS with another model, then switch to its results.

    The new model gets the options of the old one. A job of low priority, the backfill, computes its results. Until it
    is complete, `docmill search` and the views of pipelines over the corpus use the old results. Then they all switch
    in one transaction. The old results stay, for `docmill migrate back`, until `docmill gc migrated`.

    The command estimates the cost of the backfill, and asks first. You may interrupt it: the same command continues.
    Both models compute documents that arrive meanwhile. After the switch, runs of stored pipelines compute the new
    model where their file names the old one. The same command again computes documents that came since by other
    commands.

    Exit code 1: the backfill is complete, but did not switch, since documents would lose their result.
    """
    check_filled()
    settings = load_settings(device=device, backend=backend)
    options = {name: value for name, value in (("prompt", prompt), ("prompt_name", prompt_name)) if value is not None}
    with open_store(settings) as database:
        corpus_id, name = find_named_corpus(database, corpus)
        replaced = choose_step(database, corpus_id, name, old, job, step)
        spec, left_out = make_spec(settings, replaced.spec, new, revision, options)
        planned = plan(database, corpus_id, name, replaced, spec, left_out)
        models = [spec.model for request in planned.requests for spec in request.specs]
        computing: Sequence[str] = () if by_workers else devices_for(settings.device, *models)
        require_possible(settings, [planned.new], computing)
        if dry_run or not (yes or planned.stored is not None):
            device = (computing or devices_for(settings.device, new))[0]
            cost = forecast(settings, database, planned, device, listen(settings))
            if dry_run:
                _say_cost(planned, cost, device, as_json)
                return OK
            if not confirm("\n".join(_cost_lines(planned, cost, device)), "Migrate", NOT_SWITCHED):
                return BAD_INPUT
        try:
            migration, survey = migrate(settings, database, planned, computing, most_lost, listen(settings))
        except TooManyLost as error:
            warn(f"Not switched: {error}.")
            return SOME_FAILED
    _say_switched(migration, survey, as_json)
    return OK


@migrate_command.command("status", epilog="Example: docmill migrate status tickets --json")
@click.argument("corpus")
@JSON
def status_command(corpus: str, as_json: bool) -> None:
    """List the migrations of CORPUS, the latest first."""
    with open_store(load_settings()) as database:
        corpus_id, name = find_named_corpus(database, corpus)
        migrations = stored_migrations.list_all(database, corpus_id)
    if as_json:
        print_json([_as_json(migration) for migration in migrations])
    elif migrations:
        _print_migrations(migrations)
    else:
        say(f"The corpus {name} was never migrated.")


@migrate_command.command("cancel", epilog="Example: docmill migrate cancel tickets")
@click.argument("corpus")
@JSON
def cancel_command(corpus: str, as_json: bool) -> int:
    """Cancel the migration of CORPUS that is under way, and its job."""
    with open_store(load_settings()) as database:
        corpus_id, name = find_named_corpus(database, corpus)
        migrations = stored_migrations.list_all(database, corpus_id)
        migration = next((row for row in migrations if row.state == FILLING), None)
        if migration is None:
            warn(f"No migration of {name} is under way; `docmill migrate status {name}` lists them.")
            return BAD_INPUT
        if migration.job_id is not None:
            with suppress(NotFound):
                jobs.cancel(database, migration.job_id)
        if not stored_migrations.cancel(database, migration.id):
            warn(f"Another command changed the migration: see `docmill migrate status {name}`.")
            return BAD_INPUT
        _say_state(database, migration, f"Cancelled. {migration.old.model} answers for {name}, as before.", as_json)
    return OK


@migrate_command.command("back", epilog="Example: docmill migrate back tickets")
@click.argument("corpus")
@click.option("--yes", is_flag=True, help="Do not ask, if documents have no result of the old model.")
@JSON
def back_command(corpus: str, yes: bool, as_json: bool) -> int:
    """Let the old model of CORPUS answer again, if its results are kept."""
    settings = load_settings()
    with open_store(settings) as database:
        corpus_id, name = find_named_corpus(database, corpus)
        last = last_switched(stored_migrations.list_all(database, corpus_id), name)
        replaceable = stored_migrations.replaceable_steps(database, corpus_id)
        if all(step.spec_id != last.old_spec_id for step in replaceable):
            warn(
                f"No job over {name} has the model {last.old.model} any more. `docmill migrate run {name} "
                f"--from {last.new.model} --to {last.old.model}` makes one, and computes no result again."
            )
            return BAD_INPUT
        survey = survey_documents(database, last, back=True)
        if survey.lost and not yes:
            question = f"{survey.lost:,} of {survey.documents:,} documents have no result of {last.old.model}."
            if not confirm(question, f"Let {last.old.model} answer", NOT_SWITCHED):
                return BAD_INPUT
        if not undo(database, last, find_views(settings, database, corpus_id, name)):
            warn(f"Another command changed the migration: see `docmill migrate status {name}`.")
            return BAD_INPUT
        _say_state(database, last, f"{last.old.model} answers for {name} again.", as_json)
    return OK


def _say_cost(planned: MigrationPlan, cost: Forecast, device: str, as_json: bool) -> None:
    if as_json:
        specs = {"corpus": planned.corpus, "from": asdict(planned.old.spec), "to": asdict(planned.new)}
        print_json(asdict(cost) | specs)
    else:
        for line in _cost_lines(planned, cost, device):
            answer(line)
        say(f"{NOT_SWITCHED}: this was a dry run.")


def _cost_lines(planned: MigrationPlan, cost: Forecast, device: str) -> list[str]:
    """Return lines about what a migration computes, and what that costs."""
    old = planned.old.spec
    return [
        f"Corpus {planned.corpus}: {old.kind} by {planned.new.model} in place of {old.model}",
        f"{formatting.documents(cost.documents)}, {formatting.counted(cost.texts, 'unique text')}",
        *formatting.work_ahead(cost, device),
        *(
            f"The new model does not take the option {name.replace('_', '-')} of the old one."
            for name in planned.left_out
        ),
    ]


def _say_switched(migration: SpecReplacement, survey: Survey, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(migration) | {"documents": survey.documents, "lost": survey.lost})
        return
    corpus, old, new = migration.corpus, migration.old, migration.new
    searched = "search" if kinds.kind(new.kind).output is VECTOR else "docmill results CORPUS"
    answer(f"{new.model} answers for {corpus} now: {searched}, and views of pipelines.")
    if survey.lost:
        lost = f"{survey.lost:,} of {survey.documents:,} documents lost their result"
        say(f"{lost}: docmill failures {migration.job_id}")
    if migration.job_id is not None:
        say(f"All results: docmill results {migration.job_id} --out FILE")
    say(
        f"The results of {old.model} are kept. To go back: docmill migrate back {corpus}. To remove them: docmill gc "
        "migrated."
    )


def _say_state(database: Database, migration: SpecReplacement, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(stored_migrations.reread(database, migration)))
    else:
        answer(sentence)


def _as_json(migration: SpecReplacement) -> dict[str, Any]:
    """Return a migration for machines."""
    return {
        "id": migration.id,
        "corpus": migration.corpus,
        "from": asdict(migration.old),
        "to": asdict(migration.new),
        "state": migration.state,
        "answers": (migration.new if migration.state in {"switched", "dropped"} else migration.old).model,
        "old_job": migration.old_job_id,
        "job": migration.job_id,
        "created_at": migration.created_at,
        "ended_at": migration.ended_at,
    }


def _print_migrations(migrations: Sequence[SpecReplacement]) -> None:
    for migration in reversed(migrations):
        job = "" if migration.job_id is None else f", job {migration.job_id}"
        answer(f"{migration.id}  {migration.old.kind}: {migration.old.model} to {migration.new.model}{job}")
        at = formatting.local_time(migration.ended_at or migration.created_at)
        answer(f"   {MEANING[migration.state]} ({at})")
