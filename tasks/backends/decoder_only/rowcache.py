"""The keys and values of many texts at different places in them, all with their last token in the last column.

Aligned so, a text of any length joins by being written beside the others, one that is done leaves by a single copy of
another row into its place, and what only it needed at the left is cut off without a copy. Distances between columns
are distances between tokens, as sliding windows want it. The win of the loop that uses it is recorded in
bench/results/generate.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

_SLACK_COLUMNS = 64


class RowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: ``rows`` of them, in the columns from ``start`` to ``end`` of larger buffers."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.rows = rows
        self.start = self.end = 0
        self._buffers: tuple[torch.Tensor, ...] = ()  # of keys and of values, once there are some

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns; all there are now."""
        self.rows = key_states.shape[0]
        self._reserve((key_states, value_states), self.rows, self.end - self.start + key_states.shape[-2])
        added = slice(self.end, self.end + key_states.shape[-2])
        keys, values = self._buffers
        keys[: self.rows, :, added] = key_states
        values[: self.rows, :, added] = value_states
        self.end = added.stop
        self.is_initialized = True
        return self.view(keys), self.view(values)

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer[: self.rows, :, self.start : self.end]

    def get_seq_length(self) -> int:
        return self.end - self.start

    def drop(self, row: int) -> None:
        """The last row takes the place of this one."""
        self.rows -= 1
        for buffer in self._buffers if row != self.rows else ():
            buffer[row, :, self.start : self.end] = buffer[self.rows, :, self.start : self.end]

    def join(self, other: RowLayer) -> None:
        """Add the rows of another."""
        columns, rows = other.get_seq_length(), self.rows + other.rows
        self._reserve(other._buffers, rows, max(columns, self.end - self.start), at_left=True)
        for mine, theirs in zip(self._buffers, other._buffers, strict=True):
            mine[self.rows : rows, :, self.end - columns : self.end] = other.view(theirs)
        self.start = min(self.start, self.end - columns)
        self.rows = rows

    def leading(self, places: torch.Tensor) -> RowLayer:
        """A layer that begins with columns of this one's only row: ``places`` (rows, columns) says which go where."""
        led = RowLayer(len(places))
        columns = places.shape[1]
        led._reserve(self._buffers, led.rows, columns)
        for buffer, shared in zip(led._buffers, self._buffers, strict=True):
            buffer[: led.rows, :, :columns] = self.view(shared)[0, :, places].transpose(0, 1)
        led.end = columns
        led.is_initialized = True
        return led

    def _reserve(self, likes: Sequence[torch.Tensor], rows: int, columns: int, *, at_left: bool = False) -> None:
        """Make room for so many rows and for so many columns from ``start``, or up to ``end``.

        ``likes`` are keys and values of the same heads, dimensions and type.
        """
        kept_rows = rows
        if self._buffers:
            kept_rows, _, kept_columns, _ = self._buffers[0].shape
            if rows <= kept_rows and columns <= (self.end if at_left else kept_columns - self.start):
                return
        now = self.end - self.start
        begin = columns - now if at_left else 0
        shape = max(rows, kept_rows), columns + _SLACK_COLUMNS
        grown = tuple(like.new_zeros((shape[0], like.shape[1], shape[1], like.shape[-1])) for like in likes)
        for old, new in zip(self._buffers, grown, strict=False):
            new[: old.shape[0], :, begin : begin + now] = old[:, :, self.start : self.end]
        self._buffers = grown
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

    def shorten(self, columns: int) -> None:
        """Forget the last columns."""
        for layer in self._layers():
            layer.end -= columns

    def drop(self, row: int) -> None:
        for layer in self._layers():
            layer.drop(row)

    def join(self, other: RowCache) -> None:
        for mine, theirs in zip(self._layers(), other._layers(), strict=True):
            mine.join(theirs)

    def leading(self, places: torch.Tensor) -> RowCache:
        """A cache whose rows begin with parts of this one's only row: ``places`` (rows, columns) says with which."""
        led = RowCache()
        led.layers = [layer.leading(places) for layer in self._layers()]
        return led

    def _layers(self) -> list[RowLayer]:
        return cast("list[RowLayer]", self.layers)
