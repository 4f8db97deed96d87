"""Prompts that an embedding model brings in its files, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from docmill.storage.core.specs import Spec
from docmill.storage.json_values import Json
from docmill.tasks import prompts
from docmill.tasks.errors import CannotServe

QUERY = "query"
DOCUMENT = "document"
OF_DOCUMENTS = (DOCUMENT, "passage", "corpus")  # sentence-transformers' names of a prompt for documents


@dataclass(frozen=True)
class Prompts:
    """The prompts of a config_sentence_transformers.json, and the name of the one that every text gets, if any."""

    named: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    @classmethod
    def of(cls, config: Json) -> Prompts:
        """The prompts in a config; none where it is not of the usual form."""
        if not isinstance(config, dict) or not isinstance(named := config.get("prompts"), dict):
            return cls()
        texts = {str(name): text for name, text in named.items() if isinstance(text, str)}
        default = config.get("default_prompt_name")
        return cls(texts, default if isinstance(default, str) else None)

    @property
    def of_documents(self) -> str | None:
        """The name of the prompt that ``encode_document`` gives a text; None where that is the default, or none."""
        return DOCUMENT if self.named.get(DOCUMENT) and self.default != DOCUMENT else None

    @property
    def listed(self) -> str:
        """The names of the prompts that are not empty, as a sentence has them."""
        return ", ".join(sorted(name for name, text in self.named.items() if text)) or "none"


def prompt(spec: Spec, named: Mapping[str, str], default: str | None) -> str:
    """Return the words that the model reads before each text.

    For documents these are the spec's own, or else of the prompts in the model's files (``named``) the one that the
    spec names, or else their ``default``. For queries they are the search's own, or the files' prompt that it names,
    or else the files' prompt for queries. Where there is none, queries get what documents get, unless that is by its
    name for documents only. Raises CannotServe for a name that the files do not have.
    """
    params, is_query = spec.params, spec.params.get("side") == QUERY
    for given in ("prompt_name", *(["query_prompt_name"] if is_query else [])):
        if given in params and params[given] not in named:
            have = Prompts(named).listed
            raise CannotServe(f"The files of {spec.model} have no prompt named {params[given]}; they have {have}.")
    if is_query and "query_prompt" in params:
        return prompts.around(params["query_prompt"]).before
    if is_query and "query_prompt_name" in params:
        return named[params["query_prompt_name"]]
    name, own = params.get("prompt_name", default), params.get("prompt")
    usual = (named.get(name or "") or "") if own is None else prompts.around(own).before
    if not is_query:
        return usual
    return named.get(QUERY) or ("" if own is None and name in OF_DOCUMENTS else usual)
