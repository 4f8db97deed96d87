"""The steps of a job, each with a spec and an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select

from storage.core import get_or_create
from storage.core.flags import Flagged
from storage.core.schema import SpecRow, Step
from storage.core.specs import Spec
from storage.core.transaction import Transaction
from storage.errors import NoSuchStep
from storage.steps import templates
from storage.steps.templates import Messages, Questions, Template


@dataclass(frozen=True)
class StepRequest:
    """A spec under a name; `input` is the name of an earlier step, whose output it reads, or None: the documents.

    `flagged` is a condition on the flags of that output: an output that does not meet it is not read.
    """

    name: str
    spec: Spec
    input: str | None = None
    flagged: Flagged | None = None


@dataclass(frozen=True)
class OpenStep:
    """A step of a job. `input_step` is the number of the step whose output it reads; None reads the documents.

    With a `template` what it computes of a document is what that renders of the text that it reads and the
    document's metadata (see `storage.steps.prompts`). `params` are the spec's. `flagged` is a condition on the flags
    of the output that it reads.
    """

    seq: int
    name: str
    spec_id: int
    lane: str
    input_step: int | None
    template: Template | Questions | Messages | None = None
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    flagged: Flagged | None = None


_STEPS = select(Step.seq, Step.name, Step.spec_id, SpecRow.kind, Step.input_step, SpecRow.params, Step.flagged).join(
    SpecRow, SpecRow.id == Step.spec_id
)


def _open(row: Any) -> OpenStep:
    params = row.params or {}
    template = templates.over_metadata(params)
    flagged = Flagged.stored(row.flagged)
    return OpenStep(row.seq, row.name, row.spec_id, row.kind, row.input_step, template, params, flagged)


def opened(requests: Sequence[StepRequest], spec_ids: Sequence[int]) -> tuple[OpenStep, ...]:
    """Return steps that were asked for as those of a job with these specs would be."""
    numbers = {request.name: seq for seq, request in enumerate(requests)}
    return tuple(
        OpenStep(
            seq=seq,
            name=request.name,
            spec_id=spec_id,
            lane=request.spec.kind,
            input_step=None if request.input is None else numbers[request.input],
            template=templates.over_metadata(request.spec.params),
            params=request.spec.params,
            flagged=request.flagged,
        )
        for seq, (request, spec_id) in enumerate(zip(requests, spec_ids, strict=True))
    )


def of_job(transaction: Transaction, job_id: int) -> tuple[OpenStep, ...]:
    """A job's steps in their order."""
    found = transaction.execute(_STEPS.where(Step.job_id == job_id).order_by(Step.seq))
    return tuple(map(_open, found))


def reading(transaction: Transaction, job_id: int, seq: int) -> tuple[OpenStep, ...]:
    """The steps of a job that read the output of one."""
    found = transaction.execute(_STEPS.where(Step.job_id == job_id, Step.input_step == seq).order_by(Step.seq))
    return tuple(map(_open, found))


def requested(transaction: Transaction, job_id: int) -> tuple[StepRequest, ...]:
    """A job's steps as they were asked for."""
    query = select(Step.name, Step.input_step, Step.flagged, *get_or_create.SPEC).join(
        SpecRow, SpecRow.id == Step.spec_id
    )
    found = transaction.execute(query.where(Step.job_id == job_id).order_by(Step.seq)).all()
    return tuple(
        StepRequest(
            row.name,
            get_or_create.spec_of(row),
            None if row.input_step is None else found[row.input_step].name,
            Flagged.stored(row.flagged),
        )
        for row in found
    )


def way_to(steps: Sequence[OpenStep], step: OpenStep) -> list[OpenStep]:
    """The steps that lead from the documents to a step, which is the last of them."""
    way = [step]
    while way[0].input_step is not None:
        way.insert(0, steps[way[0].input_step])
    return way


def way_to_named(steps: Sequence[OpenStep], name: str | None) -> list[OpenStep]:
    """The way to a job's step by its name, or without one to the only step. Raises NoSuchStep."""
    step = next((step for step in steps if name in {step.name, None}), None)
    if step is None:
        raise NoSuchStep(f"there is no step {name}; the job has {', '.join(step.name for step in steps)}")
    return way_to(steps, step)


def add(transaction: Transaction, job_id: int, requests: Sequence[StepRequest]) -> tuple[OpenStep, ...]:
    """Give a new job its steps. Each reads the documents or an earlier one."""
    numbers = {request.name: seq for seq, request in enumerate(requests)}
    assert len(numbers) == len(requests), "steps have names of their own"
    for seq, request in enumerate(requests):
        input_step = None if request.input is None else numbers[request.input]
        assert request.flagged is None or input_step is not None, "documents have no outputs with flags"
        if input_step is not None:
            assert input_step < seq, "a step reads an earlier one"
            output = transaction.kind_of(requests[input_step].spec.kind).output
            assert output.feeds_steps, f"no step can read {output.plural}"
        values = {
            "job_id": job_id,
            "seq": seq,
            "name": request.name,
            "spec_id": get_or_create.spec_id(transaction, request.spec),
            "input_step": input_step,
            "flagged": None if request.flagged is None else request.flagged.to_json(),
        }
        transaction.execute(insert(Step).values(**values))
    return of_job(transaction, job_id)
