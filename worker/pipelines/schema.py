"""The tables of a pipeline file as pydantic models, from which its checks and its JSON Schema derive."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from docmill.storage import writers
from docmill.storage.json_values import Json
from docmill.storage.steps.conditions import Doubt, Flagged
from docmill.tasks import kinds
from docmill.tasks.kinds.options import MOST, Option, OptionsModel, sentence, shown, wrong_value
from docmill.worker.pipelines import schedule
from docmill.worker.submit.options import (
    DOCUMENT,
    ESCALATION_OPTIONS,
    Escalation,
    JobOptions,
    LeaveOut,
    ReadingOptions,
    Revision,
    Task,
    validate_with,
)


def _check(problem: Callable[[str], str | None]) -> AfterValidator:
    """Return a validator that refuses a text with a problem, which is the end of a sentence about it."""

    def check(value: str | None) -> str | None:
        if value is not None and (sentence := problem(value)) is not None:
            raise wrong_value(sentence)
        return value

    return AfterValidator(check)


def _form(expression: str, about: str) -> AfterValidator:
    """Return a validator of texts of a form, which ``about`` describes."""
    form = re.compile(expression, re.ASCII)
    return _check(lambda value: None if form.fullmatch(value) else f"must be {about}; {shown(value)} is not")


def _not(refused: str, sentence: str) -> AfterValidator:
    return _check(lambda value: sentence if value == refused else None)


def _model(value: object) -> object:
    """Check a model, or the models by language."""
    if not isinstance(value, dict):
        if not isinstance(value, str):
            raise wrong_value(f"must be a text in quotes, not {shown(value)}")
        return value
    if any(not language.strip() for language in value):
        raise wrong_value('names no language; write { fr = "MODEL", de = "MODEL" }')
    for language, name in value.items():
        if not isinstance(name, str):
            raise wrong_value(f"{language} must be a text in quotes, not {shown(name)}")
        if not name.strip():
            raise wrong_value(f"{language} is empty; fill it in or leave it out")
    if not value:
        raise wrong_value('names no model; write { fr = "MODEL", de = "MODEL" }')
    return value


def _flags(value: object) -> object:
    """Check a condition on results, which is `true` or a list of flags and bounds."""
    if value is True:
        return value
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        what = "an empty list" if value == [] else shown(value)
        raise wrong_value(f'must be true, or a list such as ["empty", "confidence<0.4"], not {what}')
    return validate_with(value, Flagged.parse)


Flags = Annotated[Literal[True] | list[str] | None, BeforeValidator(_flags)]


class PipelineTable(OptionsModel):
    """A table of a pipeline file. A value of None stands for a key that is left out."""

    model_config = ConfigDict(alias_generator=kinds.spelling)


class CorpusPlace(PipelineTable):
    """The place of a corpus and its name."""

    source: Annotated[
        str,
        _not("-", "cannot be standard input, which is there only once; name a file, a folder or a URL"),
        Field(description="A file, a folder or a URL; a relative path starts at this file's folder."),
    ]
    name: Annotated[str | None, Field(description="Corpus that the documents belong to.")] = None


class CorpusTable(ReadingOptions, CorpusPlace):
    """The source of a corpus, and how it is read."""


class StepTable(PipelineTable):
    leave_out: LeaveOut = None
    name: Annotated[
        str,
        _not(DOCUMENT, "cannot be document, which means the document itself"),
        *(_not(column, f"cannot be {column}, which is a column of results") for column in ("id", "flags", "meta")),
        _form("[A-Za-z][A-Za-z0-9_]*", "a letter, then letters, digits and _"),
        Field(description="The step's name.", json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_]*$"}),
    ]
    task: Annotated[Task, Field(description="What to do with every document.")]
    input: Annotated[str | None, Field(description="document, or the name of an earlier step.")] = None
    flagged: Annotated[
        Flags,
        Field(description="Read only outputs with a doubtful flag (true), or with one of these flags or bounds."),
    ] = None
    unflagged: Annotated[
        Flags,
        Field(description="Read only outputs without any doubtful flag (true), or without these flags and bounds."),
    ] = None
    model: Annotated[
        str | dict[str, str] | None,
        BeforeValidator(_model),
        Field(description="A model's name, folder or hub id; or a model for each language."),
    ] = None
    revision: Revision = None


def _when(value: object) -> object:
    """Check a doubt: flags and bounds of numbers, in a list or with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise wrong_value(f'must be a list such as ["repetition", "confidence<0.4"], not {shown(value)}')
    return validate_with(parts, Doubt.parse)


class EscalationTable(PipelineTable):
    """The model and the options that compute the doubtful results of a step again."""

    model: Annotated[str | None, Field(description="The better model.  [default: the step's model]")] = None
    revision: Revision = None
    when: Annotated[
        list[str] | str | None,
        BeforeValidator(_when),
        Field(
            description="The results to compute again: flags, failed, and bounds such as confidence<0.4 or risk>0.3."
        ),
    ] = None

    @property
    def escalation(self) -> Escalation:
        """The escalation that the table asks for."""
        options = self.model_dump(include={*ESCALATION_OPTIONS}, exclude_none=True)
        doubt = Doubt() if self.when is None else Doubt.parse(self.when)
        return Escalation(self.model, self.revision, options, doubt)


class JobTable(JobOptions, PipelineTable):
    """The rank of the work, and the failures that it may have."""


