"""Models that have no files here: `null`, which computes nothing, `patterns`, and those that a server computes.

`patterns` finds personal data by its form, for kinds of task that can do without a trained model.
"""

from __future__ import annotations

from typing import Any

from docmill.tasks.errors import ModelCorrupt
from docmill.tasks.models import null, served

PATTERNS = "patterns"
PATTERNS_REVISION = "patterns:1"


def is_weightless(model: str) -> bool:
    """Return True if a name means such a model, even if the pace of a null model is malformed."""
    return model == PATTERNS or null.is_null(model) or served.is_served(model)


def config(model: str) -> dict[str, Any]:
    """Return what stands for the config.json of such a model."""
    return dict(served.CONFIG) if served.is_served(model) else {}


def revision(model: str, wanted: str | None = None) -> str:
    """Return the revision of such a model. Raises ModelCorrupt if it is not ``wanted``, and ModelNotFound."""
    if served.is_served(model):
        return served.revision(model, wanted)
    if model == PATTERNS:
        found = PATTERNS_REVISION
    else:
        null.tokens_per_s(model)
        found = null.REVISION
    if wanted not in (None, found):
        raise ModelCorrupt(f"{model} is {found}, not {wanted}.")
    return found
