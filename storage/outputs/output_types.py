"""The types of outputs that a task can have: TEXT, VECTOR, WEIGHTS, LABELS, SPANS, RECORD, REDACTED.

A type says how an output is stored, what it is as JSON, which columns it has in tables and views, what a terminal
shows of it, and whether a later step can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from docmill.storage.json_values import Json
from docmill.storage.outputs.base import CONFIDENCE, Output, OutputType, Params, Stored, column, in_data
from docmill.storage.outputs.columns import Form, OutputColumn, Result
from docmill.storage.outputs.lists import forms_of, in_order, items_of, line_of
from docmill.storage.outputs.property_forms import fits, form_of

SCHEMA = "json_schema"  # the parameter of a spec with the JSON Schema of its records, as JSON text
# The parameter of a spec with the schema of each property, where no model writes the record.
PROPERTIES = "properties"
N = "n"  # the parameter of a spec with the number of outputs for each document
TEXTS, TRUNCATED = "texts", "truncated"
RANKING = "ranking"  # the parameter of a spec whose texts are sentences of the document
SENTENCES, CITATIONS = "sentences", "citations"
# In a view, STEP_status and the like are columns of its own.
TAKEN = frozenset({"status", "reason", CITATIONS})


class _Text(OutputType):
    """A text, in `text`: `"text": "…"`. Of several outputs it is the first, and all are in `data`: `"texts": […]`.
    `"truncated": […]` has the places, from 0, of those that were cut at a limit.

    A text of sentences of the document has them in `data`: `"sentences": [{"text", "start", "end", "score"}, …]`.
    They stand in it line after line; `start` and `end` are offsets in characters of the stored text.

    The parameter `N` of a spec says how many outputs there are, and `RANKING` that there are sentences.
    """

    name = "text"
    plural = "texts"
    feeds_steps = True
    confidence = CONFIDENCE
    _fields: Mapping[str, type] = {"text": str, "start": int, "end": int, "score": float}

    def stored(self, texts: Sequence[str], truncated: Sequence[int] = ()) -> Output:
        """Return one text, or several, as they are stored; those at the places ``truncated`` were cut."""
        several = {TEXTS: list(texts), **({TRUNCATED: list(truncated)} if truncated else {})}
        return Output(text=texts[0], data=several if len(texts) > 1 else None)

    def cited(self, text: str, sentences: Iterable[tuple[int, int, float]]) -> Output:
        """Return sentences of a text, each (start, end, score), as they are stored: in the order of the text."""
        found = [
            {"text": text[start:end], "start": start, "end": end, "score": float(score)}
            for start, end, score in sorted(sentences)
        ]
        return Output(text=_lines(found), data={SENTENCES: found})

    def result(self, stored: Stored) -> dict[str, Any]:
        data = stored.data or {}
        several = {name: data[name] for name in (TEXTS, TRUNCATED) if name in data}
        cited = {SENTENCES: in_order(data[SENTENCES], self._fields)} if SENTENCES in data else {}
        return {"text": stored.text, **several, **cited}

    def problem(self, stored: Stored) -> str | None:
        data: Any = stored.data
        several = data is not None
        if several and SENTENCES in data:
            return self._sentences_problem(stored)
        if stored.text is None or stored.vector is not None or (several and {*data} - {TRUNCATED} != {TEXTS}):
            return "a text belongs in `text`, and nothing beside it"
        if several and (not all(isinstance(one, str) for one in data[TEXTS]) or _first(stored) != stored.text):
            return "the first of several texts belongs in `text`"
        return None

    def _sentences_problem(self, stored: Stored) -> str | None:
        sentences = items_of(stored, SENTENCES, self._fields)
        if sentences is None or len(stored.data) > 1:
            return 'sentences belong in `data`, as {"sentences": [{"text", "start", "end", "score"}, …]}'
        if any(not 0 <= one["start"] <= one["end"] for one in sentences):
            return "a sentence ends before it starts"
        return None if stored.text == _lines(sentences) else "the sentences belong in `text`, line after line"

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        text = column("text", Form.TEXT, "", stored=("text",))
        several = column(TEXTS, Form.TEXTS, f"_{TEXTS}", stored=("data", TEXTS))
        cited = column(SENTENCES, Form.SENTENCES, f"_{SENTENCES}", stored=("data", SENTENCES))
        return (text, *((several,) if params.get(N, 1) > 1 else ()), *((cited,) if RANKING in params else ()))

    def confidence_columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return () if RANKING in params else super().confidence_columns(params)

    def items(self, params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return (SENTENCES, forms_of(self._fields)) if RANKING in params else None

    def shown(self, result: Result) -> str:
        others = len(result.get(TEXTS) or ()) - 1
        return (result["text"] or "") + (f" (and {others} more)" if others > 0 else "")


class _Vector(OutputType):
    """A float32 vector, in `vector`; in `data` also the windows, where each has one: `"vector": […]`."""

    name = "vector"
    plural = "vectors"

    def result(self, stored: Stored) -> dict[str, Any]:
        import numpy as np

        vector = np.frombuffer(stored.vector or b"", dtype="<f4")
        if stored.data and "windows" in stored.data:
            return {"vector": vector.reshape(-1, stored.data["dim"]), "windows": stored.data["windows"]}
        return {"vector": vector}

    def problem(self, stored: Stored) -> str | None:
        if not stored.vector or len(stored.vector) % 4 or stored.text is not None:
            return "a vector belongs in `vector`, as float32 numbers"
        data = stored.data or {}
        if "windows" in data and len(stored.vector) != 4 * data["dim"] * len(data["windows"]):
            return "there are not as many vectors as windows"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        vector = column("vector", Form.VECTOR, "_vector", stored=("vector",))
        if params.get("windows") != "all":
            return (vector,)
        return replace(vector, stored=()), column("windows", Form.OFFSETS)

    def shown(self, result: Result) -> str:
        import numpy as np

        vector = np.atleast_2d(result["vector"])
        numbers = " ".join(f"{value:+.3f}" for value in vector[0][:6])
        windows = f"{len(vector)} windows × " if len(vector) > 1 else ""
        return f"{windows}{vector.shape[1]} numbers: {numbers} …"


class _Weights(OutputType):
    """Tokens of a model's vocabulary with their weights, the highest first, in `data`.

    `"weights": [{"token", "token_id", "weight"}, …]`.
    """

    name = "weights"
    plural = "weights"
    _fields: Mapping[str, type] = {"token": str, "token_id": int, "weight": float}

    def stored(self, weights: Iterable[tuple[str, int, float]]) -> Output:
        """Return weights, each (token, token_id, weight), as they are stored, the highest first."""
        ordered = sorted(weights, key=lambda one: (-one[2], one[1]))
        return Output(data={"weights": [dict(zip(self._fields, one, strict=True)) for one in ordered]})

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"weights": in_order(stored.data["weights"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        weights = items_of(stored, "weights", self._fields)
        if weights is None or stored.text is not None:
            return 'weights belong in `data`, as {"weights": [{"token": "…", "token_id": 1, "weight": 0.5}, …]}'
        if any(one["weight"] < after["weight"] for one, after in pairwise(weights)):
            return "the highest weight comes first"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return (column("weights", Form.WEIGHTS, "_weights", stored=("data", "weights")),)

    def items(self, params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return "weights", forms_of(self._fields)

    def shown(self, result: Result) -> str:
        return line_of(f"{one['token']} {one['weight']:.2f}" for one in result["weights"])


class _Labels(OutputType):
    """Labels with their scores, the best first, in `data`; the best label in `text`.

    `"labels": [{"label", "score"}, …]`. In tables the best label, its score, and the list.
    """

    name = "labels"
    plural = "labels"
    confidence = CONFIDENCE[:1]
    _fields: Mapping[str, type] = {"label": str, "score": float}

    def stored(self, scores: Iterable[tuple[str, float]]) -> Output:
        """Return labels with these scores as they are stored."""
        ordered = sorted(scores, key=lambda one: -one[1])
        labels = [{"label": label, "score": float(score)} for label, score in ordered]
        return Output(text=ordered[0][0] if ordered else None, data={"labels": labels})

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"labels": in_order(stored.data["labels"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        labels = items_of(stored, "labels", self._fields)
        if labels is None:
            return 'labels belong in `data`, as {"labels": [{"label": "…", "score": 0.5}, …]}'
        if any(one["score"] < after["score"] for one, after in pairwise(labels)):
            return "the best label comes first"
        if stored.text != (labels[0]["label"] if labels else None):
            return "the best label belongs in `text`"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        def best(field: str) -> Callable[[Result], Any]:
            return lambda result: result["labels"][0][field] if result.get("labels") else None

        return (
            replace(column("label", Form.TEXT, "", stored=("text",)), value=best("label")),
            replace(
                column("score", Form.NUMBER, "_score", stored=("data", "labels", 0, "score")), value=best("score")
            ),
            column("labels", Form.LABELS, "_labels", stored=("data", "labels")),
        )

    def shown(self, result: Result) -> str:
        return line_of(f"{one['label']} {one['score']:.3f}" for one in result["labels"])


class _Spans(OutputType):
    """Parts of the text with labels, in `data`: `"spans": [{"label", "text", "start", "end", "score"}, …]`.

    `start` and `end` are offsets in characters of the stored text: `text[start:end]` is the span's text.
    """

    name = "spans"
    plural = "spans"
    confidence = CONFIDENCE[:1]
    _fields: Mapping[str, type] = {"label": str, "text": str, "start": int, "end": int, "score": float}

    def stored(self, text: str, spans: Iterable[tuple[str, int, int, float]]) -> Output:
        """Return spans of a text, each (label, start, end, score), as they are stored: in the order of the text."""
        ordered = sorted(spans, key=lambda one: (one[1], one[2]))
        found = [
            {"label": label, "text": text[start:end], "start": start, "end": end, "score": float(score)}
            for label, start, end, score in ordered
        ]
        return Output(data={"spans": found})

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"spans": in_order(stored.data["spans"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        spans = items_of(stored, "spans", self._fields)
        if spans is None or stored.text is not None:
            return 'spans belong in `data`, as {"spans": [{"label", "text", "start", "end", "score"}, …]}'
        if any(not 0 <= one["start"] <= one["end"] for one in spans):
            return "a span ends before it starts"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return (column("spans", Form.SPANS, "_spans", stored=("data", "spans")),)

    def items(self, _params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return "spans", forms_of(self._fields)

    def shown(self, result: Result) -> str:
        return line_of(f"{one['text']} ({one['label']})" for one in result["spans"]) or "nothing found"


class _Record(OutputType):
    """A JSON object, in `data` under the key `data`: `"data": {…}`. Beside it its `citations`, if it has some.

    `"citations": {"/title": [start, end], …}` has the place of each string and number, by its JSON Pointer, in
    characters of the stored text; null where it stands nowhere.

    Where the spec's parameters have a JSON Schema, under `SCHEMA`, or the schemas of its properties, under
    `PROPERTIES`, tables have a column for each property. Properties are in the order of their names: PostgreSQL keeps
    no other.
    """

    name = "record"
    plural = "records"
    confidence = CONFIDENCE

    def stored(self, record: Mapping[str, Any], citations: Mapping[str, Any] | None = None) -> Output:
        """Return a record as it is stored."""
        cited = {} if citations is None else {CITATIONS: dict(citations)}
        return Output(data={"data": dict(record), **cited})

    def result(self, stored: Stored) -> dict[str, Any]:
        kept = [key for key in ("data", CITATIONS) if key in stored.data]
        return {key: dict(sorted(stored.data[key].items())) for key in kept}

    def problem(self, stored: Stored) -> str | None:
        holds = isinstance(stored.data, dict) and isinstance(stored.data.get("data"), dict)
        return None if holds and stored.text is None else 'a record belongs in `data`, as {"data": {…}}'

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        schema = _schema(params)
        properties = schema.get("properties") or {}
        # The JSON paths of SQLite cannot quote a quotation mark.
        names = sorted(name for name in properties if '"' not in name)
        columns = tuple(_property(name, form_of(properties[name], schema)) for name in names)
        cited = column(CITATIONS, Form.JSON, f"_{CITATIONS}", in_data(Form.JSON, CITATIONS))
        whole = column("data", Form.JSON, "_data", in_data(Form.JSON, "data"))
        return (*(columns or (whole,)), *((cited,) if params.get("cite") else ()))

    def shown(self, result: Result) -> str:
        # A terminal's line is cut at its end, so that lists and objects come last.
        properties = sorted(result["data"].items(), key=lambda one: isinstance(one[1], list | dict))
        return line_of(f"{name}: {_plain(value)}" for name, value in properties)


class _Redacted(OutputType):
    """A text in `text`, parts of which were replaced, and the replacements in `data`, as `"spans": [{…}, …]`.

    `text[start:end]` is the text of a replacement. It stands for `[source_start, source_end)` of the text that was
    read, in characters. What stood there is left out.
    """

    name = "redacted"
    plural = "redacted texts"
    feeds_steps = True
    confidence = CONFIDENCE[:1]
    _fields: Mapping[str, type] = {
        "label": str,
        "text": str,
        "start": int,
        "end": int,
        "source_start": int,
        "source_end": int,
        "score": float,
    }

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"text": stored.text, "spans": in_order(stored.data["spans"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        spans = items_of(stored, "spans", self._fields)
        if spans is None or stored.text is None:
            return (
                'a redacted text belongs in `text`, and its replacements in `data`, as {"spans": [{"label", …}, …]}'
            )
        if any(stored.text[one["start"] : one["end"]] != one["text"] for one in spans):
            return "a replacement does not stand at its place"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return (
            column("text", Form.TEXT, "", stored=("text",)),
            column("spans", Form.REPLACEMENTS, "_spans", stored=("data", "spans")),
        )

    def items(self, _params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return "spans", forms_of(self._fields)

    def shown(self, result: Result) -> str:
        return result["text"] or ""


def _lines(sentences: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(one["text"] for one in sentences)


def _first(stored: Stored) -> str | None:
    return next(iter(stored.data[TEXTS]), None)


def _schema(params: Params) -> Mapping[str, Any]:
    import orjson

    found: Mapping[str, Any] = (
        orjson.loads(params[SCHEMA]) if SCHEMA in params else {PROPERTIES: params.get(PROPERTIES)}
    )
    return found


def _property(name: str, form: Form) -> OutputColumn:
    def value(result: Result) -> Any:
        found = result.get("data", {}).get(name)
        return found if fits(found, form) else None

    suffix = f"_data_{name}" if name in TAKEN else f"_{name}"
    return OutputColumn(f"data_{name}", form, value, suffix, in_data(form, "data", name))


def _plain(value: Json) -> str:
    import orjson

    if value is None:
        return "none"
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return f"{len(value):,} object{'s' * (len(value) > 1)}"
    if isinstance(value, float):
        value = round(value, 3)
    return value if isinstance(value, str) else orjson.dumps(value).decode()


TEXT, VECTOR, WEIGHTS, LABELS = _Text(), _Vector(), _Weights(), _Labels()
SPANS, RECORD, REDACTED = _Spans(), _Record(), _Redacted()
OUTPUT_TYPES: tuple[OutputType, ...] = (TEXT, VECTOR, WEIGHTS, LABELS, SPANS, RECORD, REDACTED)
