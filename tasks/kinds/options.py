"""Options of kinds of task: pydantic models from which the command line, pipelines, messages and specs derive.

A field has the option's type, bounds and description; its `Option` has the other facts. Kinds inherit shared options
from common models.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from docmill.storage.core.normalize import is_printable
from docmill.storage.templates import Template, parse_question
from docmill.tasks import prompts
from docmill.tasks.errors import BadOption, BadSchema
from docmill.tasks.models.families import Family

Model = TypeVar("Model", bound=BaseModel)

MOST = 2**31 - 1  # far more than makes sense, far less than a database holds
MIN_WINDOW_TOKENS = 8
_ALIASES = {"native": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Layer(StrEnum):
    """A section of the help of a task's command. Only `--help-all` explains the options of the last section."""

    COMMON = "Options"
    TASK = "Options of the task"
    MORE = "More options"


@dataclass(frozen=True)
class Option:
    """Facts about an option beyond its type, bounds and description.

    ``spelling`` is the option's name on the command line, in pipelines and in messages, if it is not the field's.
    ``only`` is the family of models that take the option. ``any_takes`` is a value that every model takes, and
    ``instead`` is advice for other models. ``is_template``: the value is a prompt template. ``in_file``: commands and
    pipelines take the name of a file with the value as JSON. ``asks``: the value has questions by their names, and
    the option may be repeated. ``may_be_empty``: an empty text has a meaning. ``has_names``: a number may have a
    name.
    ``layer`` is the option's section in the help.
    """

    spelling: str | None = None
    layer: Layer | None = None
    metavar: str | None = None
    only: Family | None = None
    any_takes: Any = None
    instead: str = ""
    is_template: bool = False
    in_file: bool = False
    asks: bool = False
    may_be_empty: bool = False
    has_names: bool = False

    def takes(self, family: Family | None, value: object) -> bool:
        """Return True if models of a family take the option with this value."""
        return self.only in {None, family} or value == self.any_takes


class OptionsModel(BaseModel):
    """A model of options. None stands for an option that was not given."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)

    @field_validator("*")
    @classmethod
    def _require_filled(cls, value: object, info: ValidationInfo) -> object:
        """Refuse an empty text: a variable was not set, or it is a slip."""
        is_blank = isinstance(value, str) and not value.strip()
        if is_blank and not option(cls.model_fields[str(info.field_name)]).may_be_empty:
            raise wrong_value(EMPTY)
        return value


class KindOptions(OptionsModel):
    """The options of a kind of task. None leaves the choice to the model.

    A value in ``defaults`` equals a missing option, so that both make the same spec.
    """

    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        BeforeValidator(lambda value: _ALIASES.get(value, value) if isinstance(value, str) else value),
        Field(description="Precision; auto is the device's native precision, int8 costs some quality."),
        Option(layer=Layer.MORE),
    ] = "auto"

    adapter: Annotated[
        str | None,
        Field(min_length=1, description="LoRA adapter that PEFT saved, which is merged into the model."),
        Option(metavar="FOLDER|HUB_ID", layer=Layer.MORE),
    ] = None

    window_tokens: Annotated[
        int | None, Field(ge=MIN_WINDOW_TOKENS, le=MOST, description="Longest window of a document, in tokens.")
    ] = None

    def to_params(self) -> dict[str, Any]:
        """Return the given options, except the precision, as JSON values."""
        values = self.model_dump(mode="json", exclude={"dtype"}, exclude_none=True)
        return {name: value for name, value in values.items() if value != self.defaults.get(name)}

    @property
    def quality(self) -> str:
        """The precision's name in a spec."""
        return "native" if self.dtype == "auto" else self.dtype

    @property
    def templates(self) -> tuple[tuple[str, Template], ...]:
        """The given templates, each with its option's flag. Raises BadOption for a malformed template."""
        templates: list[tuple[str, Template]] = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None and option(field).is_template:
                templates.append((flag(name, field), prompts.check(value)))
            if value is not None and option(field).asks:
                templates += [(flag(name, field), parse_question(question)) for question in value.values()]
        return tuple(templates)


PROMPT = Field(description="Template of the model's input; {text} stands for the document.")


class Embedding(KindOptions):
    """Options of kinds whose models may have their own prompts."""

    prompt: Annotated[str | None, PROMPT, Option(is_template=True)] = None
    prompt_name: Annotated[
        str | None,
        Field(description="One of an embedding model's own prompts, such as document."),
        Option("model-prompt", metavar="NAME"),
    ] = None


# Options of several kinds without a common base class.
Prompt = Annotated[str | None, PROMPT, Option(only=Family.DECODER, is_template=True)]
Prefix = Annotated[
    str | None,
    Field(description="Words before each window, such as 'summarize: ' for a T5."),
    Option(metavar="TEXT", only=Family.SEQ2SEQ, instead="use --prompt", may_be_empty=True, layer=Layer.MORE),
]
Beams = Annotated[
    int | None,
    Field(ge=1, le=MOST, description="Beams of the search; 1 is greedy."),
    Option(only=Family.SEQ2SEQ, any_takes=1),
]
# An option of kinds that served models can do.
Tokenizer = Annotated[
    str | None,
    Field(min_length=1, description="Tokenizer of a model on a server, for windows and --dry-run."),
    Option(metavar="FOLDER|HUB_ID", layer=Layer.MORE),
]


