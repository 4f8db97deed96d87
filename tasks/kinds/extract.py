"""Extracting: a record from each document. The model can only write records that are valid by a JSON Schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from docmill.storage.core.normalize import normalize_json
from docmill.storage.core.specs import Outcome, Spec
from docmill.storage.json_values import GivenJson, Json
from docmill.storage.outputs.output_types import RECORD, SCHEMA
from docmill.tasks import schemas
from docmill.tasks.errors import BadOption
from docmill.tasks.kinds.base import Again, BuiltIn, Computed, Plan, Recipe, TaskKind, Traits, windowed
from docmill.tasks.kinds.options import JsonSchema, Prompt, Sampling
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Generated, Head
from docmill.tasks.prompts import PromptFrame, is_rendered
from docmill.tasks.schemas import GRAMMAR, Schema, SchemaPath, describe


@dataclass(frozen=True)
class Extract(Recipe):
    """Reads the windows of a text one by one, and merges their records."""

    schema: Schema
    broken: Callable[[Json], str | None]
    cites: bool = False

    def join(self, computed: Computed) -> Outcome | Again:
        """Return the record of the text, or a failure if an output has no end or breaks the schema."""
        records: list[Any] = []
        for output in computed.outputs:
            if isinstance(output, Generated):
                if output.truncated:
                    return computed.failed(
                        f"The output reached {output.tokens:,} tokens before the JSON ended: raise --max-new-tokens, "
                        "or bound its texts with maxLength and its lists with maxItems."
                    )
                try:
                    records.append(schemas.parse_json(output.text))
                except ValueError:
                    return computed.failed("The output is no JSON.")
        # Storing replaces NUL characters, so they are replaced before the validation.
        record, mended = normalize_json(schemas.merge_records(records, self.schema))
        if self.broken(record) is not None:
            record = schemas.drop_repetitions(record, self.schema, self.schema)
        if (broken := self.broken(record)) is not None:
            return computed.failed(f"The output is not valid by the schema: {broken}.")
        cited = citations(record, computed.text) if self.cites else None
        flags = (*windowed(computed.windows), *(f"output_{flag}" for flag in mended))
        return computed.done(RECORD.stored(record, cited), flags=flags)


def _schema(spec: Spec) -> Schema:
    schema: Schema = json.loads(spec.params[SCHEMA])
    return schema


def _recipe(spec: Spec, _traits: Traits) -> Recipe:
    from docmill.tasks.schema_checks import record_check  # which imports jsonschema

    schema = _schema(spec)
    return Extract(schema, record_check(schema), bool(spec.params.get("cite")))


def _chat(spec: Spec) -> PromptFrame:
    request = (
        "Extract data from the text below. Answer with a JSON object with these properties, and with nothing that "
        f"the text does not say:\n{describe(_schema(spec))}\n\nText:\n"
    )
    return PromptFrame(request, "")


def _pattern(spec: Spec, _shown: bool) -> PromptFrame:
    return PromptFrame(f"Properties of the JSON:\n{describe(_schema(spec))}\n\nText: ", "\nJSON:")


class ExtractOptions(Sampling):
    """Options of `extract`."""

    defaults = MappingProxyType({"cite": False})
    prompt: Prompt = None
    json_schema: JsonSchema = None
    cite: Annotated[
        bool | None, Field(description="Add the position of each text and number of the record in the document.")
    ] = None


def _params(plan: Plan) -> dict[str, Any]:
    """Return the version of the grammar. Raises BadOption without a schema, and for --cite over metadata."""
    if SCHEMA not in plan.options:
        raise BadOption("extract needs --schema, a file with the JSON Schema of the records.")
    if "cite" in plan.options and is_rendered(plan.options):
        raise BadOption("--cite gives positions in the document; it does not go with {meta.…} in --prompt.")
    return {"grammar": GRAMMAR}


Range: TypeAlias = tuple[int, int]  # [start, end) in characters
_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?")
_MINUS = "-−"
_LONGEST_NUMBER = 60  # characters; no record has one so long


def normalized(text: str) -> str:
    """Return a case-folded text with one space for each run of white space inside it."""
    return " ".join(text.split()).casefold()


def citations(record: Mapping[str, GivenJson], text: str) -> dict[str, list[int] | None]:
    """Return the place of each string and number of a record, by its JSON Pointer; None if the text lacks it."""
    places = TextIndex(text)
    return {
        schemas.pointer(path).removeprefix("#"): [*place] if (place := places.of(value)) else None
        for path, value in _walk_leaves(record)
    }


def _walk_leaves(value: GivenJson, path: SchemaPath = ()) -> Iterator[tuple[SchemaPath, str | int | float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _walk_leaves(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk_leaves(inner, (*path, number))
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value


class TextIndex:
    """The places of values in one text, which is prepared once."""

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, value: str | int | float) -> Range | None:
        """Return the place of a value; None if the text lacks it."""
        if not isinstance(value, str):
            return self._numbers.get(Decimal(str(value)))
        if not value.strip():
            return None
        return _find(value, self._text) or self._find_loosely(value)

    @cached_property
    def _numbers(self) -> Mapping[Decimal, Range]:
        """The first place of each number in the text."""
        numbers: dict[Decimal, Range] = {}
        for match in _NUMBER.finditer(self._text):
            if len(match[0]) > _LONGEST_NUMBER:
                continue
            start, end = match.span()
            value = Decimal(match[0].replace(",", ""))
            numbers.setdefault(value, (start, end))
            if start and self._text[start - 1] in _MINUS:
                numbers.setdefault(-value, (start - 1, end))
        return numbers

    @cached_property
    def _folded(self) -> tuple[str, list[Range]]:
        """The normalized text, and the original place of each of its characters."""
        characters: list[str] = []
        places: list[Range] = []
        for word in re.finditer(r"\S+", self._text):
            if characters:
                characters.append(" ")
                places.append((places[-1][1], word.start()))
            for at, character in enumerate(word[0], word.start()):
                folded = character.casefold()
                characters.append(folded)
                places += [(at, at + 1)] * len(folded)
        return "".join(characters), places

    def _find_loosely(self, value: str) -> Range | None:
        folded, places = self._folded
        wanted = normalized(value)
        place = _find(wanted, folded)
        if place is None:
            return None
        start, end = places[place[0]][0], places[place[1] - 1][1]
        # A character such as ß is folded to several characters, and the value may have only some of them.
        return (start, end) if normalized(self._text[start:end]) == wanted else None


def _find(value: str, text: str) -> Range | None:
    """Return the first place of a value that cuts no word, else its first place."""
    at_start = r"(?<!\w)" if value[0].isalnum() else ""
    at_end = r"(?!\w)" if value[-1].isalnum() else ""
    match = re.search(f"{at_start}{re.escape(value)}{at_end}", text)
    start = match.start() if match is not None else text.find(value)
    return (start, start + len(value)) if start >= 0 else None


EXTRACT = TaskKind(
    name="extract",
    summary="Extract a JSON record from each document, by a JSON Schema.",
    example="mail/ --schema mail.json --model ./qwen3",
    options=ExtractOptions,
    output=RECORD,
    families=MappingProxyType({Family.DECODER: Head.CAUSAL_TEXT}),
    recipe=_recipe,
    params=_params,
    built_in=BuiltIn(_chat, _pattern, settings="extraction"),
)
