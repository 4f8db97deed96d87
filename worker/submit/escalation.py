"""Requests for escalation: another model, or the same one with other options, computes doubted results again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from docmill.storage.core.doubts import Doubt
from docmill.storage.core.number_bounds import RISK
from docmill.storage.core.specs import Spec
from docmill.storage.steps import templates
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds import KindOptions
from docmill.tasks.kinds.options import option
from docmill.tasks.models import served
from docmill.tasks.models.families import Family

if TYPE_CHECKING:
    from docmill.storage.steps.steps import EscalationRequest

# Options about how a model works. Other options define the task itself, which escalation does not change.
OPTIONS = frozenset(
    {
        *("dtype", "adapter", "tokenizer", "window_tokens", "unit", "prefix", "prompt", "system"),
        *("beams", "length_penalty", "early_stopping", "max_new_tokens", "min_new_tokens", "no_repeat_ngram_size"),
        *("temperature", "top_p", "min_p", "seed", "repetition_penalty", "stop"),
    }
)


_OF_MODEL = frozenset({"adapter", "tokenizer"})


@dataclass(frozen=True)
class Escalation:
    """A model, and options by their fields, for results in `doubt`. Without a model the step's own computes."""

    model: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    doubt: Doubt = field(default_factory=Doubt)

    def to_json(self) -> dict[str, Any]:
        """Return the escalation as JSON values."""
        return {**vars(self), "options": dict(self.options), "doubt": self.doubt.to_json()}

    def options_from(self, first: KindOptions, family: Family | None) -> KindOptions:
        """Return the options of the escalation: its own, and else those of the step.

        Another model has an adapter and a tokenizer of its own, and takes no options of another family of models.
        """
        left_out = {
            name: None
            for name, field in type(first).model_fields.items()
            if self.model is not None and (name in _OF_MODEL or option(field).only not in {None, family})
        }
        return first.replaced(**left_out | dict(self.options))


def request(first: Spec, second: Spec, doubt: Doubt) -> EscalationRequest:
    """Return the escalation of a spec to another. Raises BadOption if the two do not go together."""
    from docmill.storage.steps.steps import EscalationRequest  # which brings SQLAlchemy along

    output = kinds.kind(first.kind).output
    if not output.is_comparable:
        raise BadOption(
            f"--escalate has no meaning for {first.kind}: {output.plural} of two models are not comparable."
        )
    # A folder and a name may be the same weights. Models of servers have one revision, and differ by their names.
    if first == (second if served.is_served(second.model) else replace(second, model=first.model)):
        raise BadOption(
            "--escalate: the same model with the same options gives the same results; name another model, or give "
            "another number of beams."
        )
    if templates.over_metadata(first.params) != templates.over_metadata(second.params):
        raise BadOption(
            "--escalate: with {meta.FIELD} or questions in it, a prompt must be the same for both models."
        )
    if [one.name for one in output.columns(first.params)] != [one.name for one in output.columns(second.params)]:
        raise BadOption(f"--escalate: the outputs of {second.model} have other fields than those of {first.model}.")
    for bound in doubt.bounds:
        if bound.number != RISK and bound.number not in output.confidence:
            known = ", ".join(output.confidence)
            raise BadOption(f"--when: {output.plural} have no {bound.number}, only {known}.")
    return EscalationRequest(second, doubt)
