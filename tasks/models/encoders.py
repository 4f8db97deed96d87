"""The sort of encoder that a model's small files describe: one vector for a text, or something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docmill.tasks.errors import ModelUnsuitable
from docmill.tasks.models.json_files import content, parsed, table

# Beside config.json, the files that tell.
FILES = ("modules.json", "config_sentence_transformers.json")


class Sort(StrEnum):
    """A sort of encoder that does not give one vector for a text."""

    SPARSE = "a sparse encoder such as SPLADE, which gives a weight for each word of its vocabulary"
    TOKENS = "a multi-vector encoder such as ColBERT, which gives a vector for each token"
    PAIRS = "a cross-encoder (reranker), which gives a score for a pair of texts"


# As sentence-transformers and PyLate name them in config_sentence_transformers.json.
_BY_TYPE: Mapping[str, Sort] = MappingProxyType(
    {
        "SparseEncoder": Sort.SPARSE,
        "MultiVectorEncoder": Sort.TOKENS,
        "ColBERT": Sort.TOKENS,
        "CrossEncoder": Sort.PAIRS,
    }
)
# Parts of a module's class, for files that were written before they had a type.
_BY_MODULE: Mapping[str, Sort] = MappingProxyType(
    {
        ".sparse_encoder.": Sort.SPARSE,
        "SpladePooling": Sort.SPARSE,
        ".multi_vector_encoder.": Sort.TOKENS,
        "pylate.": Sort.TOKENS,
        ".cross_encoder.": Sort.PAIRS,
    }
)
# In config.json, where a cross-encoder's settings were written.
_OF_PAIRS = ("sbert_ce_default_activation_function",)


@dataclass(frozen=True)
class Description:
    """A model as its files describe it: config.json, the type of sentence-transformers, its modules' classes."""

    config: Mapping[str, Any] = field(default_factory=dict)
    sentence_type: str | None = None
    modules: Sequence[str] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], files: Mapping[str, bytes | None]) -> Description:
        """Return the description in ``files``, the model's own of ``FILES``. Unreadable ones are passed over."""
        modules, sentence = parsed(files.get(FILES[0])), table(files.get(FILES[1]))
        listed = modules if isinstance(modules, list) else []
        return cls(
            config,
            str(sentence["model_type"]) if sentence.get("model_type") else None,
            tuple(str(module.get("type", "")) for module in listed if isinstance(module, dict)),
        )

    @classmethod
    def of_folder(cls, folder: Path) -> Description:
        return cls.of(table(content(folder / "config.json")), {name: content(folder / name) for name in FILES})


def sort(described: Description) -> Sort | None:
    """Return the sort of a model that does not give one vector for a text; None for a model that does, or may."""
    if (found := _BY_TYPE.get(described.sentence_type or "")) is not None:
        return found
    for part, found in _BY_MODULE.items():
        if any(part in module for module in described.modules):
            return found
    config, architectures = described.config, described.config.get("architectures") or ()
    if any("ColBERT" in str(name) for name in architectures):
        return Sort.TOKENS
    pools = any("Pooling" in module for module in described.modules)
    if any(name in config for name in _OF_PAIRS) or (not pools and _scores(config)):
        return Sort.PAIRS
    return None


def require_dense(described: Description, model: str, kind: str) -> None:
    """Raise ModelUnsuitable, with what the model is, unless it gives one vector for a text."""
    if (found := sort(described)) is not None:
        instead = ": use the task `sparse` with it" if found is Sort.SPARSE else ""
        raise ModelUnsuitable(f"{kind} needs a model that gives one vector for a text; {model} is {found}{instead}.")


def require_sparse(described: Description, model: str, kind: str) -> None:
    """Raise ModelUnsuitable unless the model's files say that it is a sparse encoder, or are not within reach."""
    if described.config and sort(described) is not Sort.SPARSE:
        raise ModelUnsuitable(
            f"{kind} needs a sparse encoder such as SPLADE, as sentence-transformers saves it; the files of {model} "
            "name no such module."
        )


def _scores(config: Mapping[str, Any]) -> bool:
    """Return True if the model's head gives a single number."""
    heads = any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    labels = config.get("id2label")
    n_labels = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    return heads and n_labels == 1
