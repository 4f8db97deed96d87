"""Gather the facts of a job, and write them as one page of HTML.

The page needs no network and runs no script.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from docmill.storage.core.database import Database
from docmill.storage.core.specs import DOUBTFUL
from docmill.storage.results.job_counts import RuntimeUse, count_flags, finished_shards, runtimes
from docmill.storage.results.results import Reservoir, failures, results
from docmill.storage.results.status import JobStatus, StepStatus, read_status
from docmill.storage.steps.conditions import flag_name, order_flags
from docmill.storage.writers.formats import whole_file
from docmill.tasks.checks import Checks, Finding, meaning
from docmill.worker.formatting import FILTERS
from docmill.worker.jobs import Listener
from docmill.worker.jobs.results import WritingBar
from docmill.worker.prices import read_prices
from docmill.worker.settings import Settings
from docmill.worker.web.marks import (
    BETWEEN_OUTPUTS,
    ChecksOf,
    TextPart,
    checks_of,
    excerpt,
    findings,
    mark_findings,
    marked,
    remark,
)
from docmill.worker.web.pages.jobs import JobProgress, name_model
from docmill.worker.web.pages.outputs import find_input, write_outputs

FOLDER = Path(__file__).parent
LONGEST = 2_000  # characters of an example
EXAMPLES = 3  # of each flag, and of results without one


def list_length_ranges(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    """Return ranges of lengths, 0, 1, 2–3, 4–7 and so on, from the first to the last that has any, with their counts.

    `counts` has the number of lengths by their bits.
    """
    if not counts:
        return []
    ranges = range(min(counts), max(counts) + 1)
    names = [str(bits) if bits < 2 else f"{2 ** (bits - 1):,}–{2**bits - 1:,}" for bits in ranges]
    return [(name, counts.get(bits, 0)) for name, bits in zip(names, ranges, strict=True)]


def list_tenths(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    """Return the tenths from 0 to 1 with their counts; nothing if there are none."""
    return [(f"{n / 10:.1f}–{(n + 1) / 10:.1f}", counts.get(n, 0)) for n in range(10)] if counts else []


class ShownResult(NamedTuple):
    """A document's input of a step, and its outputs for people. Checks read them if `are_texts`.

    `findings` are the evidence of the flags.
    """

    id: str
    input: str
    outputs: Sequence[str]
    flags: tuple[str, ...]
    are_texts: bool
    findings: tuple[Finding, ...] = ()


@dataclass
class StepFacts:
    """Counts of one step's results, and a few of the results. `not_selected` is `FlagCounts.not_selected`."""

    status: StepStatus
    not_selected: int
    results: int = 0
    tokens_in: Counter[int] = field(default_factory=Counter)  # by their bits
    tokens_out: Counter[int] = field(default_factory=Counter)
    confidence: Counter[int] = field(default_factory=Counter)  # by tenth
    flags: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Reservoir[ShownResult]] = field(default_factory=dict)
    samples: Reservoir[ShownResult] = field(default_factory=lambda: Reservoir(EXAMPLES))

    def flags_by_doubt(self) -> list[tuple[str, int, bool]]:
        """Return each flag with its count, and True if it is doubtful; doubtful flags first, then by count."""
        return [(flag, n, flag in DOUBTFUL) for flag, n in order_flags(self.flags).items()]


@dataclass(frozen=True)
class Facts:
    """The contents of a report. Failures are counted by class and reason, the most frequent first.

    `shards` has the values of `finished_shards`.
    """

    status: JobStatus
    steps: list[StepFacts]
    runtimes: list[RuntimeUse]
    shards: list[tuple[str, float, float]]
    failures: list[tuple[str, str, int]]
    with_text: bool


def gather(
    database: Database,
    status: JobStatus,
    listener: Listener,
    *,
    with_text: bool,
    checks_of: ChecksOf,
) -> Facts:
    """Return the facts of a job. `listener` shows the progress.

    `checks_of` returns the checks of a spec's outputs, which find the evidence for an example's flags.

    Without texts, the facts have no text, id or output of a document, and count failures only by their class, since a
    reason may name a file or a field. Raises NotFound.
    """
    counts = count_flags(database, status.id)
    steps = {step.name: StepFacts(step, counts[step.name].not_selected) for step in status.steps}
    with WritingBar(listener) as bar:
        for row, by_step in bar.along(_read_steps(database, status, with_text), status.documents):
            for name, result in by_step.items():
                _count(steps[name], result)
                if with_text:
                    _keep(database, steps[name], row, by_step, result)
    for step in steps.values() if with_text else ():
        _explain(step, checks_of(step.status.spec))
    why = Counter(
        (str(row["class"] or row["status"]), str(row["reason"] or "") if with_text else "")
        for row in failures(database, status.id)
    )
    return Facts(
        status,
        [*steps.values()],
        runtimes(database, status.id),
        [*finished_shards(database, status.id)],
        [(*reason, n) for reason, n in why.most_common()],
        with_text,
    )


