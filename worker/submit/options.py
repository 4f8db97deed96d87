"""The options of a job beside those of its kind, as pydantic models that declare each option once.

The command line, the tables of pipeline files and their JSON Schema, and `docmill.enqueue` messages derive from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from docmill.storage import templates
from docmill.storage.core.specs import Spec
from docmill.storage.errors import StorageError
from docmill.storage.steps.conditions import RISK, Doubt, Flagged, filter_names, find_filter
from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, suggest
from docmill.tasks.kinds import KindOptions
from docmill.tasks.kinds.options import MOST, Layer, Option, OptionsModel, option, shown, wrong_value
from docmill.tasks.models import weightless
from docmill.tasks.models.families import Family
from docmill.worker.queue.messages import is_id

if TYPE_CHECKING:
    from docmill.storage.steps.steps import EscalationRequest

T = TypeVar("T")

# Options about how a model works. Other options define the task itself, which escalation does not change.
ESCALATION_OPTIONS = frozenset(
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
        """Return the options of the escalation: its own, and for the others the step's.

        Another model has an adapter and a tokenizer of its own, and takes no options of another family of models. A
        served model takes neither a precision nor options that servers lack.
        """
        if self.model is None:
            return first.model_copy(update=dict(self.options))
        fields = type(first).model_fields
        left_out = {name for name in fields if name in _OF_MODEL or option(fields[name]).only not in {None, family}}
        if weightless.is_served(self.model):
            left_out |= {"dtype", *weightless.NOT_SERVED} & fields.keys()
        return first.model_copy(update={name: fields[name].default for name in left_out} | dict(self.options))


DOCUMENT = "document"  # as a step's input: the document itself


@dataclass(frozen=True)
class UnpinnedStep:
    """One task over what ``input`` gives: ``document``, or an earlier step by its name. Its model is not pinned yet.

    ``flagged`` is a condition on the flags and numbers of that output, ``leaves_out`` names documents that it does
    not read. ``escalation`` computes doubted results again. ``model`` is None for the task's own.
    """

    name: str
    task: str
    input: str
    model: str | None
    revision: str | None
    options: KindOptions
    flagged: Flagged | None = None
    escalation: Escalation | None = None
    leaves_out: str | None = None


def validate_with(value: T, parse: Callable[[T], object]) -> T:
    """Return the value if ``parse`` accepts it. Otherwise raise the field's error, with the reason."""
    try:
        parse(value)
    except StorageError as error:
        raise wrong_value(f"is refused: {error}") from error
    return value


def _known_task(value: str) -> str:
    if value not in kinds.NAMES:
        said = f"must be {', '.join(kinds.NAMES[:-1])} or {kinds.NAMES[-1]}, not {shown(value)}"
        meant = suggest(value, kinds.NAMES)
        raise wrong_value(f"{said} ({meant[0].lower()}{meant[1:]})" if meant else said)
    return value


Task = Annotated[str, AfterValidator(_known_task)]
Revision = Annotated[str | None, Field(description="A hub model's branch, tag or commit.  [default: main]")]


class ReadingOptions(OptionsModel):
    """Options of reading a source."""

    text_field: Annotated[
        str, Field(description="Field that holds the text."), Option(metavar="FIELD", layer=Layer.COMMON)
    ] = "text"
    id_field: Annotated[str, Field(description="Field that holds the document's id."), Option(metavar="FIELD")] = "id"
    encoding: Annotated[
        str | None,
        Field(description="Encoding of texts without a byte order mark, such as cp1252.  [default: utf-8]"),
        Option(metavar="NAME"),
    ] = None
    sheet: Annotated[
        str | None,
        Field(min_length=1, description="Sheet of a workbook.  [default: the only visible one with rows]"),
        Option(metavar="NAME"),
    ] = None
    header_row: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST,
            description="Row of a sheet with the names of the columns.  [default: the first that is not empty]",
        ),
        Option(metavar="N"),
    ] = None
    ocr: Annotated[
        str | None,
        Field(
            min_length=1, description="Recognize scanned pages of PDF files in a language, such as eng or deu+eng."
        ),
        Option(metavar="LANGUAGE"),
    ] = None
    limit: Annotated[
        int | None, Field(ge=1, le=MOST, description="Read only the first N records."), Option(layer=Layer.COMMON)
    ] = None
    prune: Annotated[bool, Field(description="Mark documents that the source no longer has as vanished.")] = False
    prune_max: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            description="Stop if --prune would mark more than this share of the source's documents.  [default: 50]",
        ),
        Option(metavar="PERCENT"),
    ] = None
    prune_rejected: Annotated[
        Literal["stop", "keep"] | None,
        Field(
            description="After a rejected record: stop marks nothing; keep leaves the rejected document as it was, "
            "and marks the vanished documents.  [default: stop]"
        ),
    ] = None
    strict: Annotated[bool, Field(description="Stop at the first record that cannot be read.")] = False

    @property
    def remembered(self) -> dict[str, Any]:
        """The options that an ingest remembers."""
        later = self.model_dump(include={"encoding", "sheet", "header_row", "ocr"}, exclude_none=True)
        return self.model_dump(include={"text_field", "id_field", "limit"}) | later


