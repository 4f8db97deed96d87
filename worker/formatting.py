"""Numbers, times, a job's status and texts as plain text that is safe to print.

Without rich, which takes long to load: `worker.consoles` has bars and tables.
"""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from docmill.storage.core.specs import DOUBTFUL
from docmill.storage.steps.conditions import order_flags
from docmill.worker.logs import UNSEEN, escape_unseen

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.storage.ingest.ingest import Counts
    from docmill.storage.results.job_counts import Escalated, FlagCounts
    from docmill.storage.results.status import JobStatus, StepStatus
    from docmill.storage.results.time_left import TimeLeft
    from docmill.worker.prices import Cost
    from docmill.worker.submit.dry_run import Forecast


_WIDE = 64  # so that a terminal of 80 columns has room for them


def duration(seconds: float) -> str:
    """Return a duration in words: 41 s, 12 min, 3 h 05 min, 4 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min".removesuffix(" 00 min")
    return f"{minutes / 1440:.0f} days"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: `1 text`, `2 texts`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def documents(n: int) -> str:
    """Return a number of documents with its noun."""
    return counted(n, "document")


def local_time(seconds: float | None) -> str:
    """Return a moment in this machine's time zone, or an empty text for None."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"


def zone_time(seconds: float | None, timezone: str) -> str:
    """Return a moment in a time zone (an IANA name), with its abbreviation or offset; an empty text for None."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, ZoneInfo(timezone)):%Y-%m-%d %H:%M %Z}"


def moment(seconds: float | None) -> str:
    """Return a moment in UTC, to the second."""
    return "—" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def percent(part: int, whole: int) -> str:
    """Return a share of a whole, with one decimal."""
    return f"{100 * part / whole:.1f} %" if whole else "—"


def pace(status: JobStatus) -> str:
    """Return texts and tokens per second and the time left, without those that are unknown."""
    left = status.time_left
    parts = []
    if left.texts_per_s:
        parts = [f"{rate(left.texts_per_s)} texts/s", f"{rate(left.tokens_per_s)} tokens/s"]
    if status.pending and (said := time_left(left)):
        parts.append(said)
    return ", ".join(parts)


def where_time_goes(status: JobStatus) -> str:
    """Return the shares of time that the job's workers spend in each phase; empty if they are unknown."""
    use = status.time_use
    if use is None:
        return ""
    phases = {"reading": use.reading, "cutting": use.cutting, "computing": use.computing, "writing": use.writing}
    shares = ", ".join(f"{name} {share:.0%}" for name, share in phases.items())
    return f"device busy {use.device_busy:.0%}; shards: {shares}"


def rate(per_s: float) -> str:
    """Return a number per second with two digits at least."""
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2g}"


def time_left(left: TimeLeft) -> str:
    """Return the time left in words; empty if it is unknown."""
    if left.left_s is None:
        return ""
    return f"{'at least' if left.at_least else 'about'} {duration(left.left_s)} left"


def ingested(source: str, counts: Counts, *, adopted: bool, takes_encoding: bool = True) -> str:
    """Return the counts of a reading in one line. Some texts of an adopted job may have been planned before.

    Without `takes_encoding` the command has no option --encoding.
    """
    if not counts.records and not counts.rejected:
        return no_records(source)
    advice = "name it, such as --encoding windows-1252" if takes_encoding else "save it as UTF-8"
    mended = (
        f" In {documents(counts.mended)} docmill replaced characters or read them as Windows-1252, first in "
        f"{counts.mended_place}. If the file has another encoding, {advice}."
    )
    superseded = " `docmill failures` names the superseded records."
    parts = (
        (counts.changed, "changed"),
        (counts.unchanged, "unchanged"),
        (counts.repeated, "superseded by a later record of the same id"),
        (counts.rejected, "rejected"),
        (counts.vanished, "vanished"),
    )
    others = "".join(f", {n:,} {name}" for n, name in parts if n)
    return (
        f"{counted(counts.records + counts.rejected, 'record')}: {counted(counts.new, 'new document')}{others}. "
        f"{counted(counts.planned, 'text')} to compute{', beside those of before' if adopted else ''}."
    ) + "".join([mended if counts.mended else "", superseded if counts.repeated else ""])


