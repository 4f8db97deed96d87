"""Choose the spec that the device works on next."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def next_turn(oldest: Mapping[Key, int], current: Key | None, *, worked_s: float, turn_s: float) -> Key | None:
    """The spec whose oldest waiting window is oldest; but the current one stays until its turn is over.

    ``oldest`` has the arrival number of the oldest window of each spec that has any waiting. Without turns,
    two shards of different specs would swap the device's caches at each batch.
    """
    if not oldest:
        return None
    if current in oldest and worked_s < turn_s:
        return current
    return min(oldest, key=lambda key: oldest[key])
