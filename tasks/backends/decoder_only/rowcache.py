"""The keys and values of many texts at different places in them, all with their last token in the last column.

Aligned so, a text of any length joins by being written beside the others, one that is done leaves by a single copy of
another row into its place, and what only it needed at the left is cut off without a copy. Distances between columns
are distances between tokens, as sliding windows want it. The win of the loop that uses it is recorded in
bench/results/generate.md.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

_SLACK_COLUMNS = 64


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: ``rows`` of them, in the columns from ``start`` to ``end`` of larger buffers."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.rows = rows
        self.start = self.end = 0
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Append columns; all there are now."""
        self.rows = key_states.shape[0]
        self._reserve(key_states, value_states, self.rows, self.end - self.start + key_states.shape[-2])
        assert self._keys is not None
        assert self._values is not None
        added = slice(self.end, self.end + key_states.shape[-2])
        self._keys[: self.rows, :, added] = key_states
        self._values[: self.rows, :, added] = value_states
        self.end = added.stop
        self.is_initialized = True
        return self.view(self._keys), self.view(self._values)

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer[: self.rows, :, self.start : self.end]

    def get_seq_length(self) -> int:
        return self.end - self.start

    def drop(self, row: int) -> None:
        """The last row takes the place of this one."""
        self.rows -= 1
        for buffer in (self._keys, self._values):
            assert buffer is not None
            if row != self.rows:
                buffer[row, :, self.start : self.end] = buffer[self.rows, :, self.start : self.end]

    def join(self, other: RowLayer) -> None:
        """Add the rows of another."""
        assert other._keys is not None
        assert other._values is not None
        columns, rows = other.get_seq_length(), self.rows + other.rows
        self._reserve(other._keys, other._values, rows, max(columns, self.end - self.start), at_left=True)
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            assert mine is not None
            mine[self.rows : rows, :, self.end - columns : self.end] = other.view(theirs)
        self.start = min(self.start, self.end - columns)
        self.rows = rows

    def lead(self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> None:
        """Begin with the columns of one text, shared by all rows: ``places`` (rows, columns) says which go where."""
        self.rows, columns = places.shape
        self._reserve(keys, values, self.rows, columns)
        for buffer, shared in ((self._keys, keys), (self._values, values)):
            assert buffer is not None
            buffer[: self.rows, :, :columns] = shared[0, :, places].transpose(0, 1)
        self.end = columns
        self.is_initialized = True

    def first(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as they stand, each of shape (rows, heads, columns, dim)."""
        assert self._keys is not None
        assert self._values is not None
        return self.view(self._keys), self.view(self._values)

    def _reserve(
        self, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int, *, at_left: bool = False
    ) -> None:
        """Make room for so many rows and for so many columns from ``start``, or up to ``end``."""
        if self._keys is not None:
            room = self.end if at_left else self._keys.shape[-2] - self.start
            if rows <= self._keys.shape[0] and columns <= room:
                return
        now = self.end - self.start
        begin = columns - now if at_left else 0
        room = columns + _SLACK_COLUMNS
        kept_rows = max(rows, 0 if self._keys is None else self._keys.shape[0])
        grown = []
        for old, like in ((self._keys, keys), (self._values, values)):
            new = like.new_zeros((kept_rows, like.shape[1], room, like.shape[-1]))
            if old is not None:
                new[: old.shape[0], :, begin : begin + now] = old[:, :, self.start : self.end]
            grown.append(new)
        self._keys, self._values = grown
        self.start, self.end = begin, begin + now


class RowCache(Cache):  # type: ignore[misc]
    """A cache for ``transformers`` models, layer by layer as they ask for them."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RowLayer)

    @property
    def columns(self) -> int:
        return int(self.get_seq_length())

    def trim(self, columns: int) -> None:
        """Keep only the last columns."""
        for layer in self._layers():
            layer.start = layer.end - columns

    def drop(self, row: int) -> None:
        for layer in self._layers():
            layer.drop(row)

    def join(self, other: RowCache) -> None:
        for mine, theirs in zip(self._layers(), other._layers(), strict=True):
            mine.join(theirs)

    def leading(self, places: torch.Tensor) -> RowCache:
        """A cache whose rows begin with parts of this one's only row: ``places`` (rows, columns) says with which."""
        led = RowCache()
        for layer in self._layers():
            new = RowLayer()
            new.lead(*layer.first(), places)
            led.layers.append(new)
        return led

    def _layers(self) -> list[RowLayer]:
        return cast("list[RowLayer]", self.layers)
