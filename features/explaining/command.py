"""`docmill explain`: show how docmill computed one result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import click
import orjson
from rich.console import Group
from rich.table import Table
from rich.text import Text

from docmill.features.explaining.explanation import (
    NOT_KEPT,
    OF_DOCUMENT,
    OF_TODAY,
    Explanation,
    explain,
    list_doubts,
    say_choice,
    say_result,
)
from docmill.features.explaining.explanation import as_json as write_json
from docmill.features.explaining.provenance import EscalationRecord, StepRecord, read_provenance
from docmill.features.explaining.windows import ReadWindow, cut
from docmill.storage.core.database import Database
from docmill.storage.extras import CHECKS
from docmill.storage.json_values import Json
from docmill.storage.outputs.output_types import OutputType
from docmill.worker.cli.options import JOB, JSON
from docmill.worker.cli.printing import print_json, print_rich, say
from docmill.worker.formatting import local_time, printable, shorten
from docmill.worker.settings import load_settings
from docmill.worker.stores import open_store


@click.command("explain", epilog="Example: docmill explain 7 a17 --json | jq .windows")
@JOB
@click.argument("document", metavar="ID")
@click.option("--step", help="Explain this step of a job with several steps.")
@click.option("--full", is_flag=True, help="Show long texts, and all windows.")
@JSON
def explain_command(job: int, document: str, step: str | None, full: bool, as_json: bool) -> None:
    """Show how docmill computed the result of the document ID in JOB.

    The command shows the document with its metadata, the windows of the text with their prompts, the output, its
    flags and their meaning, and the revision of the weights, the adapter, precision, backend, versions, device
    and time. If the document has no result, it says why.

    To show windows, the command needs the model's tokenizer on this machine. For a job with several steps it
    explains the last one with a result.
    """
    CHECKS.require("`docmill explain`")
    settings = load_settings()
    with open_store(settings) as database:
        explanation = explain(read_provenance(database, job, document, step), partial(cut, settings.model_folders))
        if as_json:
            print_json(write_json(explanation))
        else:
            _show(database, explanation, full=full)


def _show(database: Database, explanation: Explanation, *, full: bool) -> None:
    outputs = {step.name: database.kind_of(step.spec.kind).output for step in explanation.provenance.way}
    for part in ExplanationSections(explanation, outputs, full=full).sections():
        print_rich(part)
    if explanation.note is not None:
        say(explanation.note)


Rows = Sequence[tuple[str, str]]

SHOWN_CHARACTERS = 400
SHOWN_LINE = 130  # characters
SHOWN_WINDOWS = 5
NAMES = 11  # columns of the names
# Words after a flag that was not raised for the stored output.
ORIGINS: Mapping[str, str] = {
    OF_DOCUMENT: " (of the document)",
    OF_TODAY: " (not stored with the result: a check of this release finds it)",
}


class ExplanationSections:
    """An explanation in sections. Without `full`, long texts and the list of windows are cut.

    `outputs` has the type of each step's output.
    """

    def __init__(self, explanation: Explanation, outputs: Mapping[str, OutputType], *, full: bool) -> None:
        self._explanation = explanation
        self._outputs = outputs
        self._full = full

    def sections(self) -> Iterator[Group]:
        """Yield the sections in their order."""
        yield make_section(f"Document {self._explanation.provenance.document}", self._document())
        if len(self._explanation.provenance.way) > 1:
            yield make_section("Steps", self._steps())
        yield make_section(f"Step {self._explanation.step.name}" if self._several else "Computed", self._computed())
        if (escalation := self._explanation.step.escalation) is not None:
            yield make_section("Escalated", self._escalated(escalation))
        yield make_section("Windows", self._windows())
        yield make_section("Output", self._output())
        if self._explanation.flags:
            yield make_section("Flags", self._flags())
        yield make_section("How", self._how())
        yield make_section("Not kept", [("", ", ".join(NOT_KEPT))])

    @property
    def _several(self) -> bool:
        return len(self._explanation.provenance.way) > 1 or bool(self._explanation.provenance.others)

    def _document(self) -> Rows:
        provenance = self._explanation.provenance
        stands = [
            text
            for text, holds in (
                ("the corpus has a later version of it", provenance.changed),
                ("it vanished from its source", provenance.gone),
            )
            if holds
        ]
        return [
            ("job", f"{provenance.job} ({provenance.state})"),
            ("corpus", provenance.corpus),
            ("source", f"{provenance.source}, read {local_time(provenance.read_at)}"),
            *([("since", "; ".join(stands))] if stands else []),
            ("meta", "\n".join(f"{name}: {self._short(value)}" for name, value in provenance.meta.items()) or "none"),
            ("text", self._text(provenance.text)),
        ]

    def _steps(self) -> Rows:
        rows = []
        for step in self._explanation.provenance.way:
            rows.append((step.name, f"{step.spec.kind} of {_describe_input(step)}"))
            rows.append(("  reads", shorten_line(step.text)))
            rows.append(("  gives", shorten_line(self._shown(step)) if step.outcome else "nothing yet"))
        return rows

    def _computed(self) -> Rows:
        spec = self._explanation.step.spec
        params = [(name, self._short(value)) for name, value in sorted(spec.params.items())]
        options = "\n".join(f"{name}: {value}" for name, value in params if not name.startswith("adapter"))
        weights = self._explanation.weights
        rows = [
            ("task", spec.kind),
            ("model", spec.model),
            pin(weights["revision"]),
            *([("adapter", weights["adapter"]), pin(weights["adapter_revision"])] if "adapter" in weights else []),
            ("quality", spec.quality),
            ("options", options or "the model's own"),
        ]
        step = self._explanation.step
        if step.content is not None and step.content != step.text:
            rows.append(("prompt", self._text(step.content)))
        return rows

    def _escalated(self, escalation: EscalationRecord) -> Rows:
        rows = [
            ("doubted", ", ".join(list_doubts(escalation))),
            ("first", say_result(escalation.first_spec, escalation.first)),
        ]
        shown = self._outputs[self._explanation.step.name].shown
        if escalation.first.status == "done":
            rows.append(("", self._text(shown(escalation.first.output, escalation.first_spec.params))))
        if escalation.second is not None:
            rows.append(("second", say_result(escalation.second_spec, escalation.second)))
            if escalation.second.status == "done":
                rows.append(("", self._text(shown(escalation.second.output, escalation.second_spec.params))))
        return [*rows, ("result", say_choice(escalation))]

    def _windows(self) -> Rows:
        windows, unknown = self._explanation.windows, self._explanation.windows_unknown
        if unknown is not None:
            return [("", f"not known here: {unknown}")]
        if not windows:
            return [("", "none")]
        shown = windows if self._full else windows[:SHOWN_WINDOWS]
        rows = [row for number, window in enumerate(shown, 1) for row in self._window(number, window)]
        if more := len(windows) - len(shown):
            rows.append(("", f"… {more:,} more windows; --full shows all"))
        return rows

    def _window(self, number: int, window: ReadWindow) -> Rows:
        place = f"characters {window.start:,} to {window.end:,}"
        if window.prompt is None:
            return [(str(number), f"{place}: the model does not read them")]
        part = ", a part of a longer section" if window.part else ""
        return [
            (str(number), f"{place}, {window.tokens:,} tokens{part}; the model reads:"),
            ("", self._text(window.prompt)),
        ]

    def _output(self) -> Rows:
        said, step = self._explanation.said, self._explanation.step
        outcome = step.outcome
        if outcome is None:
            return [("", said or "")]
        rows = [("", self._text(self._shown(step)) if outcome.status == "done" else f"{outcome.status}: {said}")]
        if sure := ", ".join(f"{name} {value:.3f}" for name, value in outcome.confidence.items()):
            rows.append(("confidence", sure.removeprefix("confidence ")))
        return [*rows, ("tokens", f"{outcome.tokens_in:,} read, {outcome.tokens_out:,} written")]

    def _flags(self) -> Rows:
        rows: list[tuple[str, str]] = []
        for flag in self._explanation.flags:
            meaning = flag.meaning or "a flag that this release does not know"
            rows.append(("", f"{flag.name}{ORIGINS.get(flag.of, '')}: {meaning}"))
            rows += [("", f"  {line}") for line in flag.evidence]
        return rows

    def _how(self) -> Rows:
        outcome = self._explanation.step.outcome
        if outcome is None:
            return []
        runtime = [("runtime", "not kept")] if outcome.runtime is None else list_runtime(outcome.runtime)
        return [*runtime, ("written", local_time(outcome.created_at))]

    def _shown(self, step: StepRecord) -> str:
        outcome = step.outcome
        assert outcome is not None
        if outcome.status != "done":
            return f"{outcome.status}: {outcome.reason}"
        return self._outputs[step.name].shown(outcome.output, step.spec.params)

    def _text(self, text: str) -> str:
        return text if self._full else cut_short(text)

    def _short(self, value: Json) -> str:
        return self._text(value if isinstance(value, str) else orjson.dumps(value).decode())


def make_section(title: str, rows: Rows) -> Group:
    """Return a title in bold, and names beside their values below it."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column(no_wrap=True, min_width=NAMES, max_width=NAMES, overflow="ellipsis")
    table.add_column(ratio=1, overflow="fold")
    for name, value in rows:
        table.add_row(Text(printable(name, keep="")), Text(printable(value)))
    return Group(Text(printable(title, keep=""), style="bold"), table, Text())


def list_runtime(runtime: Mapping[str, Any]) -> Rows:
    """Return the rows about the backend that computed a result."""
    versions = ", ".join(f"{name} {version}" for name, version in runtime["versions"].items())
    return [*((name, runtime[name]) for name in ("precision", "backend", "device")), ("versions", versions)]


def pin(revision: str) -> tuple[str, str]:
    """Return the row that identifies the weights: the SHA-256 of a local model's files, or a commit of the hub."""
    _, _, digest = revision.rpartition("sha256:")
    return ("weights", digest) if "sha256:" in revision else ("revision", revision)


def cut_short(text: str) -> str:
    """Return the text's beginning, with the number of characters that are left out."""
    more = len(text) - SHOWN_CHARACTERS
    return text if more <= 0 else f"{text[:SHOWN_CHARACTERS]}\n… {more:,} more characters; --full shows all"


def shorten_line(text: str | None) -> str:
    """Return the beginning of a text without line breaks; None is a text that is not there yet."""
    if text is None:
        return "nothing yet"
    return shorten(" ".join(text[: 4 * SHOWN_LINE].split()), SHOWN_LINE)


def _describe_input(step: StepRecord) -> str:
    return "the document" if step.reads is None else f"the output of {step.reads}"
