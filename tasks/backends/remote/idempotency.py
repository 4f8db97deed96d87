"""The `Idempotency-Key` of a request, by which a server knows a request that it has already answered."""

from __future__ import annotations

import hashlib
import secrets

from docmill.storage.core.specs import Spec

HEADER = "Idempotency-Key"


class RequestKey:
    """The key of one request. It is the same for the same request under the same spec, in any process.

    After an answer that is no success, `renew` changes it: servers repeat such answers, too. A new key is random.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec.sha256
        self._renewed = b""

    def headers(self, path: str, body: bytes) -> dict[str, str]:
        """Return the header for a request with this path and this body."""
        whole = hashlib.sha256(self._spec + path.encode() + b"\0" + body + self._renewed)
        return {HEADER: f"docmill-{whole.hexdigest()[:40]}"}

    def renew(self) -> None:
        """Let later requests be new ones for the server."""
        self._renewed = secrets.token_bytes(16)
