"""An explanation as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from docmill.worker.explaining.escalated import why

if TYPE_CHECKING:
    from docmill.storage.results.provenance import EscalationRecord, Recorded, StepRecord
    from docmill.worker.explaining.explanation import Explanation


def as_json(found: Explanation) -> dict[str, Any]:
    """Return the whole explanation: nothing is cut short, and vectors are lists of numbers."""
    provenance, step = found.provenance, found.step
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
        "state": found.state,
        "said": found.said,
        "note": found.note,
        "steps": [of_step(one) for one in provenance.way],
        "weights": found.weights,
        "windows": [asdict(window) for window in found.cut.windows],
        "windows_unknown": found.cut.problem,
        "flags": [asdict(flag) for flag in found.flags],
        "not_kept": found.not_kept,
    }


def of_step(step: StepRecord) -> dict[str, Any]:
    """Return a step's record as JSON values."""
    return {
        "name": step.name,
        "reads": step.reads,
        "spec": asdict(step.spec),
        "spec_sha256": step.spec.sha256.hex(),
        "text": step.given,
        "prompt": step.content if step.content != step.given else None,
        "outcome": None if step.outcome is None else _outcome(step.outcome),
        "shard": None if step.batch is None else asdict(step.batch),
        "removed": step.removed,
        "escalation": None if step.escalation is None else _escalation(step.escalation),
    }


def _escalation(found: EscalationRecord) -> dict[str, Any]:
    second = None if found.second is None else _outcome(found.second)
    return {
        "doubt": str(found.doubt),
        "first": {"spec": asdict(found.first_spec), "outcome": _outcome(found.first)},
        "second": {"spec": asdict(found.second_spec), "outcome": second},
        "result": "second" if found.second_won else "first",
        "why": why(found),
    }


def _outcome(outcome: Recorded) -> dict[str, Any]:
    return {**vars(outcome), "output": plain(outcome.output)}


def plain(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return an output in its JSON form, whose vector may be an array."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in output.items()}
