"""The type of values that JSON has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

# Values that are read and not changed may be of narrower types.
GivenJson: TypeAlias = "Mapping[str, GivenJson] | Sequence[GivenJson] | str | int | float | bool | None"
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
