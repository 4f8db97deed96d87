"""Secrets of one server: tokens of forms, signed sentences, and the cookie of a browser that has signed in."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from hashlib import sha256

LEAST_TOKEN = 16  # characters


def generated_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def same(given: str, expected: str) -> bool:
    """Compare two secrets in a time that says nothing of where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def session_of(token: str) -> str:
    """Return the cookie of a browser that gave the token. The token cannot be found from it."""
    return hmac.new(token.encode(), b"docmill web session", sha256).hexdigest()


class Signer:
    """Signs with a key of its own, so that nothing from before a restart is taken."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self.form_token = self._mac("form")

    def sign(self, text: str) -> str:
        """Return a text with its signature, in characters that a cookie may have."""
        return f"{base64.urlsafe_b64encode(text.encode()).decode()}.{self._mac(f'said {text}')}"

    def signed(self, value: str) -> str | None:
        """Return the text that was signed here; None if the signature is wrong."""
        body, _, mac = value.partition(".")
        try:
            text = base64.urlsafe_b64decode(body.encode()).decode()
        except (binascii.Error, ValueError):
            return None
        return text if same(mac, self._mac(f"said {text}")) else None

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), sha256).hexdigest()
