"""Columns of tables of results: their names, the types of their values, and how a view selects them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause

Result: TypeAlias = Mapping[str, Any]  # a result as `storage.results.results` gives it
AnyColumn = TypeVar("AnyColumn", bound="Column")


class Form(Enum):
    """The type of a column's values."""

    TEXT = auto()
    TEXTS = auto()
    INTEGER = auto()
    NUMBER = auto()
    BOOLEAN = auto()
    VECTOR = auto()  # (dim,) or (windows, dim), written row after row
    OFFSETS = auto()  # [[start, end], …]
    LABELS = auto()
    WEIGHTS = auto()
    SPANS = auto()
    REPLACEMENTS = auto()
    SENTENCES = auto()
    JSON = auto()

    def arrow(self) -> Any:
        """Return the type in pyarrow, which must be installed."""
        import pyarrow as pa

        text, integer, number = pa.string(), pa.int64(), pa.float64()
        place = {"text": text, "start": integer, "end": integer}
        span = {"label": text, **place}
        types = {
            Form.TEXTS: pa.list_(text),
            Form.INTEGER: integer,
            Form.NUMBER: number,
            Form.BOOLEAN: pa.bool_(),
            Form.VECTOR: pa.list_(pa.float32()),
            Form.OFFSETS: pa.list_(pa.list_(integer)),
            Form.LABELS: pa.list_(pa.struct({"label": text, "score": number})),
            Form.WEIGHTS: pa.list_(pa.struct({"token": text, "token_id": integer, "weight": number})),
            Form.SPANS: pa.list_(pa.struct({**span, "score": number})),
            Form.REPLACEMENTS: pa.list_(
                pa.struct({**span, "source_start": integer, "source_end": integer, "score": number})
            ),
            Form.SENTENCES: pa.list_(pa.struct({**place, "score": number})),
            Form.JSON: pa.json_(),
        }
        return types.get(self, text)


@dataclass(frozen=True)
class Column:
    """A column of a table. `value` takes it out of a result."""

    name: str
    form: Form
    value: Callable[[Result], Any]

    @classmethod
    def of(cls, key: str, form: Form) -> Column:
        """Return the column of a result's `key`."""
        return cls(key, form, lambda result: result.get(key))

    def in_step(self, step: str, name: str) -> Column:
        """Return the column under another name in a table of several steps, whose rows have a result by step."""
        return Column(name, self.form, lambda results: self.value(results["steps"].get(step, {})))


@dataclass(frozen=True)
class OutputColumn(Column):
    """A column of an output. Its name after that of a step is STEP + `suffix`; None leaves it out there.

    `sql` selects its value from a row of outcomes in a view; None leaves it out there. `stored` is the place of its
    value in a row of outcomes: a column, and keys in its JSON; empty if only `value` can make it.
    """

    suffix: str | None = None
    sql: Callable[[FromClause], ColumnElement[Any]] | None = None
    stored: tuple[str | int, ...] = ()

    def of_step(self, step: str) -> Column:
        """Return the column in a table of several steps."""
        assert self.suffix is not None
        return self.in_step(step, step + self.suffix)


def row_of(columns: Sequence[Column], result: Result) -> dict[str, Any]:
    """Return a row of a table with these columns."""
    return {column.name: column.value(result) for column in columns}


def drop_clashing(columns: Iterable[AnyColumn], taken: Iterable[str]) -> list[AnyColumn]:
    """Return the columns whose names are neither taken nor the name of an earlier column."""
    names, kept = {*taken}, list[AnyColumn]()
    for column in columns:
        if column.name not in names:
            names.add(column.name)
            kept.append(column)
    return kept
