"""Watch jobs and workers in the terminal."""

from docmill.storage.features import FLEET, Command, Feature

FEATURE = Feature(
    "top",
    commands={"top": Command(FLEET, "Watch jobs, lanes and workers in the terminal.", "docmill.features.top.frame")},
)
