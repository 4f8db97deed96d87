"""The explanation of a result: its provenance, the windows that its kind cuts the text into, and its flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from docmill.features.explaining.provenance import EscalationRecord, Provenance, Recorded, StepRecord
from docmill.features.explaining.windows import ReadWindow
from docmill.storage.core.specs import Spec
from docmill.storage.steps.conditions import FAILED, RISK, Bound, count_doubtful_flags
from docmill.tasks import kinds
from docmill.tasks.checks import Finding, doubt_confidence, meaning
from docmill.tasks.errors import TaskError
from docmill.tasks.kinds import Traits
from docmill.worker.formatting import REASON_CLASSES

OF_DOCUMENT, OF_OUTPUT, OF_TODAY = "document", "output", "today"
NOT_KEPT = ("the output of each window", "the time of this document alone", "the worker")


@dataclass(frozen=True)
class Flag:
    """A flag of a document or of an output. `evidence` says what the checks find in the output.

    A flag of `OF_TODAY` is not stored with the result: only the checks of this release raise it.
    """

    name: str
    of: str
    meaning: str | None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """The explanation of one result.

    `state` is the outcome's status, or `blocked` (an earlier step gave nothing), `removed`, `left out` or `to do`.
    `said` explains a state other than `done`. `windows_unknown` is the reason why the windows are not known here.
    """

    provenance: Provenance
    state: str
    said: str | None
    windows: Sequence[ReadWindow]
    windows_unknown: str | None
    flags: tuple[Flag, ...]

    @property
    def step(self) -> StepRecord:
        return self.provenance.step

    @property
    def weights(self) -> dict[str, str]:
        """The model and the adapter, each with its revision: a commit of the hub, or the hash of local files."""
        spec = self.step.spec
        weights = {"model": spec.model, "revision": spec.revision}
        if "adapter" in spec.params:
            weights |= {"adapter": spec.params["adapter"], "adapter_revision": spec.params["adapter_revision"]}
        return weights

    @property
    def note(self) -> str | None:
        """A sentence that names the other steps with a result for the document; None if there are none."""
        if not self.provenance.others:
            return None
        others = ", ".join(self.provenance.others)
        return f"Other steps of the job have a result for this document: {others}. Choose one with --step NAME."


def explain(provenance: Provenance, cut: Callable[[Spec, str], tuple[Sequence[ReadWindow], Traits]]) -> Explanation:
    """Return the explanation of a result.

    `cut` cuts a text into the windows of a spec's model. It returns them and the model's traits, or raises TaskError.
    """
    step = provenance.step
    state, said = _describe_state(provenance)
    windows: Sequence[ReadWindow] = ()
    unknown, traits = None, Traits()
    if step.content is not None and step.content.strip():
        try:
            windows, traits = cut(step.spec, step.content)
        except TaskError as error:
            unknown = str(error)
    return Explanation(provenance, state, said, windows, unknown, _list_flags(provenance, traits))


def _describe_state(provenance: Provenance) -> tuple[str, str | None]:
    step = provenance.step
    if step.outcome is not None:
        return step.outcome.status, _describe_outcome(step.outcome)
    if step.removed:
        return "removed", (
            f"The result was removed after it was computed. Run the source {provenance.source} to compute it again."
        )
    if provenance.left_out is not None:
        return "left out", f"It is {provenance.left_out}, and the step leaves such documents out."
    for before in provenance.way[:-1]:
        if before.outcome is not None and before.outcome.status != "done":
            return "blocked", f"The earlier step {before.name} {before.outcome.status}: {before.outcome.reason}"
    return "to do", _describe_work_left(provenance)


def _describe_outcome(outcome: Recorded) -> str | None:
    if outcome.status == "done":
        return None
    if outcome.status == "skipped":
        return f"There was nothing to compute: {outcome.reason}"
    return f"{outcome.reason} {REASON_CLASSES.get(outcome.reason_class or '', '')}".strip()


def _describe_work_left(provenance: Provenance) -> str:
    step = provenance.step
    if provenance.state in {"cancelled", "stopped"}:
        return f"It was not computed: the job was {provenance.state}. Run its source again to compute it."
    advice = f"`docmill status {provenance.job}` shows the job's progress."
    if step.content is None and step.reads is not None:
        return f"It is not computed yet: it waits for the step {step.reads}. {advice}"
    return f"It is not computed yet. {advice}"


def _list_flags(provenance: Provenance, traits: Traits) -> tuple[Flag, ...]:
    of_document = [Flag(name, OF_DOCUMENT, meaning(name)) for name in provenance.flags]
    step, outcome = provenance.step, provenance.step.outcome
    if outcome is None:
        return tuple(of_document)
    sure = outcome.confidence.get("confidence")
    return (*of_document, *explain_flags(step.spec, traits, step.content or "", outcome.output, outcome.flags, sure))


def explain_flags(
    spec: Spec,
    traits: Traits,
    source: str,
    output: Mapping[str, Any],
    stored: Sequence[str],
    confidence: float | None = None,
) -> list[Flag]:
    """Return the stored flags of an output, each with its evidence, then the flags that only checks of today raise.

    `source` is the text that was computed, and `output` has its JSON form. A check finds the same in the same texts,
    so docmill does not store the evidence.
    """
    checks = kinds.checks(spec, traits)
    evidence: dict[str, list[str]] = {}
    for text in _list_texts(output):
        for finding in checks.findings(source, text, stored):
            evidence.setdefault(finding.flag, []).append(_describe_finding(finding))
    if unsure := doubt_confidence(confidence, checks.least_confidence):
        evidence[unsure.flag] = [_describe_finding(unsure)]
    kept = [Flag(name, OF_OUTPUT, meaning(name), tuple(evidence.get(name, ()))) for name in stored]
    today = [name for name in evidence if name not in stored]
    return [*kept, *(Flag(name, OF_TODAY, meaning(name), tuple(evidence[name])) for name in today)]


def _list_texts(output: Mapping[str, Any]) -> list[str]:
    texts = output.get("texts") or [output.get("text"), *(output.get("data") or {}).values()]
    return [text for text in texts if isinstance(text, str)]


def _describe_finding(finding: Finding) -> str:
    if finding.start is not None and finding.end is not None:
        return f"{finding.evidence} ({_describe_place(finding.start, finding.end)} of the output)"
    return f"{finding.evidence} ({_describe_place(*finding.lost)} of the input)" if finding.lost else finding.evidence


def _describe_place(start: int, end: int) -> str:
    return f"characters {start:,} to {end:,}"


def list_doubts(escalation: EscalationRecord) -> list[str]:
    """Return the flags and bounds that cast doubt on the first result; `failed` for a failure."""
    if escalation.first.status == FAILED:
        return [FAILED]
    flags = [
        flag for flag in escalation.first.flags if escalation.doubt.flags and escalation.doubt.flagged.carried([flag])
    ]
    bounds = [_describe_bound(bound, escalation) for bound in escalation.doubt.bounds]
    return [*flags, *filter(None, bounds)]


def _describe_bound(bound: Bound, escalation: EscalationRecord) -> str | None:
    """Return the first result's number with the bound that it meets; None if it does not meet the bound."""
    numbers = escalation.first.confidence
    if bound.number != RISK:
        return (
            f"{bound.number} {numbers[bound.number]:.3f} ({bound})"
            if bound.holds(numbers.get(bound.number))
            else None
        )
    assert escalation.doubt.risk is not None
    model, result = escalation.doubt.risk.model, {**vars(escalation.first), **numbers}
    if not bound.holds(model.log_odds(result)):
        return None
    return f"risk {model.of(result):.3f} ({bound}, by version {escalation.doubt.risk.version})"


