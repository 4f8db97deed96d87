"""The tables of a pipeline file as pydantic models, from which its checks and its JSON Schema derive."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from storage import writers
from tasks import kinds
from tasks.kinds.options import MOST, key
from tasks.kinds.validation import shown
from worker.pipelines import schedule

DOCUMENT = "document"  # as a step's input: the document itself


def _key(name: str) -> str:
    """Return the key of a field: an option's name on the command line, else the field's with hyphens."""
    return key(name, kinds.OPTIONS[name]) if name in kinds.OPTIONS else name.replace("_", "-")


def _wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("value", "{sentence}", {"sentence": sentence})


def _form(expression: str, about: str) -> Callable[[str], str]:
    """Return a check for texts of a form, which ``about`` describes."""
    form = re.compile(expression, re.ASCII)

    def check(value: str) -> str:
        if form.fullmatch(value) is None:
            raise _wrong(f"must be {about}; {shown(value)} is not")
        return value

    return check


def _refused(refused: str, sentence: str) -> Callable[[str], str]:
    """Return a check that refuses one text."""

    def check(value: str) -> str:
        if value == refused:
            raise _wrong(sentence)
        return value

    return check


def _without(problem: Callable[[str], str | None]) -> Callable[[str], str]:
    """Return a check that refuses a text with a problem."""

    def check(value: str) -> str:
        if (sentence := problem(value)) is not None:
            raise _wrong(sentence)
        return value

    return check


def _known_task(value: str) -> str:
    if value not in kinds.NAMES:
        raise _wrong(f"must be {', '.join(kinds.NAMES[:-1])} or {kinds.NAMES[-1]}, not {shown(value)}")
    return value


def _model(value: Any) -> Any:
    """Check a model, or the models by language."""
    if not isinstance(value, dict):
        if not isinstance(value, str):
            raise _wrong(f"must be a text in quotes, not {shown(value)}")
        return value
    for language, name in value.items():
        if not isinstance(name, str):
            raise _wrong(f"{language} must be a text in quotes, not {shown(name)}")
        if not name.strip():
            raise _wrong(f"{language} is empty; fill it in or leave it out")
    if not value:
        raise _wrong('names no model; write { fr = "MODEL", de = "MODEL" }')
    return value


class Table(BaseModel):
    """A table of a pipeline file. A value of None stands for a key that is left out."""

    model_config = ConfigDict(strict=True, extra="forbid", alias_generator=_key)


class CorpusTable(Table):
    source: Annotated[
        str,
        AfterValidator(
            _refused("-", "cannot be standard input, which is there only once; name a file, a folder or a URL")
        ),
        Field(description="A file, a folder or a URL; a relative path starts at this file's folder."),
    ]
    name: Annotated[str | None, Field(description="Corpus that the documents belong to.")] = None
    text_field: Annotated[str, Field(description="Field that holds the text.")] = "text"
    id_field: Annotated[str, Field(description="Field that holds the document's id.")] = "id"
    encoding: Annotated[str | None, Field(description="Encoding of texts without a byte order mark.")] = None
    limit: Annotated[int | None, Field(ge=1, le=MOST, description="Only the first so many records.")] = None
    prune: Annotated[bool, Field(description="Mark documents as vanished that the source no longer has.")] = False
    prune_max: Annotated[
        float | None, Field(ge=0, le=100, description="Stop a reading that would mark more of the documents, in %.")
    ] = None
    prune_rejected: Annotated[
        Literal["stop", "keep"] | None,
        Field(description="After a rejected record mark nothing, or keep the old version of what was rejected."),
    ] = None
    strict: Annotated[bool, Field(description="Stop at the first record that cannot be read.")] = False


class StepTable(Table):
    name: Annotated[
        str,
        AfterValidator(_refused(DOCUMENT, "cannot be document, which means the document itself")),
        AfterValidator(_form("[A-Za-z][A-Za-z0-9_]*", "a letter, then letters, digits and _")),
        Field(description="The step's name.", json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_]*$"}),
    ]
    task: Annotated[str, AfterValidator(_known_task), Field(description="What to do with every document.")]
    input: Annotated[str | None, Field(description="document, or the name of an earlier step.")] = None
    model: Annotated[
        str | dict[str, str] | None,
        BeforeValidator(_model),
        Field(description="A model's name, folder or hub id; or a model for each language."),
    ] = None
    revision: Annotated[str | None, Field(description="A hub model's branch, tag or commit.")] = None


class JobTable(Table):
    priority: Annotated[int, Field(ge=-MOST, le=MOST, description="Higher goes first.")] = 0
    max_failures: Annotated[
        float | None, Field(ge=0, le=100, description="Stop when more of the texts fail, in %.")
    ] = None


class ScheduleTable(Table):
    cron: Annotated[
        str,
        AfterValidator(_without(schedule.cron_problem)),
        Field(description="Minute, hour, day of the month, month, day of the week."),
    ]
    timezone: Annotated[
        str, AfterValidator(_without(schedule.timezone_problem)), Field(description="A name such as Europe/Paris.")
    ] = "UTC"
    overlap: Annotated[
        Literal["skip", "queue"], Field(description="What happens when a run is due and the one before still runs.")
    ] = "skip"


class OutputTable(Table):
    file: Annotated[
        str | None,
        AfterValidator(lambda value: value and _refused("-", "cannot be standard output; name a file")(value)),
        Field(description="File or folder for the results; a relative path starts at this file's folder."),
    ] = None
    format: Annotated[
        Literal[writers.names_for_any_output()] | None,  # type: ignore[valid-type]
        Field(description="If the file's name does not say it."),
    ] = None
    part_documents: Annotated[
        int | None, Field(ge=1, le=MOST, description="Write parts of so many documents into a folder.")
    ] = None
    view: Annotated[bool, Field(description="Make an SQL view of the results.")] = True


class Top(Table):
    """The keys above the first table."""

    name: Annotated[
        str,
        AfterValidator(
            _form(
                "[A-Za-z][A-Za-z0-9_-]{0,39}", "a letter, then letters, digits, _ and -, at most 40 characters in all"
            )
        ),
        Field(description="The pipeline's name.", json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_-]{0,39}$"}),
    ]


TABLES: dict[str, type[Table]] = {
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
    made: type[StepTable] = create_model(name, __base__=bases, **fields)
    return made


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of pipeline files."""
    step: Any = Union[tuple(step_table(name) for name in kinds.NAMES)]  # noqa: UP007 - of so many as there are
    steps = list[Annotated[step, Field(discriminator="task")]]
    file: type[Table] = create_model(
        "pipeline",
        __base__=Top,
        corpus=(CorpusTable, Field(description="The documents that are read.")),
        step=(steps, Field(min_length=1, description="The steps, in the order in which they are taken.")),
        job=(JobTable | None, Field(None, description="How the work is ranked.")),
        schedule=(ScheduleTable | None, Field(None, description="When the pipeline runs.")),
        output=(OutputTable | None, Field(None, description="Where results go.")),
    )
    found = _plain(file.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "A pipeline of docmill"}


def _plain(node: Any) -> Any:
    """Return a schema without nulls, which TOML does not have, and without titles, which repeat the keys."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {name: _plain(value) for name, value in node.items() if not (name == "title" and isinstance(value, str))}
    if kept.get("default", ...) is None:
        del kept["default"]
    if alternatives := [one for one in kept.get("anyOf", ()) if one != {"type": "null"}]:
        del kept["anyOf"]
        kept |= alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    return kept
