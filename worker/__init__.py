"""The running process: settings, Celery app, supervisor and device processes, top-up and upkeep, command line."""