class ScheduleTable(PipelineTable):
    """A cron expression of five fields, read in a time zone (an IANA name)."""

    cron: Annotated[
        str,
        _check(schedule.cron_problem),
        Field(description="Minute, hour, day of the month, month, day of the week."),
    ]
    timezone: Annotated[str, _check(schedule.timezone_problem), Field(description="A name such as Europe/Paris.")] = (
        "UTC"
    )
    overlap: Annotated[
        Literal["skip", "queue"], Field(description="What happens when a run is due and the one before still runs.")
    ] = "skip"


class OutputTable(PipelineTable):
    part_documents: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST,
            description="Write parts of N documents each into a folder; the same command again continues.",
        ),
        Option(metavar="N"),
    ] = None
    file: Annotated[
        str | None,
        _not("-", "cannot be standard output; name a file"),
        Field(description="File or folder for the results; a relative path starts at this file's folder."),
    ] = None
    format: Annotated[
        Literal[writers.names(any_output=True)] | None,  # type: ignore[valid-type]
        Field(description="If the file's name does not say it."),
    ] = None
    view: Annotated[bool, Field(description="Make an SQL view of the results.")] = True


class Top(PipelineTable):
    """The keys above the first table."""

    name: Annotated[
        str,
        _form("[A-Za-z][A-Za-z0-9_-]{0,39}", "a letter, then letters, digits, _ and -, at most 40 characters in all"),
        Field(description="The pipeline's name.", json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_-]{0,39}$"}),
    ]


TABLES: dict[str, type[PipelineTable]] = {
    "corpus": CorpusTable,
    "job": JobTable,
    "schedule": ScheduleTable,
    "output": OutputTable,
}


@cache
def step_table(task: object) -> type[StepTable]:
    """Return the table of a step with the options of its task; those of all tasks, if there is no such task."""
    if task not in kinds.NAMES:
        return _step("AnyStep", kinds.any_options())
    kind = kinds.kind(str(task))
    described = Annotated[Literal[kind.name], Field(description=kind.summary)]  # type: ignore[name-defined]
    return _step(f"{kind.name}_step", kind.options, task=(described, ...))


def _step(name: str, options: type[kinds.KindOptions], **fields: Any) -> type[StepTable]:
    bases: Any = (StepTable, options)
    made: type[StepTable] = create_model(name, __base__=bases, escalate=_escalate(name, options), **fields)
    return made


def _escalate(step: str, options: type[kinds.KindOptions]) -> Any:
    """Return the field of a step with the name of a model, or a table with options of the step's kind."""
    chosen: Any = {
        name: (field.annotation, field) for name, field in options.model_fields.items() if name in ESCALATION_OPTIONS
    }
    if "dtype" in chosen:  # whose default is no choice here
        chosen["dtype"] = (chosen["dtype"][0] | None, FieldInfo.merge_field_infos(chosen["dtype"][1], default=None))
    table: type[EscalationTable] = create_model(f"{step}_escalation", __base__=EscalationTable, **chosen)

    def check(value: object) -> object:
        if isinstance(value, str):
            value = {"model": value}
        if not isinstance(value, dict):
            raise wrong_value(f'must be a model\'s name or a table such as {{ model = "MODEL" }}, not {shown(value)}')
        if not value.keys() - {"when"}:
            raise wrong_value('names no model and no option; write for example { model = "MODEL" }')
        try:
            return table.model_validate(value)
        except ValidationError as error:
            raise wrong_value(_problem(error, table)) from error

    about = Field(description="Compute doubtful results again, with this model or these options.")
    return Annotated[str | table | None, BeforeValidator(check), about], None


def _problem(error: ValidationError, table: type[PipelineTable]) -> str:
    """Return the first problem of a table inside another as the end of a sentence about the table."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    fields = {field.alias or name: field for name, field in table.model_fields.items()}
    if first["type"] == "extra_forbidden":
        return f"has no {name}; there are {', '.join(fields)}"
    return f"is wrong: {name} {sentence(first, fields[name])}"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of pipeline files."""
    step: Any = Union[tuple(step_table(name) for name in kinds.NAMES)]  # noqa: UP007 - of so many as there are
    steps = list[Annotated[step, Field(discriminator="task")]]
    file: type[PipelineTable] = create_model(
        "pipeline",
        __base__=Top,
        corpus=(CorpusTable, Field(description="The documents that are read.")),
        step=(steps, Field(min_length=1, description="The steps, in the order in which they are taken.")),
        job=(JobTable | None, Field(None, description="How the work is ranked.")),
        schedule=(ScheduleTable | None, Field(None, description="When the pipeline runs.")),
        output=(OutputTable | None, Field(None, description="Where results go.")),
    )
    schema = _plain_table(file.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A pipeline of docmill"}


def _plain(node: Json) -> Json:
    if isinstance(node, list):
        return [_plain(part) for part in node]
    return _plain_table(node) if isinstance(node, dict) else node


def _plain_table(node: dict[str, Json]) -> dict[str, Json]:
    """Return a schema without nulls, which TOML does not have, and without titles, which repeat the keys.

    In descriptions, which are the command line's help, options lose their dashes.
    """
    kept = {name: _plain(value) for name, value in node.items() if not (name == "title" and isinstance(value, str))}
    if isinstance(about := kept.get("description"), str):
        kept["description"] = re.sub("--(?=[a-z])", "", about).replace("  [", " [")
    if kept.get("default", ...) is None:
        del kept["default"]
    choices = kept.get("anyOf")
    if isinstance(choices, list) and (alternatives := [choice for choice in choices if choice != {"type": "null"}]):
        del kept["anyOf"]
        only = alternatives[0] if len(alternatives) == 1 else None
        kept |= only if isinstance(only, dict) else {"anyOf": alternatives}
    return kept
