"""Encoder-only models that were converted for OpenVINO, on a CPU, without torch and transformers.

The first opening of a spec loads the model with torch and transformers and converts it
(``tasks.backends.encoder.conversion``). The cache then keeps the encoder and the head as OpenVINO's models, the
tokenizer's file, and the states of some texts by the model's own code. Every opening, also the first, opens the files
in the cache and compares the encoder with these states. If they differ, the model is converted again. The files may
be deleted at any time.

All specs of a revision share the encoder. The head computes in float32 in any precision of the encoder: half
precisions are too coarse for norms and for sums over a text's tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import openvino
from tokenizers import Encoding, Tokenizer

from docmill.tasks.backends import Assignment, machine
from docmill.tasks.backends.convert import is_whole
from docmill.tasks.backends.encoder.heads import Array, ReferenceStates, outputs_of
from docmill.tasks.backends.tokens import PlacedTokens, Tokens, padded_arrays, pairs
from docmill.tasks.errors import Unsuited
from docmill.tasks.kinds.base import Traits
from docmill.tasks.outputs import Output
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("docmill.backends")

ENCODERS = "openvino"  # the folder of the cache with encoders; the folder "opened" has the other files of each spec
ENCODER, HEAD, FACTS, TOKENIZER, ARRAYS = "model.xml", "head.xml", "facts.json", "tokenizer.json", "arrays.npz"
STATES, NUMBERS = "states", "numbers"  # the names of outputs
# Raise this number with every change of the files, or of how they are read.
_FORMAT = 6
_LIBRARIES = ("docmill", "torch", "transformers", "sentence-transformers", "tokenizers", "openvino")
_PRECISIONS: Mapping[str, str] = MappingProxyType({"float32": "f32", "bfloat16": "bf16"})
# On AMX, OpenVINO 2026.4 computes batches of this length wrongly in int8: MiniLM's vectors had cosines of 0.65 to
# 0.98 with those in float32. No other length from 4 to 256 tokens was wrong.
_MISCOMPUTED = 32
# The names of features in tokenizers, by their names in transformers.
_FEATURES: Mapping[str, str] = {"input_ids": "ids", "token_type_ids": "type_ids"}
_FACTS = ("padding_side", "pad_token_id", "pad_token_type_id", "unk_token_id", "all_special_ids")
# Texts that tokenizers treat differently: an empty text, several scripts, white space, and special tokens spelt out.
_TRIED = ("", "A text.", " Ünïted\u00a0 ﬁve 東京 \u200d🙂\n\tend ", "[CLS] a [SEP] <s> b </s> <pad> [MASK]")


class Graph:
    """A model that OpenVINO has compiled, with one output; safe to call from several threads."""

    def __init__(self, file: Path, precision: str, threads: int) -> None:
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # a pinned thread would wait for a core that another process uses
        }
        self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self._names = [port.any_name for port in self._compiled.inputs]
        self._of_thread = threading.local()

    def __call__(self, features: Mapping[str, Array]) -> Array:
        """Return the output as a copy, in float32."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        (output,) = self._of_thread.request.infer(by_name(features, self._names)).values()
        copy: Array = output.astype(np.float32)  # the next call overwrites the output
        return copy


