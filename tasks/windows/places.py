"""The places of a window's tokens in a text."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Places:
    """The places of the tokens of a window, without special ones: an entry for each in ``starts`` and ``ends``.

    Token number i stands at ``[starts[i], ends[i])`` in the text, in characters. ``inside[i]`` is 1 if it goes on
    with the word of the token before. ``leading`` is how many special tokens come before them in the window, and
    ``first`` how many tokens of the text.
    """

    leading: int
    starts: array[int]
    ends: array[int]
    inside: array[int]
    first: int = 0

    def __len__(self) -> int:
        return len(self.starts)
