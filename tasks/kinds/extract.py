"""Extracting: a record out of each document, valid by a JSON Schema that the model is held to as it writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from storage.core.normalize import normalize_json
from storage.core.outcomes import Outcome
from storage.core.specs import Spec
from storage.outputs.output_types import RECORD, SCHEMA
from tasks.errors import BadOption
from tasks.kinds.base import Again, BuiltIn, Computed, Plan, Recipe, TaskKind, Traits, windowed
from tasks.kinds.options import Generating
from tasks.kinds.schema_option import JsonSchema
from tasks.models.families import Family
from tasks.outputs import Generated, Head, Record
from tasks.prompts import Template, is_rendered
from tasks.schemas import records
from tasks.schemas.citations import citations
from tasks.schemas.described import described
from tasks.schemas.grammar import GRAMMAR
from tasks.schemas.walk import Schema
from tasks.windows.windows import Coder, Window, cut


@dataclass(frozen=True)
class Extract:
    """Reads the windows of a text one by one, and merges their records."""

    schema: Schema
    checks: records.RecordChecks
    cites: bool = False

    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return cut(texts, coder)

    def join(self, computed: Computed) -> Outcome | Again:
        """Return the record of the text, or a failure where an output did not end or breaks the schema."""
        found: list[Any] = []
        for output in computed.outputs:
            if isinstance(output, Record):
                found.append(output.data)
            elif isinstance(output, Generated):
                if output.truncated:
                    return computed.failed(
                        f"The output reached {output.tokens:,} tokens before the JSON ended: raise --max-new-tokens, "
                        "or bound its texts with maxLength and its lists with maxItems."
                    )
                try:
                    found.append(records.parsed(output.text))
                except ValueError:
                    return computed.failed("The output is no JSON.")
        # A NUL that the model wrote would be replaced when it is stored, after the validation.
        record, mended = normalize_json(records.merged(found, self.schema))
        record = records.distinct(record, self.schema, self.schema)
        if (broken := self.checks.problem(record)) is not None:
            return computed.failed(f"The output is not valid by the schema: {broken}.")
        cited = citations(record, computed.text) if self.cites else None
        stored = RECORD.stored(record, cited).data
        flags = (*windowed(computed.windows), *(f"output_{flag}" for flag in mended))
        return computed.done(data=None if stored is None else dict(stored), flags=flags)


def _schema(spec: Spec) -> Schema:
    found: Schema = json.loads(spec.params[SCHEMA])
    return found


def _recipe(spec: Spec, _traits: Traits) -> Recipe:
    schema = _schema(spec)
    return Extract(schema, records.RecordChecks(schema), bool(spec.params.get("cite")))


def _chat(spec: Spec) -> Template:
    told = (
        "Extract data from the text below. Answer with a JSON object with these properties, and with nothing that "
        f"the text does not say:\n{described(_schema(spec))}\n\nText:\n"
    )
    return Template(told, "")


def _pattern(spec: Spec, _shown: bool) -> Template:
    return Template(f"Properties of the JSON:\n{described(_schema(spec))}\n\nText: ", "\nJSON:")


class ExtractOptions(Generating):
    """Options of `extract`."""

    json_schema: JsonSchema = None
    cite: Annotated[
        bool | None, Field(description="Keep where in the document each text and number of the record stands.")
    ] = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in super().given().items() if value is not False}


def _params(plan: Plan) -> dict[str, Any]:
    """Return the version of the grammar. Raises BadOption without a schema, and for --cite over metadata."""
    if SCHEMA not in plan.given:
        raise BadOption("extract needs --schema, a file with the JSON Schema of the records.")
    if "cite" in plan.given and is_rendered(plan.given):
        raise BadOption("--cite gives places in the document; it does not go with {meta.…} in --prompt.")
    return {"grammar": GRAMMAR}


EXTRACT = TaskKind(
    name="extract",
    summary="Extract a JSON record from each document, by a JSON Schema.",
    options=ExtractOptions,
    output=RECORD,
    families=MappingProxyType({Family.DECODER: Head.CAUSAL_TEXT}),
    recipe=_recipe,
    params=_params,
    built_in=BuiltIn(_chat, _pattern, settings="extraction"),
)
