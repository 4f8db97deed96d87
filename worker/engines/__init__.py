"""Engines made from the settings, with their devices, models and measured throughput."""
