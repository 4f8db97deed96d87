"""A job with failures, flags and hostile texts, for the tests of its pages."""

from __future__ import annotations

from collections.abc import Sequence

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.leases.shards import Claim
from tests.storage.builders import finish, read, request

SUMMARIZE = Spec("summarize", "bart", "sha256:1")
SCRIPT = '<script>alert(1)</script> \u202e"onload=x \x1b[31m'
HOSTILE = '<img src=x onerror=alert(1)> \u202eabc\x1b[31m "'


def assert_harmless(page: str) -> None:
    """Assert that nothing of the hostile texts is a tag, or steers how text is shown."""
    for part in ("<script>alert", "<img src=x", "\u202e", "\x1b"):
        assert part not in page


def outcomes(claim: Claim) -> Sequence[Outcome]:
    """Fail texts that begin with F, for a passing reason those that begin with FT; flag those that begin with D."""
    return [_outcome(content_id, text) for content_id, text in claim.texts]


def _outcome(content_id: int, text: str) -> Outcome:
    if text.startswith("F"):
        passing = text.startswith("FT")
        reason = "the server answered 503" if passing else f"{HOSTILE} has {len(text)} tokens"
        of = Reason.TRANSIENT if passing else Reason.DOCUMENT
        return Outcome(content_id, Status.FAILED, reason=reason, reason_class=of)
    flags = ("numbers_changed",) if text.startswith("D") else ("windowed",) if text.startswith("W") else ()
    return Outcome(content_id, Status.DONE, text=f"Output {HOSTILE} 99", flags=flags, tokens_in=3, tokens_out=2)


def marked_job(database: Database, *, doubtful: int = 2) -> int:
    """Compute a job of a few texts to its end."""
    texts = [
        *((f"d{n}", f"D{n} in 1914") for n in range(doubtful)),
        *(("f1", "F short"), ("f2", "F longer"), ("t1", "FT one")),
        *(("w1", "W one"), (HOSTILE, "plain")),
    ]
    job = read(database, request(corpus="letters", spec=SUMMARIZE), texts)
    finish(database, outcomes)
    return job.id
