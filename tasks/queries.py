"""Queries, to be compared with documents' vectors: embedded as the documents were, but for the prompt.

A query is no document: its spec is in no job, and what becomes of it is stored nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from storage.outcomes import Reason, Status
from storage.specs import Spec
from tasks.errors import EngineStopped
from tasks.outputs import Failure, Vector

if TYPE_CHECKING:
    from tasks.engine import Engine

QUERY = "query"
_DOCUMENT = ("document", "passage", "corpus")  # sentence-transformers' names of a prompt for documents


def query_spec(spec: Spec) -> Spec:
    """The spec under which queries to vectors of an embed spec are embedded.

    A query longer than the window is the mean of its windows, also where documents keep all of theirs.
    """
    params = {name: value for name, value in spec.params.items() if name != "windows"}
    return replace(spec, params={**params, "side": QUERY})


def prompt(spec: Spec, prompts: Mapping[str, str], default: str | None) -> str:
    """What the model reads before each text: of the ``prompts`` in its files the one that they name as ``default``,
    and for queries theirs.

    Where queries have none they get what documents get, unless that is by its name for documents only.
    """
    usual = prompts.get(default) or "" if default else ""
    if spec.params.get("side") != QUERY:
        return usual
    return prompts.get(QUERY) or ("" if default in _DOCUMENT else usual)


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
