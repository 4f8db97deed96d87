"""Processes of docmill: command line, settings, queue, supervisor and device processes, maintenance, pipelines."""
