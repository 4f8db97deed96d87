"""The types of outputs that a task can have: TEXT, VECTOR, WEIGHTS, LABELS, SPANS, RECORD, REDACTED.

A type says how an output is stored, what it is as JSON, which columns it has in tables and views, what a terminal
shows of it, and whether a later step can read it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from docmill.storage.json_values import Json
from docmill.storage.outputs.columns import Column, Form, OutputColumn, Result

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause


Params = Mapping[str, Any]  # of a spec
# The columns of outcomes that say how sure a model was, which are also keys of results.
CONFIDENCE = ("confidence", "mean_logprob", "least_logprob")
SCHEMA = "json_schema"  # the parameter of a spec with the JSON Schema of its records, as JSON text
# The parameter of a spec with the schema of each property, where no model writes the record.
PROPERTIES = "properties"
N = "n"  # the parameter of a spec with the number of outputs for each document
TEXTS, TRUNCATED = "texts", "truncated"
QUESTION = "question"  # the parameter of a spec with questions by their names
RANKING = "ranking"  # the parameter of a spec whose texts are sentences of the document
SENTENCES, CITATIONS = "sentences", "citations"
# In a view, STEP_status and the like are columns of its own.
TAKEN = frozenset({"status", "reason", CITATIONS})
NO_ANSWER, NOTHING_FOUND = "no answer in the text", "nothing found"
SHOWN = 20  # labels, spans or properties in a line
_FORMS = {"string": Form.TEXT, "integer": Form.INTEGER, "number": Form.NUMBER, "boolean": Form.BOOLEAN}
_NAMES: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ANY = "any"
_TYPES: Mapping[Form, tuple[type, ...]] = {
    Form.TEXT: (str,),
    Form.INTEGER: (int,),
    Form.NUMBER: (int, float),
    Form.BOOLEAN: (bool,),
    Form.TEXTS: (list,),
}
_DEEPEST = 8  # references and alternatives inside one another


@dataclass(frozen=True)
class Output:
    """An output in the columns of the table of outcomes."""

    text: str | None = None
    vector: bytes | None = None
    data: Mapping[str, Any] | None = None


class Stored(Protocol):
    """A row of outcomes, or an outcome that will be one."""

    @property
    def text(self) -> str | None: ...
    @property
    def vector(self) -> bytes | None: ...
    @property
    def data(self) -> Any: ...


def read_confidence(outcome: Stored) -> dict[str, float]:
    """Return the numbers of `CONFIDENCE` that an outcome has, by their names."""
    numbers = {name: getattr(outcome, name) for name in CONFIDENCE}
    return {name: number for name, number in numbers.items() if number is not None}


class OutputType(ABC):
    """The type of a kind's outputs. `plural` names them in messages; `feeds_steps` if a later step can read them.

    `confidence` are the columns of `CONFIDENCE` that outputs of the type may have.
    """

    name: str
    plural: str
    feeds_steps = False
    confidence: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name.upper()

    @property
    def is_comparable(self) -> bool:
        """True if outputs of two models can be compared: outputs that have a confidence."""
        return bool(self.confidence)

    @abstractmethod
    def result(self, stored: Stored) -> dict[str, Any]:
        """Return the output as JSON lines have it; a vector is a float32 array."""

    @abstractmethod
    def problem(self, stored: Stored) -> str | None:
        """Return the reason why this is no output of the type; None if it is one."""

    @abstractmethod
    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        """Return the columns of outputs under a spec with these parameters."""

    def people_columns(self, params: Params, heading: str) -> Sequence[Column]:
        """Return the columns of outputs in a table for people. `heading` names the column of a single output."""
        return [replace(self.columns(params)[0], name=heading)]

    def confidence_columns(self, params: Params) -> tuple[OutputColumn, ...]:
        """Return the columns about the confidence of outputs under a spec with these parameters."""
        return tuple(column(name, Form.NUMBER, f"_{name}", stored=(name,)) for name in self.confidence)

    def items(self, params: Params) -> tuple[str, Mapping[str, Form]] | None:
        """Return the key of a list in `data` that has a view with a row for each item, and the items' fields.

        The list is in outputs under a spec with these parameters. None if there is no such list.
        """
        return None

    @abstractmethod
    def shown(self, result: Result, params: Params) -> str:
        """Return a line for people about a result under a spec with these parameters."""

    def remark(self, result: Result, params: Params) -> str | None:
        """Return a remark for people on an output without an answer or a finding. The result may have no output."""
        return None


def column(
    name: str,
    form: Form,
    suffix: str | None = None,
    sql: Callable[[FromClause], ColumnElement[Any]] | None = None,
    *,
    stored: tuple[str | int, ...] = (),
) -> OutputColumn:
    """Return the column of a result's key. A view selects the value at `stored`, unless there is an `sql`."""
    if stored and sql is None:
        sql = in_data(form, *stored[1:]) if stored[0] == "data" else _of_outcome(str(stored[0]))
    return OutputColumn(name, form, lambda result: result.get(name), suffix, sql, stored)


