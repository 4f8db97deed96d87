"""Find near duplicates in a corpus, by their words or by their vectors, and leave them out of steps.

The core finds the filter by its name (`storage/steps/conditions.py`), and calls the feature when it removes documents
(`storage/deletion/needed.py`).
"""

from docmill.storage.extras import Extra
from docmill.storage.features import CORPORA, Command, Feature

LIBRARY = Extra("dedup", ("rensa", "scipy"), "near duplicates")
FEATURE = Feature(
    "near_duplicates",
    commands={
        "dedup": Command(
            CORPORA,
            "Find near duplicates, and put them into clusters.",
            "docmill.features.near_duplicates.command",
        )
    },
    extras=(LIBRARY,),
    filters={"near-duplicates": "docmill.features.near_duplicates.clusters:FILTER"},
    tables=("docmill.features.near_duplicates.tables:METADATA",),
    worker_rights={"duplicate": ("SELECT",)},
    order_rights={
        "deduplication": ("SELECT", "INSERT", "UPDATE"),
        "duplicate": ("SELECT", "INSERT", "UPDATE", "DELETE"),
        "signature": ("SELECT", "INSERT"),
    },
    dependents=("docmill.features.near_duplicates.tables:DEPENDENT",),
)
