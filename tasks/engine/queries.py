"""Embed queries with the documents' model and settings, and the model's own prompt for queries.

A query is not a document: no job has its spec, and its vector is not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from docmill.storage.core.outcomes import Reason, Status
from docmill.storage.core.specs import Spec
from docmill.tasks.errors import EngineStopped
from docmill.tasks.kinds.embed import check_prompt
from docmill.tasks.models.named_prompts import QUERY
from docmill.tasks.outputs import Failure, Vector

if TYPE_CHECKING:
    from docmill.tasks.engine.engine import Engine

Embed = Callable[[Spec, Sequence[str]], list[Vector | Failure]]  # `embed` by an engine, wherever that is


def query_spec(spec: Spec) -> Spec:
    """The spec under which queries to vectors of an embed spec are embedded.

    A query longer than the window is the mean of its windows, also where documents keep all of theirs.
    """
    params = {name: value for name, value in spec.params.items() if name != "windows"}
    return replace(spec, params={**params, "side": QUERY})


def prompted(spec: Spec, prompt: str | None, prompt_name: str | None) -> Spec:
    """Return an embed spec whose queries get this prompt, or the one of this name in the model's files.

    Raises BadOption for a prompt that no embedding model reads.
    """
    if prompt is not None:
        check_prompt(prompt)
    given = {"query_prompt": prompt, "query_prompt_name": prompt_name}
    return replace(spec, params={**spec.params, **{name: one for name, one in given.items() if one is not None}})


def embed(engine: Engine, spec: Spec, queries: Sequence[str]) -> list[Vector | Failure]:
    """A vector for each query to documents that were embedded under the spec, or why there is none.

    Raises CannotServe when the model cannot be opened, and what the device died of.
    """
    ticket = engine.submit(query_spec(spec), list(enumerate(queries)))
    ticket.wait()
    if not ticket.complete:
        raise engine.error or EngineStopped()
    embedded: list[Vector | Failure] = []
    for outcome in ticket.finished():
        if outcome.status is Status.DONE and outcome.vector is not None:
            embedded.append(Vector(np.frombuffer(outcome.vector, "<f4")))
        else:
            embedded.append(Failure(outcome.reason or "", outcome.reason_class or Reason.DOCUMENT))
    return embedded
