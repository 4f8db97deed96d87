"""Watch jobs and workers in the terminal."""

from docmill.storage.extras import Extra
from docmill.storage.features import FLEET, Command, Feature

LIBRARY = Extra("top", ("textual",), "`docmill top`: a live view in the terminal")
FEATURE = Feature(
    "top",
    commands={
        "top": Command(
            FLEET, "Watch jobs, lanes, workers and failures in the terminal.", "docmill.features.top.command"
        )
    },
    extras=(LIBRARY,),
)
