"""The base of the types of outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from docmill.storage.outputs.columns import Form, OutputColumn, Result

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause

Params = Mapping[str, Any]  # of a spec

# The columns of outcomes that say how sure a model was, which are also keys of results.
CONFIDENCE = ("confidence", "mean_logprob", "least_logprob")


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


class OutputType(ABC):
    """The type of a kind's outputs. `plural` names them in messages; `feeds_steps` if a later step can read them.

    `confidence` has those of `CONFIDENCE` that outputs of the type may have.
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

    def confidence_columns(self, params: Params) -> tuple[OutputColumn, ...]:
        """Return the columns about the confidence of outputs under a spec with these parameters."""
        return tuple(column(name, Form.NUMBER, f"_{name}", stored=(name,)) for name in self.confidence)

    def items(self, params: Params) -> tuple[str, Mapping[str, Form]] | None:
        """Return the key of a list in `data` that has a view with a row for each item, and the items' fields.

        The list is in outputs under a spec with these parameters. None if there is no such list.
        """
        return None

    @abstractmethod
    def shown(self, result: Result) -> str:
        """Return a line about a result for a terminal."""


def column(
    name: str,
    form: Form,
    suffix: str | None = None,
    sql: Callable[[FromClause], ColumnElement[Any]] | None = None,
    *,
    stored: tuple[str | int, ...] = (),
) -> OutputColumn:
    """Return the column of a result's key. A view selects what is `stored`, unless `sql` says something else."""
    if stored and sql is None:
        sql = in_data(form, *stored[1:]) if stored[0] == "data" else _of_outcome(str(stored[0]))
    return OutputColumn(name, form, lambda result: result.get(name), suffix, sql, stored)


def _of_outcome(name: str) -> Callable[[FromClause], ColumnElement[Any]]:
    return lambda outcome: outcome.c[name]


def in_data(form: Form, *keys: str | int) -> Callable[[FromClause], ColumnElement[Any]]:
    """Return the function that selects what is under these keys of an outcome's data."""

    def sql(outcome: FromClause) -> ColumnElement[Any]:
        from docmill.storage.outputs.json_columns import selected  # SQLAlchemy takes long to import

        return selected(outcome.c.data, form, *keys)

    return sql
