"""The documents that a search covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from docmill.storage.core.specs import Spec
from docmill.storage.steps.steps import OpenStep


@dataclass(frozen=True)
class Searched:
    """The current documents of a corpus, searched by their vectors under one spec.

    `job_id` is the job with the spec, and `way` are the steps from the documents to it. `others` are the corpus's
    other embed jobs, one for each spec.
    """

    corpus_id: int
    n_documents: int
    job_id: int
    way: tuple[OpenStep, ...]
    spec: Spec
    others: tuple[str, ...]

    @property
    def spec_id(self) -> int:
        return self.way[-1].spec_id


class Placed(NamedTuple):
    """A document, and the content of it that was embedded; 0 if none was."""

    id: int
    content_id: int
