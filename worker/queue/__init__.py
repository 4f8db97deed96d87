"""Celery and Redis: messages, the broker, the dispatcher. Nothing else knows either library."""
