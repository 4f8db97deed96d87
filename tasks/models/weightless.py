"""Models that are code of docmill and have no files: `null`, which computes nothing, and `patterns`.

`patterns` finds personal data by its form, for kinds of task that can do without a trained model.
"""

from __future__ import annotations

from tasks.errors import ModelCorrupt
from tasks.models import null

PATTERNS = "patterns"
PATTERNS_REVISION = "patterns:1"


def is_weightless(model: str) -> bool:
    """Return True if a name means such a model, even if the pace of a null model is malformed."""
    return model == PATTERNS or null.is_null(model)


def revision(model: str, wanted: str | None = None) -> str:
    """Return the revision of such a model. Raises ModelCorrupt if it is not ``wanted``, and ModelNotFound."""
    if model == PATTERNS:
        found = PATTERNS_REVISION
    else:
        null.tokens_per_s(model)
        found = null.REVISION
    if wanted not in (None, found):
        raise ModelCorrupt(f"{model} is {found}, not {wanted}.")
    return found
