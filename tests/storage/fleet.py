"""Four steps, and a fleet that computes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Reason, Spec, Status
from docmill.storage.leases.shards import Claim
from docmill.storage.results.status import JobStatus, read_status
from docmill.storage.steps import jobs
from docmill.storage.steps.jobs import JobRequest, OpenJob
from docmill.storage.steps.steps import StepRequest
from tests.storage.builders import EMBED, TRANSLATE, Text, finish, read, request, shard, work

SUMMARIZE = Spec("summarize", "synopsis", "sha256:3")
STEPS = (
    StepRequest("english", TRANSLATE),
    StepRequest("line", SUMMARIZE, "english"),
    StepRequest("vector", EMBED, "line"),
    StepRequest("original", EMBED),
)


def pipeline(source: str = "a.jsonl", steps: Sequence[StepRequest] = STEPS, **more: Any) -> JobRequest:
    """Return a request for a job of the four steps, or of others."""
    return request(source, steps=steps, **more)


class Fleet:
    """Computes every claim: the output of a step is its kind, with the text in brackets."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.computed: Counter[tuple[str, str]] = Counter()
        self.fails: Callable[[str, str], bool] = lambda kind, text: False

    def outcomes(self, claim: Claim) -> list[Outcome]:
        kind = str(shard(self._database, claim.shard_id).lane)
        return [self._outcome(kind, content_id, text) for content_id, text in claim.texts]

    def _outcome(self, kind: str, content_id: int, text: str) -> Outcome:
        self.computed[kind, text] += 1
        if self.fails(kind, text):
            return Outcome(content_id, Status.FAILED, reason="it would not", reason_class=Reason.DOCUMENT)
        if kind == "embed":
            return Outcome(content_id, Status.DONE, vector=b"\0\0\x80?")
        return Outcome(content_id, Status.DONE, text=f"{kind}({text})")

    def work(self) -> int:
        return work(self._database, self.outcomes)

    def finish(self) -> None:
        """Work until nothing is left, and end the jobs."""
        finish(self._database, self.outcomes)

    def end(self, job: OpenJob) -> JobStatus:
        """Work until nothing is left, and return the status of the job, which is done."""
        self.work()
        return finish_job(self._database, job)

    def run_job(self, job_request: JobRequest, texts: Sequence[Text]) -> OpenJob:
        """Read a source of these texts into a job, and work it off."""
        job = read(self._database, job_request, texts)
        self.finish()
        assert read_status(self._database, job.id).state == "done"
        return job


def finish_job(database: Database, job: OpenJob) -> JobStatus:
    """End a job whose work is done, and return its status."""
    jobs.finish(database, job.id)
    status = read_status(database, job.id)
    assert status.state == "done"
    return status
