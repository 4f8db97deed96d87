"""Metrics in the format of Prometheus: of the fleet, from the store, and of each worker."""
