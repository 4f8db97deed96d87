"""Commands for whoever runs docmill: workers, schema, models, and what is wrong with this installation."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from worker.cli import completion
from worker.cli.faults import BAD_INPUT, OK, SOME_FAILED
from worker.cli.session import BACKEND, answer, open_broker, open_store, print_json, say, settings_from

if TYPE_CHECKING:
    from worker.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="For machines.")


@click.command("worker", epilog="Example: docmill worker --device cuda:0,cuda:1 --lanes embed,translate")
@click.option("--device", help="auto, cpu, cuda, or a list such as cuda:0,cuda:1: one process for each.")
@BACKEND
@click.option(
    "--lanes",
    help="Task kinds to serve, separated by commas; with enqueue also orders.  [default: all but enqueue]",
)
@click.option("--threads", type=click.IntRange(1, 64), help="Shards in flight in each process.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Of the log on stderr.")
def worker_command(
    device: str | None, backend: str | None, lanes: str | None, threads: int | None, log_level: str | None
) -> int:
    """Start a worker: one process for each device, kept alive and drained by this one.

    SIGTERM or Ctrl-C finishes the batches under way and gives the rest back; a second one gives everything back
    at once. Without DOCMILL_REDIS_URL the worker brings an embedded queue along, which serves this machine only.

    Orders are `docmill.enqueue` messages of other programs. A worker takes them only with the lane enqueue, and reads
    only what DOCMILL_ORDER_ROOTS and DOCMILL_ORDER_SCHEMES allow.
    """
    from storage import rights
    from worker.device import LOG_FORMAT
    from worker.devices import choose_devices
    from worker.supervisor import Supervisor

    settings = settings_from(device=device, backend=backend, lanes=lanes, threads=threads, log_level=log_level)
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    devices = choose_devices(settings.device)
    with open_store(settings) as database, open_broker(settings) as broker:
        rights.require(database, rights.WORK)
        broker.require_rights()
        settings = _without_orders(settings, rights.missing(database, rights.ORDERS))
        say(f"Worker on {', '.join(devices)}: lanes {', '.join(settings.lanes)}; store {database}; queue {broker}.")
        Supervisor(settings, database, broker, devices).run_with_signals()
    say("Worker stopped; what was under way is committed or given back.")
    return OK


def _without_orders(settings: Settings, lacking: Sequence[str]) -> Settings:
    """The settings of a worker that takes no orders, where it lacks rights for them; it does its other work."""
    if not settings.takes_orders or not lacking:
        return settings
    from storage import rights
    from storage.errors import RightMissing
    from worker.settings import ORDERS

    told = f"the database's user lacks {', '.join(lacking)}; {rights.DOCS}"
    others = tuple(lane for lane in settings.lanes if lane != ORDERS)
    if not others:
        raise RightMissing(f"This worker may take no orders, and has no other lane: {told}")
    say(f"This worker takes no orders: {told}.")
    return settings.model_copy(update={"lanes": others})


@click.command("health", epilog="Example, for a container: HEALTHCHECK CMD docmill health")
@click.option(
    "--within",
    "within_s",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a worker may have been silent.",
)
@click.option("--host", help="Whose workers to look at.  [default: this machine]")
@JSON
def health_command(within_s: float, host: str | None, as_json: bool) -> int:
    """Say whether this machine's workers live and take work from the queue: for health checks.

    Every device process of the machine is to hold work, or to have heard from the queue lately, on a device that
    computes. Exit code 0: all do; 1: one does not, or there is none; 3: the database does not answer.
    """
    import platform

    from storage.leases.health import health

    with open_store(settings_from()) as database:
        found = health(database, host or platform.node(), within_s)
    if as_json:
        print_json(asdict(found))
    elif found.problem is not None:
        say(f"Unhealthy: {found.problem}.")
    else:
        say(f"Healthy: {found.workers} {'worker' if found.workers == 1 else 'workers'}.")
    return OK if found.problem is None else SOME_FAILED


@click.group("db")
def db_command() -> None:
    """Look after the store's schema."""


