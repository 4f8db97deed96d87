"""Write a report as one page of HTML that needs no network and runs no script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from docmill.features.reports.facts import Facts, ShownResult, StepFacts, gather, length_ranges, tenth_ranges
from docmill.storage.core.database import Database
from docmill.storage.results.job_counts import FinishedShard
from docmill.storage.results.status import read_status
from docmill.storage.writers.formats import whole_file
from docmill.tasks.checks import meaning
from docmill.worker.formatting import FILTERS
from docmill.worker.jobs import Listener
from docmill.worker.prices import read_prices
from docmill.worker.settings import Settings
from docmill.worker.web.marks import TextPart, checks_of, excerpt, mark_findings, marked, remark
from docmill.worker.web.pages.jobs import JobProgress, name_model

FOLDER = Path(__file__).parent
LONGEST = 2_000  # characters of an example


def page(facts: Facts, made_at: float, release: str, cost: str | None = None) -> str:
    """Return the page. `made_at` is in seconds since 1970; times on the page are in UTC. `cost` is in words."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= FILTERS
    template = environment.get_template("page.html.j2")
    at_work = device_seconds(facts.shards)
    return template.render(
        facts=facts,
        cost=cost,
        status=facts.status,
        made_at=made_at,
        version=release,
        device_s=sum(at_work.values()),
        workers=len(at_work),
        saved=_saved(facts, sum(at_work.values())),
        distributions=_distributions,
        compared=_compared,
        remarks=_remarks,
        meaning=meaning,
        title=JobProgress(facts.status).title,
        name_model=name_model,
    )


def write(
    settings: Settings, database: Database, job_id: int, target: Path, *, with_text: bool, listener: Listener
) -> None:
    """Write the page about a job to a file. Raises NotFound, WorkerError for the prices, and OSError."""
    prices, status = read_prices(settings), read_status(database, job_id)
    facts = gather(database, status, listener, with_text=with_text, checks_of=partial(checks_of, settings))
    cost = prices.cost_of(status)
    text = page(facts, time.time(), version("docmill"), None if cost is None else str(cost))
    with whole_file(target) as file:
        file.write(text.encode())


def _compared(pair: ShownResult) -> tuple[Sequence[TextPart], Sequence[TextPart]]:
    """Return both texts with marks where the checks found something; where they name no place, on what differs."""
    before, after = mark_findings(pair.input, pair.output, pair.findings) or marked(pair.input, pair.output)
    return excerpt(before, LONGEST), excerpt(after, LONGEST)


def _remarks(pair: ShownResult) -> list[tuple[bool, str]]:
    return [
        remark(flag, (finding.evidence for finding in pair.findings if finding.flag == flag)) for flag in pair.flags
    ]


def _distributions(step: StepFacts) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return titles, and ranges with their counts, one of them above 0."""
    named = {
        "Results by tokens read": length_ranges(step.tokens_in),
        "Results by tokens written": length_ranges(step.tokens_out),
        "Results by confidence": tenth_ranges(step.confidence),
    }
    return [(title, ranges) for title, ranges in named.items() if ranges]


def _saved(facts: Facts, device_s: float) -> dict[str, Any]:
    """Return the texts that were computed, those that others had paid for, and the seconds that this saved."""
    status = facts.status
    results = sum(step.results if step.status.input is not None else status.documents for step in facts.steps)
    computed = sum(shard.texts for shard in facts.shards)
    spared = max(0, results - computed)
    return {
        "results": results,
        "computed": computed,
        "same": max(0, results - status.texts),
        "prior": status.prior,
        "device_s": device_s / computed * spared if computed else 0.0,
    }


def device_seconds(shards: Sequence[FinishedShard]) -> dict[str, float]:
    """Return by worker process the seconds in which it held at least one shard; shards that overlap count once."""
    held_s: dict[str, float] = {}
    until: dict[str, float] = {}
    for shard in sorted(shards, key=lambda shard: shard.started_at):
        begin = max(shard.started_at, until.get(shard.owner, shard.started_at))
        held_s[shard.owner] = held_s.get(shard.owner, 0.0) + max(0.0, shard.finished_at - begin)
        until[shard.owner] = max(until.get(shard.owner, shard.finished_at), shard.finished_at)
    return held_s
