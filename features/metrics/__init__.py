"""Metrics in the format of Prometheus: of the fleet, from the store, and of each worker.

Two parts stay in the core. A worker counts its work where it is done, in `worker/process/counts.py`. The address of a
worker's metrics is a setting (`DOCMILL_METRICS_PORT`), since only `worker/settings.py` reads the environment.
"""

from docmill.storage.extras import Extra
from docmill.storage.features import ADVANCED, Command, Feature

LIBRARY = Extra("metrics", ("prometheus_client",), "metrics for Prometheus")
FEATURE = Feature(
    "metrics",
    commands={
        "metrics": Command(ADVANCED, "Serve the fleet's metrics to Prometheus.", "docmill.features.metrics.command")
    },
    extras=(LIBRARY,),
    services=("docmill.features.metrics.serving:serve_beside",),
)
