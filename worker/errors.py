"""Errors of settings, queues and messages.

WorkerError
├── SettingsError      settings that are unknown or bad, all of them at once
├── BrokerUnreachable  no Redis, one that refuses, or an embedded one that does not start here
└── BadMessage         a message that is not of this protocol
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


class BadMessage(WorkerError):
    """The message is not one of docmill's."""
