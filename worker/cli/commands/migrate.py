"""`docmill migrate`: compute a corpus by a new model, and switch to its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from docmill.worker.cli.migrating import as_json as as_json_of
from docmill.worker.cli.migrating import cost_lines, forecast, print_migrations, switched
from docmill.worker.cli.options import (
    BACKEND,
    DEVICE,
    JOB_ID,
    JSON,
    PROMPT,
    Number,
    check_filled,
    complete_models,
    settings_from,
)
from docmill.worker.cli.printing import OK, SOME_FAILED, answer, confirmed, print_json, say, stop_as_interrupt
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.stores import corpus_names, open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from docmill.storage.core.database import Database
    from docmill.storage.pipelines.switching import Survey
    from docmill.storage.steps.replacements import Replacement
    from docmill.worker.pipelines.migrating import Planned
    from docmill.worker.settings import Settings
    from docmill.worker.submit.dry_run import Forecast

NOT_SWITCHED = "Nothing was changed"


@click.command("migrate", epilog="Example: docmill migrate tickets --from minilm --to intfloat/e5-small-v2")
@click.argument("corpus")
@click.option("--from", "old", metavar="MODEL", help="Model whose results the corpus has.")
@click.option("--to", "new", metavar="MODEL", help="Model that takes its place.", shell_complete=complete_models)
@click.option("--revision", help="Branch, tag or commit of the new model on the hub.  [default: main]")
@click.option("--prompt", type=PROMPT, help="Prompt of the new model, in place of the old one's.")
@click.option("--prompt-name", metavar="NAME", help="One of the new model's own prompts.")
@click.option("--job", type=JOB_ID, help="Job whose results are replaced.  [default: the latest with the model]")
@click.option("--step", metavar="NAME", help="Step of that job.  [default: the one with the model]")
@click.option(
    "--max-failures",
    "most_lost",
    type=Number(0, 100),
    default=0.0,
    show_default="0",
    metavar="PERCENT",
    help="Do not switch if more than this share of the documents would lose their result.",
)
@click.option("--enqueue", "by_workers", is_flag=True, help="Leave the computing to the workers, and wait for them.")
@click.option("--dry-run", is_flag=True, help="Only estimate the cost; store and compute nothing.")
@click.option("--yes", is_flag=True, help="Migrate without asking.")
@click.option("--status", is_flag=True, help="List the migrations of the corpus.")
@click.option("--cancel", is_flag=True, help="Cancel the migration under way, and its job.")
@click.option("--back", is_flag=True, help="Let the old model answer again, while its results are kept.")
@DEVICE
@BACKEND
@JSON
def migrate_command(
    corpus: str,
    old: str | None,
    new: str | None,
    revision: str | None,
    prompt: str | None,
    prompt_name: str | None,
    job: int | None,
    step: str | None,
    most_lost: float,
    by_workers: bool,
    dry_run: bool,
    yes: bool,
    status: bool,
    cancel: bool,
    back: bool,
    device: str | None,
    backend: str | None,
    as_json: bool,
) -> int:
    """Compute CORPUS with another model, and switch to its results when they are complete.

    The new model gets the options of the old one. Its results are computed by a job of low priority, the backfill.
    Until it is complete, `docmill search` and the views of pipelines over the corpus answer by the old model. Then
    they all switch in one transaction. The old results stay, for --back, until `docmill gc --migrated`.

    The command says what the backfill costs, and asks first. You may interrupt it: the same command continues.
    Documents that come meanwhile are computed by both models. After the switch, runs of stored pipelines compute the
    new model where their file names the old one. The same command again computes documents that came since by other
    commands.

    Exit code 1: the backfill is complete, but did not switch, since documents would lose their result.
    """
    check_filled()
    settings = settings_from(device=device, backend=backend)
    asked = [name for name, given in (("status", status), ("cancel", cancel), ("back", back)) if given]
    if len(asked) > 1:
        raise click.UsageError(f"--{asked[0]} and --{asked[1]} do not go together: give one of them")
    if asked:
        if old or new:
            raise click.UsageError(f"--{asked[0]} takes no --from and --to")
        with open_store(settings) as database:
            return _ASKED[asked[0]](settings, database, corpus, yes, as_json)
    if old is None or new is None:
        raise click.UsageError("give --from MODEL and --to MODEL, or --status, --cancel or --back")
    from docmill.worker.engines import choose_devices
    from docmill.worker.pipelines.migrating import Wanted, plan

    options = {name: value for name, value in (("prompt", prompt), ("prompt_name", prompt_name)) if value is not None}
    wanted = Wanted(old, new, revision, job, step, options)
    devices = choose_devices(settings.device)
    stop_as_interrupt()
    with open_store(settings) as database:
        corpus_id, name = _corpus(database, corpus)
        planned = plan(settings, database, corpus_id, name, wanted, () if by_workers else devices)
        goes_on = planned.stored is not None
        if dry_run or not (yes or goes_on):
            cost = forecast(settings, database, planned, devices[0])
            if dry_run:
                return _say_cost(planned, cost, devices[0], as_json)
            lines = "\n".join(cost_lines(planned, cost, devices[0]))
            if not confirmed(lines, "Migrate", NOT_SWITCHED):
                return BAD_INPUT
        return _migrate(settings, database, planned, devices, most_lost, by_workers, as_json)


def _corpus(database: Database, given: str) -> tuple[int, str]:
    """Return the id and the name of a corpus, named as `run --corpus` or by its source. Raises NotFound."""
    from docmill.storage.core.lookups import find_corpus, first_existing

    name = first_existing(database, corpus_names(given))
    return find_corpus(database, name), name


def _say_cost(planned: Planned, cost: Forecast, device: str, as_json: bool) -> int:
    if as_json:
        from dataclasses import asdict

        print_json(
            asdict(cost) | {"corpus": planned.corpus, "from": asdict(planned.old.spec), "to": asdict(planned.new)}
        )
    else:
        for line in cost_lines(planned, cost, device):
            answer(line)
        say(f"{NOT_SWITCHED}: this was a dry run.")
    return OK


def _migrate(
    settings: Settings,
    database: Database,
    planned: Planned,
    devices: Sequence[str],
    most_lost: float,
    by_workers: bool,
    as_json: bool,
) -> int:
    from docmill.storage import fault_points
    from docmill.storage.errors import TooManyLost
    from docmill.storage.steps import replacements
    from docmill.worker.cli.migrating import fill
    from docmill.worker.pipelines.migrating import kept_views, specs_of

    if planned.is_switched and planned.stored is not None:
        found, counted = planned.stored, fill(settings, database, planned.stored, devices, by_workers=by_workers)
        say(f"The corpus {found.corpus} was switched to {found.new.model} before.")
    else:
        specs = specs_of(database, planned.corpus_id) | {planned.old.spec, planned.new}
        kept = kept_views(settings, database, planned.corpus, specs)
        found = replacements.begin(database, planned.corpus_id, planned.old, planned.new)
        fault_points.reach("migration")
        try:
            counted = switched(settings, database, found, kept, devices, most_lost, by_workers=by_workers)
        except TooManyLost as error:
            say(f"Not switched: {error}.")
            return SOME_FAILED
    _say_switched(replacements.reread(database, found), counted, as_json)
    return OK


def _say_switched(found: Replacement, counted: Survey, as_json: bool) -> None:
    from docmill.storage.outputs.output_types import VECTOR
    from docmill.tasks import kinds

    if as_json:
        print_json(as_json_of(found) | {"documents": counted.documents, "lost": counted.lost})
        return
    searched = "search" if kinds.kind(found.new.kind).output is VECTOR else "docmill results CORPUS"
    answer(f"{found.new.model} answers for {found.corpus} now: {searched}, and views of pipelines.")
    if counted.lost:
        say(f"{counted.lost:,} of {counted.documents:,} documents lost their result: docmill failures {found.job_id}")
    if found.job_id is not None:
        say(f"All results: docmill results {found.job_id} --out FILE")
    say(
        f"The results of {found.old.model} are kept. To go back: docmill migrate {found.corpus} --back. To remove "
        "them: docmill gc --migrated."
    )


def _status(_settings: Settings, database: Database, corpus: str, _yes: bool, as_json: bool) -> int:
    from docmill.storage.steps import replacements

    corpus_id, name = _corpus(database, corpus)
    found = replacements.every(database, corpus_id)
    if as_json:
        print_json([as_json_of(one) for one in found])
    elif found:
        print_migrations(found)
    else:
        say(f"The corpus {name} was never migrated.")
    return OK


def _cancel(_settings: Settings, database: Database, corpus: str, _yes: bool, as_json: bool) -> int:
    from contextlib import suppress

    from docmill.storage.errors import NotFound
    from docmill.storage.steps import jobs, replacements

    corpus_id, name = _corpus(database, corpus)
    open_ones = [one for one in replacements.every(database, corpus_id) if one.state == replacements.FILLING]
    if not open_ones:
        say(f"No migration of {name} is under way; --status lists them.")
        return BAD_INPUT
    found = open_ones[0]
    if found.job_id is not None:
        with suppress(NotFound):
            jobs.cancel(database, found.job_id)
    replacements.cancel(database, found.id)
    return _say_state(database, found, f"Cancelled. {found.old.model} answers for {name}, as before.", as_json)


def _back(settings: Settings, database: Database, corpus: str, yes: bool, as_json: bool) -> int:
    from docmill.storage.pipelines import switching
    from docmill.storage.steps import replacements
    from docmill.worker.pipelines.migrating import kept_views, specs_of

    corpus_id, name = _corpus(database, corpus)
    last = switching.last_switched(replacements.every(database, corpus_id), name)
    if all(one.spec_id != last.old_spec_id for one in replacements.candidates(database, corpus_id)):
        say(
            f"No job over {name} has the model {last.old.model} any more. `docmill migrate {name} "
            f"--from {last.new.model} --to {last.old.model}` makes one, and computes no result again."
        )
        return BAD_INPUT
    counted = switching.survey_back(database, last)
    if counted.lost and not yes:
        question = f"{counted.lost:,} of {counted.documents:,} documents have no result of {last.old.model}."
        if not confirmed(question, f"Let {last.old.model} answer", NOT_SWITCHED):
            return BAD_INPUT
    kept = kept_views(settings, database, name, specs_of(database, corpus_id))
    if not switching.undo(database, last, kept):
        say("Another command changed the migration meanwhile; --status shows how it stands.")
        return BAD_INPUT
    return _say_state(database, last, f"{last.old.model} answers for {name} again.", as_json)


def _say_state(database: Database, found: Replacement, sentence: str, as_json: bool) -> int:
    from docmill.storage.steps import replacements

    if as_json:
        print_json(as_json_of(replacements.reread(database, found)))
    else:
        answer(sentence)
    return OK


_ASKED = {"status": _status, "cancel": _cancel, "back": _back}