class Sampling(KindOptions):
    """Options of kinds whose models write text, answers or records."""

    tokenizer: Tokenizer = None
    max_new_tokens: Annotated[
        int | None, Field(ge=1, le=MOST, description="Longest output of a window, in tokens.")
    ] = None
    system: Annotated[
        str | None,
        Field(description="System prompt, if the model's chat template has one."),
        Option(metavar="TEXT", only=Family.DECODER),
    ] = None
    temperature: Annotated[
        float | None, Field(ge=0, le=MOST, description="Sample at this temperature; 0 is greedy.")
    ] = None
    top_p: Annotated[
        float | None,
        Field(gt=0, le=1, description="Sample from the likeliest tokens with this total probability."),
        Option(layer=Layer.MORE),
    ] = None
    top_k: Annotated[
        int | None,
        Field(ge=0, le=MOST, description="Sample from the N likeliest tokens; 0 means all."),
        Option(layer=Layer.MORE),
    ] = None
    min_p: Annotated[
        float | None,
        Field(ge=0, le=1, description="Sample from tokens with at least this share of the likeliest's probability."),
        Option(layer=Layer.MORE),
    ] = None
    seed: Annotated[
        int | None,
        Field(ge=0, le=MOST, description="Seed of the samples.  [default: 0]"),
        Option(layer=Layer.MORE),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        Field(gt=0, le=MOST, description="Make tokens less likely that are already in the text; 1 is off."),
        Option(layer=Layer.MORE),
    ] = None


class Searching(Sampling):
    """Options of kinds that write free text, as encoder-decoders can, too."""

    prompt: Prompt = None
    min_new_tokens: Annotated[
        int | None,
        Field(ge=0, le=MOST, description="Shortest output of a window, in tokens."),
        Option(layer=Layer.MORE),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        Field(ge=0, le=MOST, description="Never write N tokens in a row twice; 0 is off."),
        Option(layer=Layer.MORE),
    ] = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None,
        Field(strict=False, min_length=1, description="End the output before this text; may be repeated."),
        Option(metavar="TEXT", layer=Layer.MORE),
    ] = None
    beams: Beams = None
    length_penalty: Annotated[
        float | None,
        Field(ge=-MOST, le=MOST, description="Above 0 beams prefer long outputs, below 0 short ones."),
        Option(only=Family.SEQ2SEQ, layer=Layer.MORE),
    ] = None
    early_stopping: Annotated[
        bool | None,
        Field(description="End a search by beams when it has as many outputs as beams."),
        Option(only=Family.SEQ2SEQ, layer=Layer.MORE),
    ] = None


def option(field: FieldInfo) -> Option:
    """Return the `Option` in a field's declaration."""
    return next((note for note in field.metadata if isinstance(note, Option)), Option())


def declaration_of(field: FieldInfo) -> object:
    """Return an option's declaration for comparison, without the parts that may differ between kinds."""
    bounds = [note for note in field.metadata if not isinstance(note, Option)]
    alike = replace(option(field), only=None, any_takes=None, instead="", layer=None)
    return field.annotation, field.default, field.examples, bounds, alike


def key(name: str, field: FieldInfo) -> str:
    """Return an option's name in pipelines, and on the command line after dashes."""
    return option(field).spelling or name.replace("_", "-")


def value_type(field: FieldInfo) -> Any:
    """Return the type of an option's values, without None."""
    alternatives = get_args(field.annotation)
    if type(None) not in alternatives:
        return field.annotation
    return next(alternative for alternative in alternatives if alternative is not type(None))


def is_list(field: FieldInfo) -> bool:
    """Return True for an option with several texts."""
    return get_origin(value_type(field)) is tuple


def is_repeated(field: FieldInfo) -> bool:
    """Return True for an option that may be repeated on the command line."""
    return is_list(field) or option(field).asks


def flag(name: str, field: FieldInfo) -> str:
    """Return an option's name on the command line."""
    return f"--{key(name, field)}"


def parsed(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Return a model of options with these values. Raises BadOption for a wrong value."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        field = model.model_fields[name]
        raise BadOption(f"{flag(name, field)} {sentence(first, field)}.") from error


_SCHEMA_EXAMPLE = {
    "type": "object",
    "properties": {"title": {"type": "string", "description": "the title"}, "price": {"type": "number"}},
    "required": ["title"],
}


def _canonical_schema(value: object) -> str:
    from docmill.tasks import schema_checks  # which imports jsonschema and llguidance

    try:
        return schema_checks.read(value)
    except BadSchema as error:
        raise wrong_value(str(error)) from error


# Fields of this type are named json_schema, since "schema" is a method of pydantic's models.
JsonSchema = Annotated[
    str | None,
    BeforeValidator(_canonical_schema),
    Field(description="JSON Schema of the records, in a file.", examples=[_SCHEMA_EXAMPLE]),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
    Option(spelling="schema", metavar="FILE", in_file=True),
]
_SHOWN_CHARS = 40
_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": 'a list of texts, such as ["a", "b"]',
}
EMPTY = "is empty; fill it in or leave it out"
WRONG_TYPE = frozenset(_EXPECTED)