def no_records(source: str) -> str:
    return f"{'Standard input' if source == '-' else source} has no records."


def work_ahead(forecast: Forecast, device: str) -> list[str]:
    """Return lines about what a run computes, and the time that it takes on a device."""
    done = forecast.done_already
    lines = [f"{counted(done, 'text')} {'has' if done == 1 else 'have'} a result already"]
    if forecast.sampled:
        lines.append(
            f"{forecast.texts - done:,} to do: about {forecast.tokens_to_do:,} tokens, "
            f"about {duration(forecast.seconds)} on {device} "
            f"({forecast.tokens_per_s:,.0f} tokens/s measured on {counted(forecast.sampled, 'text')}, "
            f"{duration(forecast.load_s)} to load the model)"
        )
    return lines


def summary(status: JobStatus, cost: Cost | None = None) -> str:
    """Return a job in one line, with the cost of its tokens if it is known."""
    line = (
        f"Job {status.id} {status.state}: {documents(status.documents)}, {counted(status.texts, 'unique text')}: "
        f"{status.done:,} done"
    )
    if status.failed:
        line += f", {status.failed:,} failed"
    if status.skipped:
        line += f", {status.skipped:,} skipped (blank)"
    if status.pending:
        line += f", {status.pending:,} to do"
    if status.truncated:
        line += f"; {counted(status.truncated, 'output')} stopped at the model's limit (flag output_truncated)"
    if status.rejected:
        line += f"; {counted(status.rejected, 'record')} rejected"
    took = ""
    if status.ended and status.tokens_in:
        read = f"{status.tokens_in:,} tokens read, {rate(status.time_left.tokens_per_s)} a second at work"
        took = f"It took {duration(status.elapsed_s)}: {read}"
    paid = "" if cost is None else f"Its tokens cost {cost}"
    sentences = [line, *filter(None, [took, paid, status.reason])]
    return ". ".join(sentence.removesuffix(".") for sentence in sentences) + "."


def not_written(status: JobStatus, written: int) -> str | None:
    """Return a sentence on the inputs of a job that an export leaves out; None if it has them all."""
    lacking = status.documents - (status.removed or 0) + status.rejected + status.repeated - written
    if lacking <= 0:
        return None
    verb = "has no result and is" if lacking == 1 else "have no result and are"
    return (
        f"{counted(lacking, 'input')} {verb} left out; `docmill results {status.id} --all` writes every input, "
        "with its outcome and the reason."
    )


def doubtful(documents: int, counts: FlagCounts) -> str:
    """Say how many documents carry a doubtful flag."""
    flags = ", ".join(f"{flag}: {n:,}" for flag, n in order_flags(counts.by_flag).items() if flag in DOUBTFUL)
    verb = "is" if counts.doubtful == 1 else "are"
    of = counted(documents, "document")
    return f"{counts.doubtful:,} of {of} {verb} flagged as doubtful ({flags})."


def flags(job: int, counts: Mapping[str, FlagCounts]) -> str:
    """Return the numbers of results with each flag, of each step, and the command that writes the doubtful ones."""
    lines: list[str] = []
    for step, of_flags in counts.items():
        of_step = f"{step}, " if len(counts) > 1 else ""
        for name, is_doubtful in (("doubtful", True), ("remarks", False)):
            numbers = [
                f"{flag} {n:,}"
                for flag, n in order_flags(of_flags.by_flag).items()
                if (flag in DOUBTFUL) is is_doubtful
            ]
            said = f"{of_step}{name}: {', '.join(numbers)}"
            lines += wrapped(said) if numbers else []
    if any(of_flags.doubtful for of_flags in counts.values()):
        lines.append(f"`docmill results {job} --flagged` writes the doubtful ones")
    return "\n".join(lines)


