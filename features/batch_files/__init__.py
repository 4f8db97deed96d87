"""Carry out files of requests in OpenAI's batch format: `docmill batch`, and `docmill serve` for OpenAI's clients.

The command and the server are one feature. They read the same lines into the same jobs and write the same answers,
which nothing else of docmill needs: as two features they would have to share all of that through the core.
"""

from docmill.storage.extras import Extra
from docmill.storage.features import ADVANCED, FLEET, Command, Feature

SERVER = Extra("server", ("multipart", "starlette", "uvicorn"), "`docmill serve`: a Batch API of your own")
FEATURE = Feature(
    "batch_files",
    commands={
        "batch": Command(
            ADVANCED, "Carry out a file of requests in OpenAI's batch format.", "docmill.features.batch_files.command"
        ),
        "serve": Command(FLEET, "Serve OpenAI's Batch API.", "docmill.features.batch_files.serve_command"),
        "keys": Command(
            FLEET, "Make, list and revoke the keys of `docmill serve`.", "docmill.features.batch_files.serve_command"
        ),
    },
    writers=("docmill.features.batch_files.writer:WRITER",),
    tables=("docmill.features.batch_files.ledger:ServerTable.metadata",),
    extras=(SERVER,),
)