def _of_outcome(name: str) -> Callable[[FromClause], ColumnElement[Any]]:
    return lambda outcome: outcome.c[name]


def in_data(form: Form, *keys: str | int) -> Callable[[FromClause], ColumnElement[Any]]:
    """Return the function that selects the value under these keys of an outcome's data."""

    def sql(outcome: FromClause) -> ColumnElement[Any]:
        from docmill.storage.outputs.json_columns import selected  # SQLAlchemy takes long to import

        return selected(outcome.c.data, form, *keys)

    return sql


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
        cited = [
            {"text": text[start:end], "start": start, "end": end, "score": float(score)}
            for start, end, score in sorted(sentences)
        ]
        return Output(text=_lines(cited), data={SENTENCES: cited})

    def result(self, stored: Stored) -> dict[str, Any]:
        data = stored.data or {}
        several = {name: data[name] for name in (TEXTS, TRUNCATED) if name in data}
        cited = {SENTENCES: _in_order(data[SENTENCES], self._fields)} if SENTENCES in data else {}
        return {"text": stored.text, **several, **cited}

    def problem(self, stored: Stored) -> str | None:
        data: Any = stored.data
        several = data is not None
        if several and SENTENCES in data:
            return self._sentences_problem(stored)
        if stored.text is None or stored.vector is not None or (several and {*data} - {TRUNCATED} != {TEXTS}):
            return "a text belongs in `text`, and nothing beside it"
        if several and (not all(isinstance(item, str) for item in data[TEXTS]) or _first(stored) != stored.text):
            return "the first of several texts belongs in `text`"
        return None

    def _sentences_problem(self, stored: Stored) -> str | None:
        sentences = _items_of(stored, SENTENCES, self._fields)
        if sentences is None or len(stored.data) > 1:
            return 'sentences belong in `data`, as {"sentences": [{"text", "start", "end", "score"}, …]}'
        if any(not 0 <= sentence["start"] <= sentence["end"] for sentence in sentences):
            return "a sentence ends before it starts"
        return None if stored.text == _lines(sentences) else "the sentences belong in `text`, line after line"

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        text = column("text", Form.TEXT, "", stored=("text",))
        several = column(TEXTS, Form.TEXTS, f"_{TEXTS}", stored=("data", TEXTS))
        cited = column(SENTENCES, Form.SENTENCES, f"_{SENTENCES}", stored=("data", SENTENCES))
        return (text, *((several,) if params.get(N, 1) > 1 else ()), *((cited,) if RANKING in params else ()))

    def people_columns(self, params: Params, heading: str) -> Sequence[Column]:
        def at(place: int) -> Callable[[Result], Any]:
            return lambda result: dict(enumerate(result.get(TEXTS) or [result.get("text")])).get(place)

        n = params.get(N, 1)
        return [Column(heading if n == 1 else f"{heading} {place + 1}", Form.TEXT, at(place)) for place in range(n)]

    def confidence_columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return () if RANKING in params else super().confidence_columns(params)

    def items(self, params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return (SENTENCES, _forms_of(self._fields)) if RANKING in params else None

    def shown(self, result: Result, params: Params) -> str:
        others = len(result.get(TEXTS) or ()) - 1
        return (result["text"] or "") + (f" (and {others} more)" if others > 0 else "")


def keeps_windows(params: Params) -> bool:
    """Return True if outputs under a spec with these parameters have a vector for each window of the text."""
    return bool(params.get("windows") == "all")


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
        if not keeps_windows(params):
            return (vector,)
        return replace(vector, stored=()), column("windows", Form.OFFSETS)

    def shown(self, result: Result, params: Params) -> str:
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
        ordered = sorted(weights, key=lambda item: (-item[2], item[1]))
        return Output(data={"weights": [dict(zip(self._fields, item, strict=True)) for item in ordered]})

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"weights": _in_order(stored.data["weights"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        weights = _items_of(stored, "weights", self._fields)
        if weights is None or stored.text is not None:
            return 'weights belong in `data`, as {"weights": [{"token": "…", "token_id": 1, "weight": 0.5}, …]}'
        if any(item["weight"] < after["weight"] for item, after in pairwise(weights)):
            return "the highest weight comes first"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return (column("weights", Form.WEIGHTS, "_weights", stored=("data", "weights")),)

    def people_columns(self, params: Params, heading: str) -> Sequence[Column]:
        return [_listed_column(heading, "weights", lambda item: f"{item['token']} ({item['weight']:.2f})")]

    def items(self, params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return "weights", _forms_of(self._fields)

    def shown(self, result: Result, params: Params) -> str:
        return _line_of(f"{item['token']} {item['weight']:.2f}" for item in result["weights"])


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
        ordered = sorted(scores, key=lambda item: -item[1])
        labels = [{"label": label, "score": float(score)} for label, score in ordered]
        return Output(text=ordered[0][0] if ordered else None, data={"labels": labels})

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"labels": _in_order(stored.data["labels"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        labels = _items_of(stored, "labels", self._fields)
        if labels is None:
            return 'labels belong in `data`, as {"labels": [{"label": "…", "score": 0.5}, …]}'
        if any(item["score"] < after["score"] for item, after in pairwise(labels)):
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

    def people_columns(self, params: Params, heading: str) -> Sequence[Column]:
        if params.get("multi_label"):
            return [_listed_column("labels", "labels", lambda item: f"{item['label']} ({item['score']:.2f})")]
        label, score, _ = self.columns(params)
        return [label, Column("score", Form.NUMBER, lambda result: _round(score.value(result)))]

    def shown(self, result: Result, params: Params) -> str:
        return _line_of(f"{item['label']} {item['score']:.3f}" for item in result["labels"])


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
        ordered = sorted(spans, key=lambda item: (item[1], item[2]))
        stored_spans = [
            {"label": label, "text": text[start:end], "start": start, "end": end, "score": float(score)}
            for label, start, end, score in ordered
        ]
        return Output(data={"spans": stored_spans})

    def result(self, stored: Stored) -> dict[str, Any]:
        return {"spans": _in_order(stored.data["spans"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        spans = _items_of(stored, "spans", self._fields)
        if spans is None or stored.text is not None:
            return 'spans belong in `data`, as {"spans": [{"label", "text", "start", "end", "score"}, …]}'
        if any(not 0 <= item["start"] <= item["end"] for item in spans):
            return "a span ends before it starts"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return (column("spans", Form.SPANS, "_spans", stored=("data", "spans")),)

    def people_columns(self, params: Params, heading: str) -> Sequence[Column]:
        return [_listed_column(heading, "spans", lambda item: f"{item['text']} ({item['label']})")]

    def items(self, _params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return "spans", _forms_of(self._fields)

    def shown(self, result: Result, params: Params) -> str:
        return _line_of(f"{item['text']} ({item['label']})" for item in result["spans"]) or NOTHING_FOUND

    def remark(self, result: Result, params: Params) -> str | None:
        return NOTHING_FOUND if result.get("spans") == [] else None


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
        columns = tuple(_property(name, _form_of(properties[name], schema)) for name in names)
        cited = column(CITATIONS, Form.JSON, f"_{CITATIONS}", in_data(Form.JSON, CITATIONS))
        whole = column("data", Form.JSON, "_data", in_data(Form.JSON, "data"))
        return (*(columns or (whole,)), *((cited,) if params.get("cite") else ()))

    def people_columns(self, params: Params, heading: str) -> Sequence[Column]:
        columns = [column for column in self.columns(params) if column.name not in {"data", CITATIONS}]
        named = [_join_texts(replace(column, name=column.name.removeprefix("data_"))) for column in columns]
        questions = params.get(QUESTION)
        shown = [column for column in named if questions is None or column.name in questions]
        return shown or super().people_columns(params, heading)

    def shown(self, result: Result, params: Params) -> str:
        if (questions := params.get(QUESTION)) is not None:
            answers = {name: result["data"].get(name) or NO_ANSWER for name in sorted(questions)}
            return _line_of(answers.values() if len(answers) == 1 else map(": ".join, answers.items()))
        # A terminal's line is cut at its end, so that lists and objects come last.
        properties = sorted(result["data"].items(), key=lambda item: isinstance(item[1], list | dict))
        return _line_of(f"{name}: {_plain(value)}" for name, value in properties)

    def remark(self, result: Result, params: Params) -> str | None:
        questions, data = params.get(QUESTION) or {}, result.get("data")
        lacking = [name for name in sorted(questions) if data is not None and data.get(name) is None]
        if not lacking:
            return None
        return f"{', '.join(lacking)}: {NO_ANSWER}" if len(questions) > 1 else NO_ANSWER


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
        return {"text": stored.text, "spans": _in_order(stored.data["spans"], self._fields)}

    def problem(self, stored: Stored) -> str | None:
        spans = _items_of(stored, "spans", self._fields)
        if spans is None or stored.text is None:
            return (
                'a redacted text belongs in `text`, and its replacements in `data`, as {"spans": [{"label", …}, …]}'
            )
        if any(stored.text[item["start"] : item["end"]] != item["text"] for item in spans):
            return "a replacement does not stand at its place"
        return None

    def columns(self, params: Params) -> tuple[OutputColumn, ...]:
        return (
            column("text", Form.TEXT, "", stored=("text",)),
            column("spans", Form.REPLACEMENTS, "_spans", stored=("data", "spans")),
        )

    def items(self, _params: Params) -> tuple[str, Mapping[str, Form]] | None:
        return "spans", _forms_of(self._fields)

    def shown(self, result: Result, params: Params) -> str:
        return result["text"] or ""


def _listed_column(name: str, key: str, said: Callable[[Mapping[str, Any]], str]) -> Column:
    """Return a column that says each item of a result's list in words."""

    def value(result: Result) -> str | None:
        return None if key not in result else "; ".join(map(said, result[key]))

    return Column(name, Form.TEXT, value)


def _join_texts(column: OutputColumn) -> Column:
    """Return a column of lists of texts as one of texts; any other column as it is."""
    if column.form is not Form.TEXTS:
        return column

    def value(result: Result) -> str | None:
        texts = column.value(result)
        return None if texts is None else "; ".join(map(str, texts))

    return Column(column.name, Form.TEXT, value)


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _lines(sentences: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(sentence["text"] for sentence in sentences)


def _first(stored: Stored) -> str | None:
    return next(iter(stored.data[TEXTS]), None)


def _schema(params: Params) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = (
        orjson.loads(params[SCHEMA]) if SCHEMA in params else {PROPERTIES: params.get(PROPERTIES)}
    )
    return schema


def _property(name: str, form: Form) -> OutputColumn:
    def value(result: Result) -> Any:
        stored = result.get("data", {}).get(name)
        return stored if _fits(stored, form) else None

    suffix = f"_data_{name}" if name in TAKEN else f"_{name}"
    return OutputColumn(f"data_{name}", form, value, suffix, in_data(form, "data", name))


def _plain(value: Json) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return f"{len(value):,} object{'s' * (len(value) > 1)}"
    if isinstance(value, float):
        value = round(value, 3)
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _forms_of(fields: Mapping[str, type]) -> Mapping[str, Form]:
    return {name: _FORMS[_NAMES[type_]] for name, type_ in fields.items()}


def _in_order(items: Iterable[Mapping[str, Any]], fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """Return the items with their fields in this order, which PostgreSQL does not keep."""
    return [{name: item[name] for name in fields} for item in items]


def _items_of(stored: Stored, key: str, fields: Mapping[str, type]) -> Sequence[Mapping[str, Any]] | None:
    """Return the list under a key of an output's data; None unless it is one of objects with just these fields."""
    items = stored.data.get(key) if isinstance(stored.data, dict) else None
    if stored.vector is not None or not isinstance(items, list):
        return None
    right = all(
        isinstance(item, dict)
        and item.keys() == fields.keys()
        and all(isinstance(item[name], type_) for name, type_ in fields.items())
        for item in items
    )
    return items if right else None


def _line_of(items: Iterable[str]) -> str:
    shown = list(items)
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else "")


def _form_of(schema: Json, root: Mapping[str, Json]) -> Form:
    """Return the form of a property's values; JSON where its schema allows values of several types.

    References of ``schema`` lead into ``root``.
    """
    named = _types(schema, root)
    if named == {"array"} and _types(_follow(schema, root).get("items"), root) == {"string"}:
        return Form.TEXTS
    return _FORMS.get(named.pop(), Form.JSON) if len(named) == 1 else Form.JSON


def _fits(value: Json, form: Form) -> bool:
    """Return True if a property's value is one of the form."""
    return form is Form.JSON or (isinstance(value, _TYPES[form]) and (form is Form.BOOLEAN) == (type(value) is bool))


def _types(schema: Json, root: Mapping[str, Json], depth: int = _DEEPEST) -> set[str]:
    """Return the types of values that a schema allows, as far as it says; null is left out."""
    target = _follow(schema, root)
    if "enum" in target or "const" in target:
        values = target.get("enum", [target.get("const")])
        return {_NAMES.get(type(value), _ANY) for value in _listed(values)} - {"null"}
    if "type" in target:
        named = target["type"]
        return {*map(str, named if isinstance(named, list) else [named])} - {"null"}
    several = target.get("anyOf") or target.get("oneOf")
    inner = (_types(alternative, root, depth - 1) for alternative in _listed(several)) if depth else ()
    return {name for names in inner for name in names} or {_ANY}


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _follow(schema: Json, root: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return the schema that references lead to; an empty one where they lead to none."""
    target = schema
    for _ in range(_DEEPEST):
        if not isinstance(target, dict):
            break
        reference = target.get("$ref")
        if not isinstance(reference, str):
            return target
        target = {**root}
        for key in reference.removeprefix("#/").split("/"):
            name = key.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
    return {}


TEXT, VECTOR, WEIGHTS, LABELS = _Text(), _Vector(), _Weights(), _Labels()
SPANS, RECORD, REDACTED = _Spans(), _Record(), _Redacted()
OUTPUT_TYPES: tuple[OutputType, ...] = (TEXT, VECTOR, WEIGHTS, LABELS, SPANS, RECORD, REDACTED)