def by_name(features: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Return a padded batch for inputs of these names. An input that the tokenizer does not give is zeros."""
    return {name: features[name] if name in features else np.zeros_like(features["input_ids"]) for name in names}


class ConvertedModel:
    """The model in a folder of the cache.

    Raises Unsuited if its states differ from those of the model's own code, and libraries' errors on damaged files.
    """

    def __init__(self, folder: Path, cache_dir: Path, precision: str, threads: int) -> None:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
        arrays: Mapping[str, Array] = np.load(folder / ARRAYS)
        kind = PlacedTokens if facts["placed"] else Tokens
        tokenizer = FastTokenizer((folder / TOKENIZER).read_text(encoding="utf-8"), facts["tokenizer"])
        self.tokens = kind(tokenizer).framed(facts["prefix"])
        self.limit_tokens: int = facts["limit_tokens"]
        self.library: str = facts["library"]
        self._form = {**facts["form"], **{name: arrays[f"form {name}"] for name in facts["arrays"]}}
        first = self._form.get("question_first", False)
        beside = pairs(self.tokens, self.limit_tokens, first=first) if facts["pairs"] else None
        self.traits = Traits(normalizes=facts["normalizes"], pairs=beside)
        encoder = cache_dir / ENCODERS / facts["encoder"]
        if not is_whole(encoder, cache_dir):
            raise Unsuited(f"{encoder} is not whole.")
        self._encoder = Graph(encoder / ENCODER, precision, threads)
        self._head = Graph(folder / HEAD, "float32", threads)
        compared = facts["comparison"]
        texts = [Encoded(n_tokens, features) for n_tokens, features in compared["texts"]]
        states = [arrays[f"states {place}"] for place in range(len(texts))]
        distance = ReferenceStates(texts, states, compared["tolerance"], compared["means"]).distance(self.states)
        log.info("conversion.compared library='OpenVINO' folder=%s difference=%.2g", folder.name, distance)
        if not distance <= compared["tolerance"]:
            raise Unsuited(f"The model's states on OpenVINO differ by {distance:.2g} from those of its own code.")

    def states(self, batch: Sequence[Encoded]) -> dict[str, Array]:
        """Return ``token_embeddings`` in float32, of shape (texts, length, dim), and their ``attention_mask``.

        The length is 1 if the encoder was converted for first tokens only.
        """
        longest = max(window.tokens for window in batch)
        features: dict[str, npt.NDArray[np.int64]] = padded_arrays(
            batch, self.tokens, longest + (longest == _MISCOMPUTED)
        )
        states = self._encoder(features)
        return {"token_embeddings": states, "attention_mask": features["attention_mask"][:, : states.shape[1]]}

    def outputs(self, batch: Sequence[Encoded], states: Mapping[str, Array]) -> list[Output]:
        """Return the output of each window."""
        return outputs_of(self._form, batch, states, self._head)


def folder_of(assignment: Assignment) -> Path:
    """Return the folder of the cache for a spec on this processor, with the installed versions of the libraries."""
    here = machine.read_processor(assignment.cache_dir)
    subject = (
        f"{_FORMAT} {assignment.spec.sha256.hex()} {assignment.head} {here.name} {here.threads} "
        f"{assignment.folder} {' '.join(f'{name} {version(name)}' for name in _LIBRARIES)}"
    )
    return assignment.cache_dir / "opened" / hashlib.sha256(subject.encode()).hexdigest()[:32]


def is_converted(assignment: Assignment) -> bool:
    """Return True if the cache keeps the converted model of a spec."""
    return is_whole(folder_of(assignment), assignment.cache_dir)


class _Batch(dict[str, list[list[int]]]):
    """The features of some texts by their names, and the library's own encodings."""

    encodings: Sequence[Encoding]


class FastTokenizer:
    """The part of a transformers tokenizer that ``tasks.backends.tokens`` uses, made from a `tokenizer.json`.

    ``facts`` are those of ``facts_of``.
    """

    def __init__(self, text: str, facts: Mapping[str, Any]) -> None:
        self.backend_tokenizer = Tokenizer.from_str(text)
        self.padding_side: str = facts["padding_side"]
        self.pad_token_id: int | None = facts["pad_token_id"]
        self.pad_token_type_id: int = facts["pad_token_type_id"]
        self.unk_token_id: int | None = facts["unk_token_id"]
        self.all_special_ids: Sequence[int] = facts["all_special_ids"]
        self.model_max_length: int = facts["model_max_length"]
        self._features: Sequence[str] = facts["features"]

    def __call__(
        self,
        texts: Sequence[str],
        seconds: Sequence[str] | None = None,
        *,
        truncation: bool,
        padding: bool,
        return_attention_mask: bool,
        add_special_tokens: bool,
    ) -> _Batch:
        """Return the features of texts or of pairs of texts, without truncation, padding or a mask."""
        assert not any((truncation, padding, return_attention_mask))
        inputs = texts if seconds is None else list(zip(texts, seconds, strict=True))
        encodings = self.backend_tokenizer.encode_batch(inputs, add_special_tokens=add_special_tokens)
        batch = _Batch({name: [getattr(text, _FEATURES[name]) for text in encodings] for name in self._features})
        batch.encodings = encodings
        return batch


def facts_of(tokenizer: PreTrainedTokenizerBase, limit: int | None) -> tuple[str, dict[str, Any]] | None:
    """Return a tokenizer's `tokenizer.json` and its facts as JSON; None if they do not make the same tokenizer.

    ``limit`` is the most tokens that the tokenizer states.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.split_special_tokens:
        return None
    own = tokenizer(list(_TRIED), truncation=False, padding=False, return_attention_mask=False)
    if not own.keys() <= _FEATURES.keys():
        return None
    facts = {name: getattr(tokenizer, name) for name in _FACTS}
    facts |= {"model_max_length": limit or int(1e30), "features": [*own]}
    text = backend.to_str()
    again = FastTokenizer(text, facts)(
        _TRIED, truncation=False, padding=False, return_attention_mask=False, add_special_tokens=True
    )
    return (text, facts) if dict(own) == again else None
