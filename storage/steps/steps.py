"""The steps of a job, each with a spec and an input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from sqlalchemy import bindparam, insert, select

from docmill.storage import templates
from docmill.storage.core import lookups
from docmill.storage.core.schema import AnyRow, SpecRow, Step
from docmill.storage.core.specs import Spec
from docmill.storage.core.transaction import Transaction
from docmill.storage.errors import NotFound
from docmill.storage.steps.conditions import Doubt, Flagged
from docmill.storage.templates import Messages, Questions, Template


@dataclass(frozen=True)
class EscalationRequest:
    """A spec that computes the results of a step again that are in `doubt`."""

    spec: Spec
    doubt: Doubt = field(default_factory=Doubt)


@dataclass(frozen=True)
class StepRequest:
    """A spec under a name; `input` is the name of an earlier step, whose output it reads, or None: the documents.

    `flagged` is a condition on the flags of that output: an output that does not meet it is not read. `escalation`
    computes doubted results again. `leaves_out` names the documents that it does
    not read (`storage.steps.conditions`); such a step has the documents as input.
    """

    name: str
    spec: Spec
    input: str | None = None
    flagged: Flagged | None = None
    escalation: EscalationRequest | None = None
    leaves_out: str | None = None

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The specs that compute it."""
        return (self.spec,) if self.escalation is None else (self.spec, self.escalation.spec)


@dataclass(frozen=True)
class OpenStep:
    """A step of a job. `input_step` is the number of the step whose output it reads; None reads the documents.

    A `template` renders the step's input and the document's metadata into the text to compute (see
    `storage.steps.lineage`). `flagged` is a condition on the flags of the input.
    `leaves_out` names the filter of the documents. `price` is the price of a million tokens read, and of a million
    written.

    If the `escalation` has a better result, it replaces the step's own. An escalation is a step with its own number.
    It computes contents again if their results in the step `escalates` are in `doubt`. It has the same lane as that
    step, and puts the same prompt around a document.
    """

    seq: int
    name: str
    spec_id: int
    spec: Spec = field(hash=False)
    input_step: int | None
    template: Template | Questions | Messages | None = None
    flagged: Flagged | None = None
    escalation: OpenStep | None = None
    escalates: int | None = None
    doubt: Doubt = field(default_factory=Doubt)
    leaves_out: str | None = None
    price: Sequence[float] | None = field(default=None, hash=False)

    @property
    def lane(self) -> str:
        """The lane of its shards: the kind of its task."""
        return self.spec.kind

    @property
    def params(self) -> Mapping[str, Any]:
        return self.spec.params

    @property
    def meets_texts(self) -> bool:
        """True if the texts that it met are noted (`StepText`); else these are the texts of all documents."""
        conditions = (self.input_step, self.template, self.escalates, self.leaves_out)
        return any(condition is not None for condition in conditions)

    def reads_as_it_is(self, step: OpenStep) -> bool:
        """Return True if this step reads the outputs of `step` as they are: without a prompt or an escalation."""
        conditions = (self.template, step.escalation, step.escalates)
        return self.input_step == step.seq and all(condition is None for condition in conditions)

    @property
    def spec_ids(self) -> tuple[int, ...]:
        """The specs that compute it: its own, and that of its escalation."""
        return (self.spec_id,) if self.escalation is None else (self.spec_id, self.escalation.spec_id)


@dataclass(frozen=True)
class Failures:
    """The texts on which a step failed: `rescued` and `waiting` by and for its escalation, and `final` ones."""

    final: int
    rescued: int = 0
    waiting: int = 0

    @classmethod
    def of(cls, failed: int, rescued: int, pending: int) -> Failures:
        """Return the failures of a step whose escalation computes them; it has `pending` texts to do.

        Until these are done, as many failures as may be among them count as waiting.
        """
        rescued = max(0, min(rescued, failed))
        waiting = min(pending, failed - rescued)
        return cls(failed - rescued - waiting, rescued, waiting)


_STEPS = (
    select(
        Step.seq,
        Step.name,
        Step.spec_id,
        *lookups.SPEC,
        Step.input_step,
        Step.flagged,
        Step.escalates,
        Step.doubted,
        Step.leaves_out,
        Step.price,
    )
    .join(SpecRow, SpecRow.id == Step.spec_id)
    .where(Step.job_id == bindparam("job"))
    .order_by(Step.seq)
)


def _open(row: AnyRow) -> OpenStep:
    spec = lookups.spec_of(row)
    return OpenStep(
        seq=row.seq,
        name=row.name,
        spec_id=row.spec_id,
        spec=spec,
        input_step=row.input_step,
        template=None if row.escalates is not None else templates.over_metadata(spec.params),
        flagged=Flagged.stored(row.flagged),
        escalates=row.escalates,
        doubt=Doubt() if row.doubted is None else Doubt.stored(row.doubted),
        leaves_out=row.leaves_out,
        price=row.price,
    )


