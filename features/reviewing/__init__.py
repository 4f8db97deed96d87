"""Judge samples of outputs, and estimate the share of good ones.

The judgements and fitted risks stay in `storage/reviews` and the store's schema: escalation and `docmill results`
read fitted risks.
"""

from docmill.worker.features import RESULTS, Command, Feature

FEATURE = Feature(
    "reviewing",
    commands={
        "review": Command(
            RESULTS,
            "Judge a sample of outputs; estimate the share of good ones.",
            "docmill.features.reviewing.command",
        )
    },
)