class JobOptions(OptionsModel):
    """Options of a job's work."""

    max_failures: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            description="Stop the job when more than this share of its texts fails; fewer failures are no error. "
            "Rejected records do not count: --strict stops at the first.",
        ),
        Option(metavar="PERCENT"),
    ] = None
    max_flagged: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            description="Stop the job when more than this share of its texts has results with a doubtful flag. "
            "Results of earlier jobs do not count.",
        ),
        Option(metavar="PERCENT"),
    ] = None
    max_cost: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Pause the job at this cost, in the currency of DOCMILL_PRICES. Shards in progress end. "
            "The same command with a higher limit continues.",
        ),
        Option(metavar="COST"),
    ] = None
    priority: Annotated[int, Field(ge=-MOST, le=MOST, description="Higher goes first.")] = 0


def _doubt(value: str | None) -> str | None:
    """Check flags and bounds with commas between them."""
    return value if value is None else validate_with(value, lambda written: Doubt.parse(written.split(",")))


class EscalationOptions(OptionsModel):
    """Options for computing doubtful results again."""

    escalate: Annotated[
        str | None,
        Field(description="Compute doubtful results again with this model, and keep the better of the two."),
        Option(metavar="MODEL"),
    ] = None
    escalate_beams: Annotated[
        int | None,
        Field(ge=1, le=MOST, description="Beams for doubtful results; by the same model without --escalate."),
        Option(metavar="N"),
    ] = None
    when: Annotated[
        str | None,
        AfterValidator(_doubt),
        Field(
            description="The results that --escalate computes again, such as repetition,confidence<0.4,failed.  "
            "[default: those with a doubtful flag]"
        ),
        Option(metavar="CONDITION,…"),
    ] = None

    @property
    def escalation(self) -> Escalation | None:
        """The escalation that is asked for. Raises BadOption for --when without one."""
        if self.escalate is None and self.escalate_beams is None:
            if self.when is not None:
                raise BadOption("--when is for --escalate: give --escalate MODEL, or --escalate-beams N.")
            return None
        options = {} if self.escalate_beams is None else {"beams": self.escalate_beams}
        doubt = Doubt() if self.when is None else Doubt.parse(self.when.split(","))
        return Escalation(self.escalate, None, options, doubt)


def _filter(value: str | None) -> str | None:
    """Check the name of a filter of documents."""
    return value if value is None else validate_with(value, find_filter)


LeaveOut = Annotated[
    str | None,
    AfterValidator(_filter),
    Field(description=f"Leave out documents: {', '.join(filter_names()) or 'no feature has such a kind'}."),
    Option(metavar="KIND"),
]


class Work(ReadingOptions, JobOptions, EscalationOptions):
    """A source, its task and all options except the kind's. Fields are named as the command's options."""

    source: Annotated[str, Option(may_be_empty=True)]  # its reader refuses an empty name
    task: Task
    model: Annotated[
        str | None,
        Field(description="A name from `docmill models list`, a folder, or a hub id."),
        Option(metavar="MODEL", layer=Layer.COMMON),
    ] = None
    revision: Revision = None
    corpus: Annotated[
        str | None,
        Field(description="Corpus that the documents belong to.  [default: the source's path]"),
        Option(metavar="NAME"),
    ] = None
    leave_out: LeaveOut = None


def _shown_as_it_is(value: str | None) -> str | None:
    if value is not None and not is_id(value):
        raise wrong_value("must be at most 255 printable characters, and not empty")
    return value


class Request(Work):
    """A source, its task and all options, those for other programs among them, which may repeat a command."""

    options: KindOptions = KindOptions()
    idempotency_key: Annotated[
        str | None,
        AfterValidator(_shown_as_it_is),
        Field(
            description="The same key returns the same job, even if it has ended. Other options are refused. "
            "Give the id of a scheduler's run."
        ),
        Option(metavar="KEY"),
    ] = None
    request_id: Annotated[
        str | None,
        AfterValidator(_shown_as_it_is),
        Field(
            description="Id in each line of the JSON log about the job.  [default: the trace's id, or a random one]"
        ),
        Option(metavar="ID"),
    ] = None


def request_escalation(first: Spec, second: Spec, doubt: Doubt) -> EscalationRequest:
    """Return the escalation of a spec to another. Raises BadOption if the two do not go together."""
    from docmill.storage.steps.steps import EscalationRequest  # which brings SQLAlchemy along

    output = kinds.kind(first.kind).output
    if not output.is_comparable:
        raise BadOption(
            f"--escalate has no meaning for {first.kind}: {output.plural} of two models are not comparable."
        )
    # A folder and a name may be the same weights. Models of servers have one revision, and differ by their names.
    if first == (second if weightless.is_served(second.model) else replace(second, model=first.model)):
        raise BadOption(
            "--escalate: the same model with the same options gives the same results; name another model, or give "
            "another number of beams."
        )
    if templates.over_metadata(first.params) != templates.over_metadata(second.params):
        raise BadOption(
            "--escalate: with {meta.FIELD} or questions in it, a prompt must be the same for both models."
        )
    if [column.name for column in output.columns(first.params)] != [
        column.name for column in output.columns(second.params)
    ]:
        raise BadOption(f"--escalate: the outputs of {second.model} have other fields than those of {first.model}.")
    for bound in doubt.bounds:
        if bound.number != RISK and bound.number not in output.confidence:
            known = ", ".join(output.confidence)
            raise BadOption(f"--when: {output.plural} have no {bound.number}, only {known}.")
    return EscalationRequest(second, doubt)
