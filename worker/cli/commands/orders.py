"""`docmill orders`: the `docmill.enqueue` messages of other programs, with their jobs and refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli import formatting
from worker.cli.context import open_store, queue_of, settings_from
from worker.cli.exit_codes import BAD_INPUT, OK
from worker.cli.options import JSON, LATEST
from worker.cli.printing import answer_values, print_json, say

if TYPE_CHECKING:
    from rich.console import Group

    from storage.core.database import Database
    from storage.core.schema import EnqueueOrder
    from worker.orders.outlook import Outlook


@click.command("orders", epilog="Example: docmill orders 7f3c2a90-... --json | jq .state")
@click.argument("order", required=False)
@LATEST
@click.option("--cancel", is_flag=True, help="Cancel ORDER, and its job if the source is still being read.")
@JSON
def orders_command(order: str | None, limit: int, cancel: bool, as_json: bool) -> int:
    """List the latest orders, newest first, or show ORDER: its job's number, or the reason of its refusal.

    An order is a `docmill.enqueue` message. ORDER is its order_id, or else the id that `send_task` returned. The list
    lacks messages that no worker has taken yet; the last line counts these, and the workers that take orders.
    Finished orders stay for DOCMILL_RETENTION_DAYS (90).
    """
    from storage.errors import NoSuchOrder
    from storage.pipelines import orders
    from worker.orders import outlook

    if cancel and order is None:
        raise click.UsageError("--cancel takes the id of an order")
    settings = settings_from()
    with open_store(settings) as database, queue_of(settings) as broker:
        found = outlook.look(database, broker)
        if order is None:
            return _list([_facts(row) for row in orders.latest(database, limit)], found, as_json)
        try:
            row = _cancelled(database, order) if cancel else orders.get(database, order)
        except NoSuchOrder as error:
            say(f"docmill: {error}.")
            _say_outlook(found)
            return BAD_INPUT
    facts = _facts(row)
    if as_json:
        print_json(facts)
    else:
        answer_values({name: value for name, value in _shown(facts).items() if value})
    if row.finished_at is None:
        _say_outlook(found)
    return OK


def _cancelled(database: Database, order: str) -> EnqueueOrder:
    """The row of an order that was ended, with its job where that was still being read."""
    from storage.errors import NoSuchJob
    from storage.pipelines import orders
    from storage.steps import jobs

    before = orders.cancel(database, order)
    if before.finished_at is not None:
        say(f"Order {order} was over before: {before.state}.")
    elif before.job_id is not None:
        try:
            jobs.cancel(database, before.job_id)
        except NoSuchJob:
            say(f"Its job {before.job_id} was removed.")
    return orders.get(database, order)


def _list(found: list[dict[str, Any]], outlook: Outlook, as_json: bool) -> int:
    if as_json:
        print_json({"orders": found, "in_queue": outlook.in_queue, "workers": outlook.workers})
        return OK
    if found:
        from worker.cli import show

        show.paper.print(_table(found))
    _say_outlook(outlook)
    return OK


def _table(found: list[dict[str, Any]]) -> Group:
    """A line for each order, and below it why one waits or was refused."""
    from rich.console import Group
    from rich.text import Text

    from worker.cli.tables import Name, table

    made = table("order", "state", "job", "placed", "task", "source", names={"order", "source"}, numbers={"job"})
    for shown in map(_shown, found):
        plain = (shown[name] for name in ("state", "job", "placed", "task"))
        made.add_row(Name(shown["order"]), *plain, Name(shown["source"]))
    said = [Text(formatting.printable(f"Order {one['id']}: {one['reason']}")) for one in found if one["reason"]]
    return Group(made, *([Text(), *said] if said else []))


def _say_outlook(outlook: Outlook) -> None:
    from worker.orders.outlook import ADVICE

    say(f"Orders: {outlook}." + (f" Nobody carries them out; {ADVICE}." if outlook.is_stuck else ""))


def _facts(row: EnqueueOrder) -> dict[str, Any]:
    """An order for machines."""
    return {
        "id": row.sender_id,
        "state": row.state,
        "job": row.job_id,
        "reason": row.reason,
        "source": row.arguments.get("source"),
        "task": row.arguments.get("task"),
        "placed_at": row.created_at,
        "ended_at": row.finished_at,
    }


def _shown(facts: dict[str, Any]) -> dict[str, str]:
    """An order for people."""
    return {
        "order": facts["id"],
        "state": facts["state"],
        "job": "" if facts["job"] is None else str(facts["job"]),
        "placed": formatting.local_time(facts["placed_at"]),
        "task": facts["task"] or "",
        "source": facts["source"] or "",
        "reason": facts["reason"] or "",
    }