def open_steps(transaction: Transaction, requests: Sequence[StepRequest]) -> tuple[OpenStep, ...]:
    """Return requested steps as the steps of a job would be. New specs are stored."""
    numbers = {request.name: seq for seq, request in enumerate(requests)}
    further = count(len(requests))
    made = []
    for seq, request in enumerate(requests):
        step = OpenStep(
            seq=seq,
            name=request.name,
            spec_id=lookups.spec_id(transaction, request.spec),
            spec=request.spec,
            input_step=None if request.input is None else numbers[request.input],
            template=templates.over_metadata(request.spec.params),
            flagged=request.flagged,
            leaves_out=request.leaves_out,
        )
        if (requested := request.escalation) is not None:
            escalation = replace(
                step,
                seq=next(further),
                name=escalation_name(request.name),
                spec_id=lookups.spec_id(transaction, requested.spec),
                template=None,
                spec=requested.spec,
                flagged=None,
                escalates=seq,
                doubt=requested.doubt,
                leaves_out=None,
            )
            step = replace(step, escalation=escalation)
        made.append(step)
    return tuple(made)


def escalation_name(step: str) -> str:
    """Return the name of the escalation of a step, which no step has: names have no colon."""
    return f"{step}:escalated"


def read_steps(transaction: Transaction, job_id: int) -> tuple[OpenStep, ...]:
    """Return a job's steps in their order, each with its escalation."""
    opened = [_open(row) for row in transaction.execute(_STEPS, {"job": job_id})]
    escalations = {step.escalates: step for step in opened}
    return tuple(replace(step, escalation=escalations.get(step.seq)) for step in opened if step.escalates is None)


def with_escalations(steps: Iterable[OpenStep]) -> Iterator[OpenStep]:
    """Yield the steps and their escalations: all that have shards."""
    for step in steps:
        yield step
        if step.escalation is not None:
            yield step.escalation


def find_computed(steps: Sequence[OpenStep], seq: int) -> OpenStep:
    """Return the step whose result the shards with this number compute."""
    return next(
        step for step in steps if any(computing_step.seq == seq for computing_step in with_escalations([step]))
    )


def read_requests(transaction: Transaction, job_id: int) -> tuple[StepRequest, ...]:
    """Return a job's steps as they were requested."""
    opened = read_steps(transaction, job_id)
    return tuple(
        StepRequest(
            step.name,
            step.spec,
            None if step.input_step is None else opened[step.input_step].name,
            step.flagged,
            None if step.escalation is None else EscalationRequest(step.escalation.spec, step.escalation.doubt),
            step.leaves_out,
        )
        for step in opened
    )


def find_way(steps: Sequence[OpenStep], step: OpenStep) -> list[OpenStep]:
    """Return the steps that lead from the documents to a step, which is the last of them."""
    way = [step]
    while way[0].input_step is not None:
        way.insert(0, steps[way[0].input_step])
    return way


def find_named_way(steps: Sequence[OpenStep], name: str | None) -> list[OpenStep]:
    """Return the way to the step of this name, or without a name to the only step. Raises NotFound."""
    step = next((step for step in steps if name in {step.name, None}), None)
    if step is None:
        raise NotFound(f"there is no step {name}; the job has {', '.join(step.name for step in steps)}")
    return find_way(steps, step)


def add(transaction: Transaction, job_id: int, requests: Sequence[StepRequest]) -> tuple[OpenStep, ...]:
    """Give a new job its steps. Each reads the documents or an earlier one."""
    assert len({request.name for request in requests}) == len(requests), "steps have names of their own"
    for request in requests:
        _check_escalation(transaction, request)
    made = open_steps(transaction, requests)
    for step in made:
        assert step.flagged is None or step.input_step is not None, "documents have no outputs with flags"
        assert step.leaves_out is None or step.input_step is None, "documents are left out, not outputs"
        if step.input_step is not None:
            assert step.input_step < step.seq, "a step reads an earlier one"
            output = transaction.kind_of(made[step.input_step].lane).output
            assert output.feeds_steps, f"no step can read {output.plural}"
    for step in sorted(with_escalations(made), key=lambda step: step.seq):
        transaction.execute(insert(Step).values(**_row(job_id, step)))
    return made


def _check_escalation(transaction: Transaction, request: StepRequest) -> None:
    if (escalation := request.escalation) is None:
        return
    output = transaction.kind_of(request.spec.kind).output
    assert escalation.spec.kind == request.spec.kind, "an escalation does the same task"
    assert output.is_comparable, f"{output.plural} of two models do not go together"
    assert compute_same_prompts(request.spec, escalation.spec), "an escalation computes the same prompts"


def compute_same_prompts(first: Spec, second: Spec) -> bool:
    """Return True if the prompts of two specs use a document's metadata in the same way, or not at all."""
    return templates.over_metadata(first.params) == templates.over_metadata(second.params)


def _row(job_id: int, step: OpenStep) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "seq": step.seq,
        "name": step.name,
        "spec_id": step.spec_id,
        "input_step": step.input_step,
        "flagged": None if step.flagged is None else step.flagged.to_json(),
        "escalates": step.escalates,
        "doubted": None if step.escalates is None else step.doubt.to_json(),
        "leaves_out": step.leaves_out,
    }