def sentence(error: ErrorDetails, field: FieldInfo) -> str:
    """Return the error of a field as the end of a sentence that begins with the field's name."""
    kind, value = error["type"], error["input"]
    if len(error["loc"]) > 1 and kind == "string_type":  # an element of a list
        kind, value = "tuple_type", [value]
    is_bounded = any(isinstance(note, Le) for note in field.metadata)
    if kind == "int_type" and isinstance(value, float) and abs(value) >= 2**63 and is_bounded:
        return _bounds(value, field)  # JSON readers return such a whole number as a float
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, not {shown(value)}"
    if kind in {"string_too_short", "too_short"}:
        return f"must have at least {error['ctx']['min_length']} characters" if value else EMPTY
    if kind == "literal_error":
        return f"must be {error['ctx']['expected'].replace(chr(39), '')}, not {shown(value)}"
    if kind in {"greater_than", "greater_than_equal", "less_than_equal"}:
        return _bounds(value, field)
    return error["msg"]


def shown(value: object) -> str:
    """Return a value for a sentence: short, and on one line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    return repr(value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "…")


def _bounds(value: float, field: FieldInfo) -> str:
    least: Any = next((note.ge for note in field.metadata if isinstance(note, Ge)), None)
    above: Any = next((note.gt for note in field.metadata if isinstance(note, Gt)), None)
    most: Any = next((note.le for note in field.metadata if isinstance(note, Le)), None)
    if above is not None:
        return f"must be above {above:g}" + ("" if most is None else f" and at most {most:g}")
    return f"must be at least {least:g}" if value < least != -most else f"must be between {least:,} and {most:,}"


LABEL_FILES = (".txt", ".json", ".toml")
_EXPECTED_LABELS = 'must be labels, such as "sports, politics", a list of them, or a table with a description of each'


def is_label_file(value: str) -> bool:
    """Return True for a text that names a file of labels, not labels."""
    return "," not in value and PurePath(value).suffix.lower() in LABEL_FILES


def parse_label_file(name: str, text: str) -> Any:
    """Return the list or table of labels in a file's text: lines, JSON or TOML. Raises BadOption."""
    kind = PurePath(name).suffix.lower()
    if kind == ".txt":
        return [line for line in text.splitlines() if line.strip()]
    try:
        return json.loads(text) if kind == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadOption(f"{name} is not {kind.removeprefix('.').upper()}: {error}") from error


def words_by_label(value: object) -> dict[str, str]:
    """Return the words that a model reads for each label: the label's description, or the label itself.

    Raises PydanticCustomError. Its message follows the option's name.
    """
    if isinstance(value, str):
        if is_label_file(value):
            raise wrong_value(f"is the name of a file, {shown(value)}; write the labels themselves here")
        pairs: Iterable[tuple[object, object]] = [(label, label) for label in value.split(",") if label.strip()]
    elif isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = [(pair[0], pair[1]) if isinstance(pair, list) and len(pair) == 2 else (pair, pair) for pair in value]
    else:
        raise wrong_value(f"{_EXPECTED_LABELS}, not {shown(value)}")
    by_label: dict[str, str] = {}
    for label, words in pairs:
        if not isinstance(label, str) or not isinstance(words, str):
            wrong = words if isinstance(label, str) else label
            raise wrong_value(f"{_EXPECTED_LABELS}; {shown(wrong)} is none of these")
        name, read = (" ".join(part.split()) for part in (label, words))
        if not name:
            raise wrong_value("holds a label without a name")
        if not (is_printable(name) and is_printable(read)):
            raise wrong_value(f"has a label with a character that cannot be printed: {shown(ascii(name))}")
        if name in by_label:
            raise wrong_value(f"names {shown(name)} twice")
        by_label[name] = read or name
    if not by_label:
        raise wrong_value("holds no label")
    return by_label


def wrong_value(sentence: str) -> PydanticCustomError:
    """Return the error of a value. The option's name will come before the sentence."""
    return PydanticCustomError("value", "{sentence}", {"sentence": sentence})


def list_labels(labels: Mapping[str, str]) -> list[str | list[str]]:
    """Return labels as a list that `words_by_label` reads: each label, or a pair of a label and its words.

    A list, since a database does not keep the order of a table.
    """
    return [label if label == words else [label, words] for label, words in labels.items()]


_TEXT = {"type": "string"}
# A text, a list of texts, or texts by name.
TEXTS_SCHEMA = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "object", "additionalProperties": _TEXT}]
}

GivenLabels = Annotated[
    dict[str, str] | None,
    BeforeValidator(words_by_label),
    Field(
        description="Labels, separated by commas, or a .txt, .json or .toml file of them; for an NLI, embedding, "
        "decoder-only or GLiNER model.",
        examples=[{"sports": "sports", "the economy": "money, trade and prices"}],
    ),
    WithJsonSchema(TEXTS_SCHEMA),
    Option(metavar="LABELS|FILE"),
]
