"""Gather what a report says of a job, in one pass over its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from docmill.storage.core.database import Database
from docmill.storage.core.specs import DOUBTFUL
from docmill.storage.results.job_counts import FinishedShard, RuntimeUse, finished_shards, runtimes
from docmill.storage.results.results import Reservoir, failures, results
from docmill.storage.results.status import JobStatus, StepStatus
from docmill.storage.steps.conditions import order_flags
from docmill.tasks.checks import Checks, Finding
from docmill.worker.jobs import Listener
from docmill.worker.jobs.results import WritingBar
from docmill.worker.web.marks import ChecksOf, findings

EXAMPLES = 3  # of each flag, and of results without one


def length_ranges(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    """Return ranges of lengths, 0, 1, 2–3, 4–7 and so on, from the first to the last that has any, with their counts.

    `counts` has the number of lengths by their bits.
    """
    if not counts:
        return []
    ranges = range(min(counts), max(counts) + 1)
    names = [str(bits) if bits < 2 else f"{2 ** (bits - 1):,}–{2**bits - 1:,}" for bits in ranges]
    return [(name, counts.get(bits, 0)) for name, bits in zip(names, ranges, strict=True)]


def tenth_ranges(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    """Return the tenths from 0 to 1 with their counts; nothing if there are none."""
    return [(f"{n / 10:.1f}–{(n + 1) / 10:.1f}", counts.get(n, 0)) for n in range(10)] if counts else []


class ShownResult(NamedTuple):
    """A document's input of a step and its output as it is shown.

    `written` is False for an output that is no text, or several, which checks do not read. `findings` are the
    evidence of the flags.
    """

    id: str
    input: str
    output: str
    flags: tuple[str, ...]
    written: bool = True
    findings: tuple[Finding, ...] = ()


@dataclass
class StepFacts:
    """Counts of one step's results, and a few of the results."""

    status: StepStatus
    results: int = 0
    tokens_in: Counter[int] = field(default_factory=Counter)  # by their bits
    tokens_out: Counter[int] = field(default_factory=Counter)
    confidence: Counter[int] = field(default_factory=Counter)  # by tenth
    flags: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Reservoir[ShownResult]] = field(default_factory=dict)
    samples: Reservoir[ShownResult] = field(default_factory=lambda: Reservoir(EXAMPLES))

    def flags_by_doubt(self) -> list[tuple[str, int, bool]]:
        """Return each flag, its count, and True if it is a doubt; doubts first, then by count."""
        return [(flag, n, flag in DOUBTFUL) for flag, n in order_flags(self.flags).items()]


@dataclass(frozen=True)
class Facts:
    """The contents of a report. Failures are counted by class and reason, most of them first."""

    status: JobStatus
    steps: list[StepFacts]
    runtimes: list[RuntimeUse]
    shards: list[FinishedShard]
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

    `checks_of` returns the checks of the outputs under a spec, which give the evidence of an example's flags.

    Without texts no document's text, id or output is kept, and a failure counts by its class alone: its reason may
    name a file or a field. Raises NotFound.
    """
    steps = {step.name: StepFacts(step) for step in status.steps}
    with WritingBar(listener) as bar:
        for row, by_step in bar.along(_by_step(database, status, with_text), status.documents):
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


def _by_step(
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
    step.flags.update(result["flags"])


def _keep(
    database: Database,
    step: StepFacts,
    row: Mapping[str, Any],
    by_step: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    before = step.status.input
    read = row["input"] if before is None else by_step.get(before, {}).get("text", "")
    text = result.get("text")
    spec = step.status.spec
    output = text if isinstance(text, str) else database.kind_of(spec.kind).output.shown(result, spec.params)
    pair = ShownResult(row["id"], read, output, tuple(result["flags"]), output == text)
    for flag in pair.flags:
        step.examples.setdefault(flag, Reservoir(EXAMPLES)).offer(pair)
    if DOUBTFUL.isdisjoint(pair.flags):
        step.samples.offer(pair)


def _explain(step: StepFacts, checks: Checks) -> None:
    """Give the examples of doubtful outputs their evidence."""
    for flag in DOUBTFUL & step.examples.keys():
        pairs = step.examples[flag].kept
        pairs[:] = [
            pair._replace(findings=findings(checks, pair.input, pair.output, pair.flags)) if pair.written else pair
            for pair in pairs
        ]
