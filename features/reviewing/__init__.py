"""Judge samples of outputs, and estimate the share of good ones.

Fitted risks stay in the core (`storage/steps/fitted_risks.py`): escalation and `docmill results`
(`worker/cli/commands/results.py`) read them, and say how to fit them.
"""

from docmill.storage.extras import Extra
from docmill.storage.features import RESULTS, Command, Feature

LIBRARY = Extra("review", ("scipy", "sklearn"), "estimates from judgements, and fitted risks")
FEATURE = Feature(
    "reviewing",
    commands={
        "review": Command(
            RESULTS,
            "Judge a sample of outputs; estimate the share of good ones.",
            "docmill.features.reviewing.command",
        )
    },
    tables=("docmill.features.reviewing.judgements:Judgement.metadata",),
    dependents=("docmill.features.reviewing.judgements:DEPENDENT",),
    extras=(LIBRARY,),
)
