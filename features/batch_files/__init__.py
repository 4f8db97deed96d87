"""Carry out files of requests in OpenAI's batch format."""

from docmill.storage.features import ADVANCED, Command, Feature

FEATURE = Feature(
    "batch_files",
    commands={
        "batch": Command(
            ADVANCED, "Carry out a file of requests in OpenAI's batch format.", "docmill.features.batch_files.command"
        )
    },
    writers=("docmill.features.batch_files.writer:WRITER",),
)