def _read_steps(
    database: Database, status: JobStatus, with_text: bool
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each document that has results, with its results by the step's name."""
    several = len(status.steps) > 1
    for row in results(database, status.id, with_input=with_text):
        yield row, row["steps"] if several else {status.steps[0].name: row}


def _count(step: StepFacts, result: Mapping[str, Any]) -> None:
    step.results += 1
    step.tokens_in[result["tokens_in"].bit_length()] += 1
    if result["tokens_out"]:
        step.tokens_out[result["tokens_out"].bit_length()] += 1
    if result.get("confidence") is not None:
        step.confidence[min(9, int(result["confidence"] * 10))] += 1
    step.flags.update({flag_name(flag) for flag in result["flags"]})


def _keep(
    database: Database,
    step: StepFacts,
    row: Mapping[str, Any],
    by_step: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    outputs, are_texts = write_outputs(database, step.status.spec, result)
    pair = ShownResult(row["id"], find_input(step.status, row, by_step), outputs, tuple(result["flags"]), are_texts)
    for flag in DOUBTFUL.intersection(pair.flags):
        step.examples.setdefault(flag, Reservoir(EXAMPLES)).offer(pair)
    if DOUBTFUL.isdisjoint(pair.flags):
        step.samples.offer(pair)


def _explain(step: StepFacts, checks: Checks) -> None:
    """Add the evidence to the examples of doubtful outputs."""
    for flag in DOUBTFUL & step.examples.keys():
        pairs = step.examples[flag].kept
        pairs[:] = [
            pair._replace(findings=findings(checks, pair.input, pair.outputs, pair.flags)) if pair.are_texts else pair
            for pair in pairs
        ]


def render_page(facts: Facts, made_at: float, release: str, cost: str | None = None) -> str:
    """Return the page. `made_at` is in seconds since 1970; times on the page are in UTC. `cost` is in words."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= FILTERS
    template = environment.get_template("page.html.j2")
    at_work = {} if "shards" in (facts.status.swept or ()) else sum_device_seconds(facts.shards)
    return template.render(
        facts=facts,
        cost=cost,
        status=facts.status,
        made_at=made_at,
        version=release,
        device_s=sum(at_work.values()),
        workers=len(at_work),
        saved=_count_saved(facts, sum(at_work.values())),
        distributions=_list_distributions,
        compared=_compare,
        remarks=_list_remarks,
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
    text = render_page(facts, time.time(), version("docmill"), None if cost is None else str(cost))
    with whole_file(target) as file:
        file.write(text.encode())


def _compare(pair: ShownResult) -> tuple[Sequence[TextPart], Sequence[TextPart]]:
    """Return both texts with marks at the places of the findings, or on what differs if there are no places."""
    output = BETWEEN_OUTPUTS.join(pair.outputs)
    before, after = mark_findings(pair.input, output, pair.findings) or marked(pair.input, output)
    return excerpt(before, LONGEST), excerpt(after, LONGEST)


def _list_remarks(pair: ShownResult) -> list[tuple[bool, str]]:
    return [
        remark(flag, (finding.evidence for finding in pair.findings if finding.flag == flag)) for flag in pair.flags
    ]


def _list_distributions(step: StepFacts) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the title of each distribution with its ranges and counts. Empty distributions are left out."""
    named = {
        "Results by tokens read": list_length_ranges(step.tokens_in),
        "Results by tokens written": list_length_ranges(step.tokens_out),
        "Results by confidence": list_tenths(step.confidence),
    }
    return [(title, ranges) for title, ranges in named.items() if ranges]


def _count_saved(facts: Facts, device_s: float) -> dict[str, Any]:
    """Return the numbers of texts that were computed and reused, and the device seconds that the reuse saved."""
    status = facts.status
    results = sum(
        step.results if step.status.input is not None else status.documents - step.not_selected
        for step in facts.steps
    )
    computed = sum(step.texts - step.pending - step.prior for step in status.computing)
    spared = max(0, results - computed)
    return {
        "results": results,
        "computed": computed,
        "same": max(0, results - status.texts),
        "prior": status.prior,
        "device_s": device_s / computed * spared if computed else 0.0,
    }


def sum_device_seconds(shards: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Return by worker process the seconds in which it held at least one shard; shards that overlap count once."""
    held_s: dict[str, float] = {}
    until: dict[str, float] = {}
    for owner, started_at, finished_at in sorted(shards, key=itemgetter(1)):
        begin = max(started_at, until.get(owner, started_at))
        held_s[owner] = held_s.get(owner, 0.0) + max(0.0, finished_at - begin)
        until[owner] = max(until.get(owner, finished_at), finished_at)
    return held_s
