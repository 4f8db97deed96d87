"""Compute a corpus with another model, and switch to its results.

Which model answers for a corpus stays in `storage/steps/replacements.py` and the store's schema: search, `docmill
results`, runs of pipelines and garbage collection go by it.
"""

from docmill.storage.features import CORPORA, Command, Feature

FEATURE = Feature(
    "migrating",
    commands={
        "migrate": Command(
            CORPORA,
            "Compute a corpus with another model, and switch to its results.",
            "docmill.features.migrating.command",
        )
    },
)
