"""The types of outputs that a task can have, and everything that follows from a type."""

from __future__ import annotations

from typing import Any


class OutputType:
    """The type of a kind's outputs. `plural` names them in messages."""

    name: str
    plural: str
    feeds_steps = False  # whether a later step can read such an output

    def __repr__(self) -> str:
        return self.name.upper()

    def column(self, step: str) -> str:
        """Return the name of the first column of a step in tables and views."""
        return f"{step}_{self.name}"

    def shown(self, result: dict[str, Any]) -> str:
        """Return one line about a result (see `storage.export.results`) for a terminal."""
        raise NotImplementedError


class _Text(OutputType):
    name = "text"
    plural = "texts"
    feeds_steps = True

    def column(self, step: str) -> str:
        return step

    def shown(self, result: dict[str, Any]) -> str:
        return result["text"] or ""


class _Vector(OutputType):
    name = "vector"
    plural = "vectors"

    def shown(self, result: dict[str, Any]) -> str:
        import numpy as np

        vector: Any = np.atleast_2d(result["vector"])
        numbers = " ".join(f"{value:+.3f}" for value in vector[0][:6])
        windows = f"{len(vector)} windows × " if len(vector) > 1 else ""
        return f"{windows}{vector.shape[1]} numbers: {numbers} …"


class _Labels(OutputType):
    name = "labels"
    plural = "labels"

    def column(self, step: str) -> str:
        return step


class _Spans(OutputType):
    name = "spans"
    plural = "spans"


class _Record(OutputType):
    name = "record"
    plural = "records"


TEXT, VECTOR, LABELS, SPANS, RECORD = _Text(), _Vector(), _Labels(), _Spans(), _Record()
OUTPUT_TYPES: tuple[OutputType, ...] = (TEXT, VECTOR, LABELS, SPANS, RECORD)
