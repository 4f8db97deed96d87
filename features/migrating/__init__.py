"""Compute a corpus with another model, and switch to its results.

Which model answers for a corpus stays in `storage/steps/replacements.py` and the store's schema: search, `docmill
results`, runs of pipelines and garbage collection go by it. Refusals
(`worker/jobs/submission.py`) and the diagnosis of a job that waits (`storage/leases/diagnosis.py`) name the command
that helps.
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