@db_command.command(
    "upgrade", epilog="Example: DOCMILL_DATABASE_URL=postgresql://docmill@db/docmill docmill db upgrade"
)
@JSON
def upgrade_command(as_json: bool) -> int:
    """Bring the store's schema to this version's. Safe to run twice, and while workers run."""
    from storage.database import Database
    from storage.migrations import upgrade

    settings = settings_from()
    database = Database(settings.store_url, patience=settings.patience)
    try:
        before, after = upgrade(database)
    finally:
        database.close()
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        say(f"The schema of {database} is up to date ({after}).")
    else:
        say(f"The schema of {database} went from {before or 'nothing'} to {after}.")
    return OK


@click.group("models")
def models_command() -> None:
    """List the models that have names, or check one."""


@models_command.command("list", epilog="Example: docmill models list")
@JSON
def list_command(as_json: bool) -> int:
    """List the names that --model knows besides folders and hub ids."""
    from tasks.models import ALIASES, DEFAULTS, DESCRIPTIONS

    defaults = {model: kind for kind, model in DEFAULTS.items()}
    found = [{"name": name, "default_for": defaults.get(name), "about": DESCRIPTIONS[name]} for name in ALIASES]
    models_dir = settings_from().models_dir
    if models_dir is not None and models_dir.is_dir():
        found += [
            {"name": str(config.parent.relative_to(models_dir)), "default_for": None, "about": f"in {models_dir}"}
            for config in sorted(models_dir.glob("**/config.json"))
        ]
    if as_json:
        print_json(found)
        return OK
    for model in found:
        default = f" [default for {model['default_for']}]" if model["default_for"] else ""
        answer(f"{model['name']:<16} {model['about']}{default}")
    say("Any other --model is a folder, a name in DOCMILL_MODELS_DIR, package:PACKAGE/FOLDER, or a model hub's id.")
    return OK


@models_command.command("check", epilog="Example: docmill models check Helsinki-NLP/opus-mt-es-en")
@click.argument("model", shell_complete=completion.models)
@click.option("--revision", help="A hub model's branch, tag or commit.")
@JSON
def check_command(model: str, revision: str | None, as_json: bool) -> int:
    """Say what MODEL is, which tasks it suits and how much of a document it sees at once."""
    from tasks.models import check
    from worker.rehearsal import lacking

    settings = settings_from()
    found = check(model, models_dir=settings.models_dir, cache_dir=settings.cache_dir, revision=revision)
    if lacks := lacking(settings, found.pinned, found.kinds):
        kinds = tuple(kind for kind in found.kinds if kind not in lacks)
        found = replace(found, kinds=kinds, unfit={**found.unfit, **lacks})
    if as_json:
        print_json(asdict(found))
        return OK
    size = f"{found.size_bytes / 1e6:,.0f} MB" if found.size_bytes is not None else "not on this machine yet"
    answer(f"model      {found.pinned.model}")
    answer(f"revision   {found.pinned.revision}")
    answer(f"is         {found.architecture} ({found.family}), {size}")
    answer(f"suits      {', '.join(found.kinds) or 'none of the tasks there are now'}")
    if found.head is not None and "embed" in found.kinds:
        answer(f"           embed without its head for {found.head}, which no task uses")
    for kind, reason in found.unfit.items():
        answer(f"not        {kind}: {reason}")
    answer(f"window     {found.window_limit} tokens; longer documents are cut and put back together")
    return OK if found.kinds else BAD_INPUT


@click.command("doctor", epilog="Example: docmill doctor --json")
@JSON
def doctor_command(as_json: bool) -> int:
    """Find what is wrong with this installation, and say what to do about it.

    Looks at the database and its schema, Redis, their clocks, models, device, disk and extras. Changes nothing. Exit
    code 0: nothing is wrong; 1: something is.
    """
    from worker.doctor import examine

    findings = examine(settings_from())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            answer(f"{'ok ' if finding.ok else 'BAD'} {finding.what:<11} {finding.detail}")
            if finding.advice:
                answer(f"    {'':<11} {finding.advice}")
    return OK if all(finding.ok for finding in findings) else SOME_FAILED
