"""Show how docmill computed one result, on the command line, in Python and as a page of `docmill web`."""

from docmill.storage.features import RESULTS, Command, Feature

FEATURE = Feature(
    "explaining",
    commands={
        "explain": Command(RESULTS, "Show how docmill computed one result.", "docmill.features.explaining.command")
    },
    pages=("docmill.features.explaining.web:PAGE",),
)
