"""Keep the shards that a device process holds, and count the seconds in which it holds any."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from docmill.storage.leases.shards import Claim, Head
from docmill.tasks.engine.engine import Submission


@dataclass
class InFlight:
    """A shard of ours, from its claim to its commit."""

    head: Head
    claim: Claim
    ticket: Submission | None = None
    runtime: Mapping[str, Any] = field(default_factory=dict)
    lost: threading.Event = field(default_factory=threading.Event)
    kept: set[int] = field(default_factory=set)  # contents whose outcomes are stored before the shard ends


class ShardsInFlight:
    """The claims that the threads of one device process work on.

    A process that lost a shard may claim it again before the thread of its first claim has noticed. So a claim is
    found by its shard and its fence, and the end of the first leaves the second alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[tuple[int, int], InFlight] = {}
        self._worked_s = 0.0
        self._working_since = 0.0

    def __bool__(self) -> bool:
        return bool(self._claims)

    def enter(self, ours: InFlight) -> None:
        """Hold a claim from now on."""
        with self._lock:
            if not self._claims:
                self._working_since = time.monotonic()
            self._claims[ours.claim.shard_id, ours.claim.fence] = ours

    def leave(self, ours: InFlight) -> None:
        """Hold a claim no longer."""
        with self._lock:
            del self._claims[ours.claim.shard_id, ours.claim.fence]
            if not self._claims:
                self._worked_s += time.monotonic() - self._working_since

    def held(self) -> list[InFlight]:
        """Return the claims that are held now."""
        with self._lock:
            return list(self._claims.values())

    def worked_s(self) -> tuple[float, bool]:
        """Return the seconds in which any claim was held, until now, and True if none is held."""
        with self._lock:
            if not self._claims:
                return self._worked_s, True
            return self._worked_s + time.monotonic() - self._working_since, False
