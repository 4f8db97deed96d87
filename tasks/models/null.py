"""The model that computes nothing, by its name: ``null``, or ``null@N`` at a pace of N tokens a second.

It is for measuring what stands around a model, and for tests of faults; ``tasks.backends.null`` carries it out.
"""

from __future__ import annotations

import re

from docmill.tasks.errors import ModelNotFound

NAME = "null"
# Its files, so to speak: another number when its outputs change.
REVISION = "null:1"

_PACED = re.compile(rf"{NAME}@([1-9][0-9]{{0,11}})")


def is_null(model: str) -> bool:
    """Return True if a model's name means this model, even if its pace is malformed."""
    return model == NAME or model.startswith(f"{NAME}@")


def tokens_per_s(model: str) -> int | None:
    """The pace that the name asks for, or None for as fast as can be; raises ModelNotFound."""
    if model == NAME:
        return None
    match = _PACED.fullmatch(model)
    if match is None:
        raise ModelNotFound(
            f"There is no model {model}: null@N pretends to compute N tokens a second, a whole number such as "
            "null@2000, and null alone is as fast as it can be."
        )
    return int(match.group(1))
