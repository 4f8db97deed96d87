"""The start of tracing, where the settings ask for it."""

from __future__ import annotations

import logging
from importlib.metadata import version

from docmill.tasks import tracing
from docmill.worker.settings import Settings

log = logging.getLogger("docmill.traces")

MISSING = "OpenTelemetry is not installed; pip install 'docmill[opentelemetry]'"


def start(settings: Settings, **resource: str) -> None:
    """Send this process's spans to the collector in the settings, if there is one."""
    if settings.traces_endpoint is None:
        return
    try:
        tracing.start(settings.traces_endpoint, version("docmill"), **resource)
    except ImportError:
        log.warning("traces_off reason=%r", MISSING)
