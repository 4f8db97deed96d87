"""Compute a corpus with another model, and switch to its results.

The core keeps the model that answers for a corpus (`storage/steps/replacements.py` and the table `replacement`):
search, `docmill results`, runs of pipelines and garbage collection depend on it. Remarks on a new job
(`worker/jobs/submission.py`) and the diagnosis of a job that waits (`storage/leases/diagnosis.py`) name the command.
"""

from docmill.storage.features import ADVANCED, Command, Feature

FEATURE = Feature(
    "migrating",
    commands={
        "migrate": Command(
            ADVANCED,
            "Compute a corpus with another model, and switch to its results.",
            "docmill.features.migrating.command",
        )
    },
)
