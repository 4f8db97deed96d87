"""Explain an escalation: the reason for the doubt, and the reason for the choice between the two results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docmill.storage.steps.conditions import FAILED, RISK, count_doubtful_flags

if TYPE_CHECKING:
    from docmill.storage.core.specs import Spec
    from docmill.storage.results.provenance import EscalationRecord, Recorded
    from docmill.storage.steps.conditions import Bound


def doubted_for(found: EscalationRecord) -> list[str]:
    """Return the flags and bounds for which the first result was doubted; for a failure that it failed."""
    if found.first.status == FAILED:
        return [FAILED]
    flags = [flag for flag in found.first.flags if found.doubt.flags and found.doubt.flagged.carried([flag])]
    return [*flags, *(said for bound in found.doubt.bounds if (said := _met(bound, found)) is not None)]


def _met(bound: Bound, found: EscalationRecord) -> str | None:
    """Return the number of the first result and a bound that it meets, or None."""
    numbers = found.first.confidence
    if bound.number != RISK:
        return (
            f"{bound.number} {numbers[bound.number]:.3f} ({bound})"
            if bound.holds(numbers.get(bound.number))
            else None
        )
    assert found.doubt.risk is not None
    model, result = found.doubt.risk.model, {**vars(found.first), **numbers}
    if not bound.holds(model.log_odds(result)):
        return None
    return f"risk {model.of(result):.3f} ({bound}, by version {found.doubt.risk.version})"


def why(found: EscalationRecord) -> str:
    """Return a sentence on why one of the two results is the document's."""
    if found.second is None:
        return "The first: the second is not computed yet, or was removed."
    if found.second.status != "done":
        return f"The first: the second {found.second.status}: {found.second.reason}"
    if found.first.status == FAILED:
        return "The second: the first failed."
    first, second = count_doubtful_flags(found.first.flags), count_doubtful_flags(found.second.flags)
    numbers = f"({second} against {first})"
    if not found.second_won:
        return f"The first: the second has more doubtful flags {numbers}."
    return f"The second: it has {'fewer' if second < first else 'as many'} doubtful flags {numbers}."


def said(spec: Spec, outcome: Recorded) -> str:
    """Return a line about one of the two results: what computed it, its flags and its confidence."""
    if outcome.status != "done":
        return f"{spec.model}: {outcome.status}: {outcome.reason}"
    beams = f", beams {spec.params['beams']}" if "beams" in spec.params else ""
    flags = ", ".join(outcome.flags) or "no flags"
    sure = outcome.confidence.get("confidence")
    return f"{spec.model}{beams}: {flags}" + ("" if sure is None else f"; confidence {sure:.3f}")
