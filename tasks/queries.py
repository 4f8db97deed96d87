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
from tasks import prompts
from tasks.errors import CannotServe, EngineStopped
from tasks.named_prompts import OF_DOCUMENTS, QUERY, Prompts
from tasks.outputs import Failure, Vector

if TYPE_CHECKING:
    from tasks.engine import Engine


def query_spec(spec: Spec) -> Spec:
    """The spec under which queries to vectors of an embed spec are embedded.

    A query longer than the window is the mean of its windows, also where documents keep all of theirs.
    """
    params = {name: value for name, value in spec.params.items() if name != "windows"}
    return replace(spec, params={**params, "side": QUERY})


def prompt(spec: Spec, named: Mapping[str, str], default: str | None) -> str:
    """The words that the model reads before each text.

    For documents these are the spec's own, or else of the prompts in the model's files (``named``) the one that the
    spec names, or else their ``default``. For queries they are the files' prompt for queries. Where there is none,
    queries get what documents get, unless that is by its name for documents only. Raises CannotServe for a name
    that the files do not have.
    """
    name = spec.params.get("prompt_name", default)
    if "prompt_name" in spec.params and name not in named:
        have = Prompts(named).listed
        raise CannotServe(f"The files of {spec.model} have no prompt named {name}; they have {have}.")
    own = spec.params.get("prompt")
    usual = (named.get(name or "") or "") if own is None else prompts.around(own).before
    if spec.params.get("side") != QUERY:
        return usual
    return named.get(QUERY) or ("" if own is None and name in OF_DOCUMENTS else usual)


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
