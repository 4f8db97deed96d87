"""Engines as the settings want them: their devices, their models, their measured throughput."""
