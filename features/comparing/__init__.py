"""Compare the results of two jobs."""

from docmill.storage.features import RESULTS, Command, Feature

FEATURE = Feature(
    "comparing",
    commands={
        "compare": Command(
            RESULTS, "Compare the results of two jobs over a corpus.", "docmill.features.comparing.command"
        )
    },
)