def escalated(counts: Mapping[str, Escalated]) -> str:
    """Return the numbers of escalated texts and of the better model's results."""
    lines: list[str] = []
    for step, escalation in counts.items():
        of_step = f"{step}, " if len(counts) > 1 else ""
        failed = f", {escalation.failed:,} failed" if escalation.failed else ""
        pending = f", {escalation.pending:,} to do" if escalation.pending else ""
        model = f"{escalation.spec.model}{describe_difference(escalation.first, escalation.spec)}"
        said = f"{of_step}{escalation.texts:,} of {escalation.of:,} texts ({escalation.share:.0%}) "
        said += f"to {model}{failed}{pending}; "
        said += f"{escalation.won:,} of {escalation.documents:,} results are that model's"
        lines += wrapped(said)
    return "\n".join(lines)


def wrapped(said: str, indent: str = "", width: int = _WIDE) -> list[str]:
    """Return a sentence in lines, those after the first indented. Names are not broken at their hyphens."""
    return textwrap.wrap(said, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def describe_difference(first: Spec, second: Spec) -> str:
    """Return the options in which `second` differs from `first`, since both may name the same model."""
    chosen = {name: value for name, value in second.params.items() if first.params.get(name, value) != value}
    chosen |= {name: value for name, value in second.params.items() if name not in first.params}
    said = ", ".join(f"{name.replace('_', '-')} {shorten(str(value), 40)}" for name, value in sorted(chosen.items()))
    return f" ({said})" if said else ""


def escalated_as_json(counts: Mapping[str, Escalated]) -> dict[str, Any]:
    """Return the numbers of escalated texts as JSON values, by step."""
    steps = {
        step: asdict(escalation)
        | {
            "doubt": str(escalation.doubt),
            "risk_version": None if escalation.doubt.risk is None else escalation.doubt.risk.version,
            "share": round(escalation.share, 4),
        }
        for step, escalation in counts.items()
    }
    return {"escalated": steps}


def flags_as_json(counts: Mapping[str, FlagCounts]) -> dict[str, Any]:
    """Return the numbers of results with each flag as JSON values: sums over all steps, and those of each step."""
    doubtful = sum(step_counts.doubtful for step_counts in counts.values())
    total = sum((step_counts.by_flag for step_counts in counts.values()), Counter[str]())
    of_steps = {
        step: {
            "doubtful": step_counts.doubtful,
            "flags": order_flags(step_counts.by_flag),
            "not_selected": step_counts.not_selected,
        }
        for step, step_counts in counts.items()
    }
    return {"doubtful": doubtful, "flags": order_flags(total), "flags_by_step": of_steps}


def cost_as_json(cost: Cost | None) -> dict[str, Any]:
    """Return the cost of a job as JSON values; null without a price."""
    return {"cost": None if cost is None else asdict(cost)}


def as_json(status: JobStatus) -> dict[str, Any]:
    """Return a status as JSON values, with the parts of each spec."""
    steps = [asdict(step) | {"spec": asdict(step.spec)} for step in status.steps]
    derived = {"ended": status.ended, "texts": status.texts, "spec": asdict(status.spec)}
    return asdict(status) | derived | {"steps": steps}


def lost(status: JobStatus) -> str | None:
    """Return a remark on results and documents that were removed since the job was done; None if there are none."""
    said = []
    if status.lost:
        advice = "run its source again to compute them anew"
        how = "retention, rule results" if "results" in (status.swept or ()) else "docmill gc"
        said.append(f"results of {status.lost:,} of its documents were removed since ({how}); {advice}")
    if status.removed:
        were = "was" if status.removed == 1 else "were"
        how = "gc versions removes older versions, corpus rm documents"
        said.append(f"{status.removed:,} of its documents {were} removed since, with results ({how})")
    return "; ".join(said) or None


REASON_CLASSES: Mapping[str, str] = {
    "transient": "(class transient: a retry can help)",
    "document": "(class document: a retry gives the same, unless the text or the options change)",
    "model": "(class model: a retry gives the same with this model)",
}
REMOVED = {
    "step_texts": "what `docmill retry` needs",
    "shards": "single shards; the counts stay",
    "rejections": "rejected records; their number stays",
    "results": "results",
}


def swept(rules: Sequence[str]) -> str:
    """Return a remark on the rows of a job that retention rules removed; empty if there are none."""
    return "\n".join(f"{REMOVED[rule]} (retention, rule {rule})" for rule in rules)


def describe_status(
    status: JobStatus,
    counts: Mapping[str, FlagCounts] | None = None,
    escalations: Mapping[str, Escalated] | None = None,
    cost: Cost | None = None,
) -> dict[str, str]:
    """Return the lines of a job's status by their names; with its flags and escalations, if they were counted.

    The cost is shown if the models have prices.
    """
    known = {
        "job": f"{status.id} ({status.state})",
        "task" if len(status.steps) == 1 else "steps": "\n".join(
            line for step in status.steps for line in _step(step, counts or {})
        ),
        "priority": str(status.priority) if status.priority else "",
        "corpus": status.corpus,
        "source": status.source,
        "documents": f"{status.documents:,}"
        if status.documents
        else f"{counted(status.records + status.rejected, 'record')} read so far",
        "texts": f"{status.done:,} done, {status.failed:,} failed, {status.skipped:,} skipped, "
        f"{status.pending:,} to do" + (f" ({status.prior:,} had a result before)" if status.prior else ""),
        "truncated": f"{counted(status.truncated, 'output')} stopped at the model's limit"
        if status.truncated
        else "",
        "flags": flags(status.id, counts or {}),
        "escalated": escalated(escalations or {}),
        "shards": ", ".join(f"{n} {state}" for state, n in sorted(status.shards.items())) or "none",
        "tokens": f"{status.tokens_in:,} read, {status.tokens_out:,} written",
        "cost": "" if cost is None else str(cost),
        "pace": pace(status),
        "time use": where_time_goes(status),
        "rejected": counted(status.rejected, "record") if status.rejected else "",
        "results": lost(status) or "",
        "removed": swept(status.swept or ()),
        "not pruned": status.not_pruned or "",
        "made": local_time(status.created_at),
        "time": duration(status.elapsed_s),
        "reason": status.reason or status.waiting_for or "",
    }
    return {name: printable(value) for name, value in known.items() if value}


def _step(step: StepStatus, flag_counts: Mapping[str, FlagCounts]) -> list[str]:
    if step.input is None and step.name == step.spec.kind:
        left_out = flag_counts[step.name].not_selected if step.name in flag_counts else 0
        return [f"{step.spec}; {documents(left_out)} not selected" if left_out else str(step.spec)]
    counts = f"{step.done:,} done, {step.failed:,} failed, {step.blocked:,} blocked, {step.pending:,} to do"
    if step.name in flag_counts and flag_counts[step.name].not_selected:
        counts += f", {documents(flag_counts[step.name].not_selected)} not selected"
    return wrapped(f"{step.name}: {step.spec} over {step.input or 'the documents'}: {counts}", indent="  ")


def aligned(values: Mapping[str, str]) -> str:
    """Return lines with a name in bold and its value."""
    width = max(map(len, values), default=0) + 1
    knows_bold = os.environ.get("TERM") != "dumb"
    names = {name: click.style(name.ljust(width), bold=knows_bold or None, reset=knows_bold) for name in values}
    lines = [names[name] + value.replace("\n", "\n" + " " * width) for name, value in values.items()]
    return "\n".join(lines)


def shorten(text: str, width: int = 300) -> str:
    """Return the beginning of a text, with an ellipsis if more follows."""
    text = printable(text)
    return text if len(text) <= width else f"{text[:width].rstrip()} …"


def printable(text: str, keep: str = "\n\t") -> str:
    """Return the text without characters that a terminal would obey, or that steer how the text around them is shown.

    They are shown as U+FFFD.
    """
    return UNSEEN.sub(lambda match: match[0] if match[0] in keep else "\ufffd", text)


# The filters of templates, by their names.
FILTERS: Mapping[str, Callable[..., str]] = {
    "n": "{:,}".format,
    "of": counted,
    "time": moment,
    "duration": duration,
    "seen": escape_unseen,
    "percent": percent,
}
