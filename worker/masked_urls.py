"""URLs as they may be shown, without their passwords."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit


def mask(url: str) -> str:
    """A URL as it may be shown: its passwords replaced, in its query too."""
    parts = urlsplit(url)
    query = re.sub(r"(?i)(^|&)([^=&]*password)=[^&]*", r"\1\2=***", parts.query)
    netloc = parts.netloc
    if parts.password:
        netloc = f"{parts.username or ''}:***@{netloc.rpartition('@')[2]}"
    if (query, netloc) == (parts.query, parts.netloc):
        return url
    return urlunsplit(parts._replace(netloc=netloc, query=query))
