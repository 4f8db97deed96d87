"""Show how one result came to be, on the command line, in Python and as a page of `docmill web`."""

from docmill.storage.features import RESULTS, Command, Feature

FEATURE = Feature(
    "explaining",
    commands={"explain": Command(RESULTS, "Show how one result came to be.", "docmill.features.explaining.command")},
    pages=("docmill.features.explaining.web:PAGE",),
)
