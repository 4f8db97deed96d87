"""The queue on Celery and Redis: messages, broker and dispatcher. No other package imports either library."""
