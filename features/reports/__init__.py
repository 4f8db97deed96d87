"""Write a page about a job, for people who do not use the command line.

The marks on its examples are those of `docmill web` (`worker/web`).
"""

from docmill.storage.features import RESULTS, Command, Feature

FEATURE = Feature(
    "reports",
    commands={
        "report": Command(
            RESULTS, "Write a page about a job: cost, flags, failures, examples.", "docmill.features.reports.command"
        )
    },
)
