"""OpenAI's Batch API: `docmill serve` for OpenAI's clients, and `docmill batch` for one file without a server.

Both read the same lines into the same jobs, and write the same answers.
"""

from docmill.storage.extras import Extra
from docmill.storage.features import ADVANCED, FLEET, Command, Feature

SERVER = Extra("server", ("multipart", "starlette", "uvicorn"), "`docmill serve`: a Batch API of your own")
FEATURE = Feature(
    "batch_server",
    commands={
        "batch": Command(
            ADVANCED, "Carry out a file in OpenAI's batch format.", "docmill.features.batch_server.command"
        ),
        "serve": Command(FLEET, "Serve OpenAI's Batch API.", "docmill.features.batch_server.serve_command"),
        "keys": Command(
            FLEET, "Make, list and revoke the keys of `docmill serve`.", "docmill.features.batch_server.serve_command"
        ),
    },
    writers=("docmill.features.batch_server.writer:WRITER",),
    tables=("docmill.features.batch_server.stored_batches:ApiBatch.metadata",),
    extras=(SERVER,),
)