def say_choice(escalation: EscalationRecord) -> str:
    """Return a sentence that says which of the two results counts, and why."""
    if escalation.second is None:
        return "The first: the second is not computed yet, or was removed."
    if escalation.second.status != "done":
        return f"The first: the second {escalation.second.status}: {escalation.second.reason}"
    if escalation.first.status == FAILED:
        return "The second: the first failed."
    first, second = count_doubtful_flags(escalation.first.flags), count_doubtful_flags(escalation.second.flags)
    numbers = f"({second} against {first})"
    if not escalation.second_won:
        return f"The first: the second has more doubtful flags {numbers}."
    return f"The second: it has {'fewer' if second < first else 'as many'} doubtful flags {numbers}."


def say_result(spec: Spec, outcome: Recorded) -> str:
    """Return a line about one of the two results: its model, its flags and its confidence."""
    if outcome.status != "done":
        return f"{spec.model}: {outcome.status}: {outcome.reason}"
    beams = f", beams {spec.params['beams']}" if "beams" in spec.params else ""
    flags = ", ".join(outcome.flags) or "no flags"
    sure = outcome.confidence.get("confidence")
    return f"{spec.model}{beams}: {flags}" + ("" if sure is None else f"; confidence {sure:.3f}")


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return the whole explanation: nothing is cut short, and vectors are lists of numbers."""
    provenance, step = explanation.provenance, explanation.step
    return {
        "job": provenance.job,
        "document": {
            "id": provenance.document,
            "corpus": provenance.corpus,
            "source": provenance.source,
            "read_at": provenance.read_at,
            "meta": provenance.meta,
            "flags": provenance.flags,
            "text": provenance.text,
            "changed_since": provenance.changed,
            "vanished": provenance.gone,
        },
        "step": step.name,
        "state": explanation.state,
        "said": explanation.said,
        "note": explanation.note,
        "steps": [step_as_json(record) for record in provenance.way],
        "weights": explanation.weights,
        "windows": [asdict(window) for window in explanation.windows],
        "windows_unknown": explanation.windows_unknown,
        "flags": [asdict(flag) for flag in explanation.flags],
        "not_kept": NOT_KEPT,
    }


def step_as_json(step: StepRecord) -> dict[str, Any]:
    """Return a step's record as JSON values."""
    return {
        "name": step.name,
        "reads": step.reads,
        "spec": asdict(step.spec),
        "spec_sha256": step.spec.sha256.hex(),
        "text": step.text,
        "prompt": step.content if step.content != step.text else None,
        "outcome": None if step.outcome is None else _outcome_as_json(step.outcome),
        "removed": step.removed,
        "escalation": None if step.escalation is None else _escalation_as_json(step.escalation),
    }


def _escalation_as_json(escalation: EscalationRecord) -> dict[str, Any]:
    second = None if escalation.second is None else _outcome_as_json(escalation.second)
    return {
        "doubt": str(escalation.doubt),
        "first": {"spec": asdict(escalation.first_spec), "outcome": _outcome_as_json(escalation.first)},
        "second": {"spec": asdict(escalation.second_spec), "outcome": second},
        "result": "second" if escalation.second_won else "first",
        "why": say_choice(escalation),
    }


def _outcome_as_json(outcome: Recorded) -> dict[str, Any]:
    return {**vars(outcome), "output": arrays_as_lists(outcome.output)}


def arrays_as_lists(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return an output with its vectors as lists of numbers."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in output.items()}
