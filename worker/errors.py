"""Errors of settings, queues and messages.

WorkerError
├── SettingsError        settings that are unknown or bad, all of them at once
├── BrokerUnreachable    no Redis, or one that refuses
├── EmbeddedServerError  the embedded Redis-protocol server does not start here
├── ReviewRefused        a judged file that cannot be taken
└── BadMessage           a message that is not of this protocol
"""

from __future__ import annotations


class WorkerError(Exception):
    """The worker could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class SettingsError(WorkerError):
    """Some settings are unknown or bad."""


class BrokerUnreachable(WorkerError):
    """Redis cannot be reached."""


class EmbeddedServerError(WorkerError):
    """The embedded Redis-protocol server does not start on this machine; set DOCMILL_REDIS_URL to one that runs."""


class ReviewRefused(WorkerError):
    """The judged file cannot be taken."""


class BadMessage(WorkerError):
    """The message is not one of docmill's."""
