"""Notes on settings for docs/settings.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """The text of docs/settings.md on a setting, in place of its type or default."""

    default: str = ""
    choices: tuple[str, ...] = ()
    values: str = ""
