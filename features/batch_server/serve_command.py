"""`docmill serve` and `docmill keys`: a Batch API of your own, and its keys."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from docmill.features.batch_server import SERVER, keys, stored_batches
from docmill.worker import inventory
from docmill.worker.cli.options import ENDPOINT, JSON, number, whole_number
from docmill.worker.cli.printing import (
    OK,
    answer,
    confirm,
    print_json,
    print_rich,
    say,
)
from docmill.worker.consoles import table
from docmill.worker.formatting import printable
from docmill.worker.jobs.errors import BAD_INPUT
from docmill.worker.queue.messages import is_id
from docmill.worker.settings import DAY_S, Settings, load_settings
from docmill.worker.stores import open_store
from docmill.worker.terminal import warn

LOOPBACK, PORT = "127.0.0.1", 8322
LIMITS = ("max_requests", "max_bytes", "max_cost")


@click.command("serve", epilog="Example: docmill serve --model minilm")
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="MODEL|NAME=MODEL",
    help="Model that requests may name, by its own name or by NAME; may be repeated.",
)
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to serve on; 0.0.0.0 for all.")
@click.option("--port", type=whole_number(0, 65535), default=PORT, show_default=True, help="Port; 0 for any free.")
@click.option(
    "--max-lines", type=whole_number(1, 10_000_000), default=50_000, show_default=True, help="Most lines of a batch."
)
@click.option(
    "--max-mb", type=whole_number(1, 100_000), default=200, show_default=True, help="Most megabytes of a file."
)
@click.option(
    "--keep-days", type=whole_number(1, 10_000), default=30, show_default=True, help="Days for which files are kept."
)
@click.option("--sample-anew", is_flag=True, help="Give each batch a seed, for requests without one.")
@ENDPOINT
def serve_command(
    models: tuple[str, ...],
    host: str,
    port: int,
    max_lines: int,
    max_mb: int,
    keep_days: int,
    sample_anew: bool,
    endpoint: str | None,
) -> None:
    """Serve OpenAI's Batch API to clients with a key, until Ctrl-C.

    `docmill keys add` makes keys. Batches become jobs, and the workers compute them. The server keeps everything in
    the store: you may kill it, and several servers may serve one address.

    It speaks HTTP. Put a proxy with TLS before it if you serve on another address than the loopback.
    """
    SERVER.require("`docmill serve`")
    from docmill.features.batch_server.clerk import Clerk, Limits
    from docmill.features.batch_server.serving import make_app
    from docmill.worker.cli.commands.web import until_interrupted
    from docmill.worker.web.http_server import serve

    named = _name_models(models)
    settings = load_settings(endpoint=endpoint)
    sys.setswitchinterval(0.0005)  # so that answers do not wait for the threads that read and write batches
    with open_store(settings) as database:
        limits = Limits(max_mb * 10**6, max_lines, keep_days * DAY_S, sample_anew)
        clerk = Clerk(settings, database, named, limits)
        with serve(make_app(clerk), host, port) as url, clerk:
            say(f"Batch API: {url}v1 (Ctrl-C ends it)")
            active = [key for key in keys.list_keys(database) if key.revoked_at is None]
            if not active:
                warn("There are no keys yet. Add one: docmill keys add NAME")
            unpriced = ", ".join(name for name, model in clerk.models.items() if clerk.prices.lacks(model))
            if unpriced and (clerk.prices.models or any(key.max_cost is not None for key in active)):
                warn(f"No price for {unpriced} in DOCMILL_PRICES: cost-limited requests for it are refused.")
            until_interrupted()


def _name_models(models: tuple[str, ...]) -> dict[str, str]:
    """Return the models by their names in requests."""
    by_name: dict[str, str] = {}
    for argument in models:
        name, equals, model = argument.partition("=")
        if not name or (equals and not model):
            raise click.UsageError(f"--model {argument}: write MODEL, or NAME=MODEL")
        if name in by_name:
            raise click.UsageError(f"--model {argument}: another model has this name; choose a different NAME")
        by_name[name] = model or name
    return by_name


@click.group("keys", epilog="Example: docmill keys add alice --max-requests 100000")
def keys_command() -> None:
    """Make, list and revoke the keys of `docmill serve`, or remove files."""


WEIGHT = click.option(
    "--weight", type=whole_number(1, 1000), help="Its share of the workers, relative to other keys.  [default: 1]"
)
REQUESTS = click.option(
    "--max-requests", type=whole_number(1, 10**9), help="Most requests of its open batches.  [default: any]"
)
BYTES = click.option("--max-bytes", type=whole_number(1, 10**15), help="Most bytes of its uploads.  [default: any]")
COST = click.option(
    "--max-cost",
    type=number(0, min_open=True),
    help="Pause its batches at this cost, in the currency of DOCMILL_PRICES.  [default: any]",
)


@keys_command.command("add", epilog="Example: docmill keys add alice --max-requests 100000")
@click.argument("name")
@WEIGHT
@REQUESTS
@BYTES
@COST
@JSON
def add_command(name: str, as_json: bool, **limits: float | None) -> None:
    """Make a key for NAME and print it. The key is not shown again."""
    if not is_id(name):
        raise click.UsageError("NAME has 1 to 255 characters that can be printed")
    settings = _check_prices(load_settings(), limits)
    chosen = {"weight": 1, **{option: value for option, value in limits.items() if value is not None}}
    with open_store(settings) as database:
        secret = keys.add_key(database, name, **chosen)
    if as_json:
        print_json({"name": name, "key": secret, **chosen})
    else:
        answer(secret)


@keys_command.command("change", epilog="Example: docmill keys change alice --max-cost 50")
@click.argument("name")
@WEIGHT
@REQUESTS
@BYTES
@COST
def change_command(name: str, **limits: float | None) -> None:
    """Change limits of the key of NAME. With a higher --max-cost, paused batches continue."""
    changes = {option: value for option, value in limits.items() if value is not None}
    if not changes:
        raise click.UsageError("give a limit to change, such as --max-cost 50")
    with open_store(_check_prices(load_settings(), limits)) as database:
        keys.change_key(database, name, **changes)
    say(f"The key of {name} is changed.")


def _check_prices(settings: Settings, limits: Mapping[str, float | None]) -> Settings:
    if limits["max_cost"] is not None and settings.prices is None:
        raise click.UsageError("--max-cost needs prices: set DOCMILL_PRICES, here and for docmill serve")
    return settings


@keys_command.command("list", epilog="Example: docmill keys list")
@JSON
def list_command(as_json: bool) -> None:
    """List the names and limits of the keys. The keys themselves are not shown."""
    with open_store(load_settings()) as database:
        rows = [_to_row(key) for key in keys.list_keys(database)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No keys yet; `docmill keys add NAME` makes one.")
        return
    listed = table(
        "name", "state", "weight", "most requests", "most bytes", "most cost", "cost so far", names={"name"}
    )
    for row in rows:
        bounds = ("any" if row[name] is None else f"{row[name]:,}" for name in LIMITS)
        listed.add_row(printable(row["name"]), row["state"], str(row["weight"]), *bounds, f"{row['spent']:,.4g}")
    print_rich(listed)


def _to_row(key: keys.ApiKey) -> dict[str, Any]:
    state = "active" if key.revoked_at is None else "revoked"
    more = {name: getattr(key, name) for name in (*LIMITS, "spent", "created_at")}
    return {"name": key.name, "state": state, "weight": key.weight, **more}


@keys_command.command("revoke", epilog="Example: docmill keys revoke alice")
@click.argument("name")
def revoke_command(name: str) -> None:
    """Refuse the key of NAME from now on. Its batches continue."""
    with open_store(load_settings()) as database:
        keys.revoke_key(database, name)
    say(f"The key of {name} is revoked.")


@keys_command.command("rm-files", epilog="Example: docmill keys rm-files batch_0123456789abcdef01234567")
@click.argument("entry_id", metavar="BATCH|FILE")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm_files_command(entry_id: str, yes: bool) -> int:
    """Remove a file, or the files of a batch that has ended, whatever their key.

    `docmill corpus rm` removes a text and its results, but not the file in which a client sent the text. The name of
    a batch's corpus has the batch's id.
    """
    if not yes and not confirm(f"This removes the files of {printable(entry_id)} for good."):
        return BAD_INPUT
    settings = load_settings()
    with open_store(settings) as database:
        ids = stored_batches.delete_files(database, entry_id)
        uncleared = inventory.clear(settings, database)
    for sentence in (f"Removed: {', '.join(ids)}.", *uncleared):
        say(sentence)
    return OK
