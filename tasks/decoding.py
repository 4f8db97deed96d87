"""How a decoder-only model writes under a spec: what was asked for, then the model's own, then ours. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.specs import Spec
from tasks.errors import CannotServe

# Ours, where neither the command nor the model's files say how much to write.
MAX_NEW_TOKENS = 256
# What a generation_config may ask for that is not done here, and the values that ask for nothing.
_NOT_DONE: Mapping[str, Sequence[Any]] = {
    "num_beams": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "min_p": (None, 0),
    "typical_p": (None, 1.0),
}


@dataclass(frozen=True)
class Decoding:
    """Greedy at a ``temperature`` of 0, sampled otherwise: of the ``top_k`` likeliest tokens (0: of all) the fewest
    that hold ``top_p`` of the probability. Ends at any of ``ends``, at a text of ``stop``, or at the limit."""

    max_new_tokens: int
    ends: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repetition_penalty: float = 1.0

    @property
    def sampled(self) -> bool:
        return self.temperature > 0

    def seed_of(self, ids: Sequence[int]) -> int:
        """The seed for one window, from the spec's and from what the model reads: the same in any batch."""
        read = hashlib.sha256(f"{self.seed} ".encode() + array("i", ids).tobytes()).digest()
        return int.from_bytes(read[:8], "little") >> 1


def decoding(spec: Spec, own: Mapping[str, Any], context_tokens: int, stop: tuple[str, ...] = ()) -> Decoding:
    """The decoding under a spec, with a model whose generation_config is ``own`` and that holds ``context_tokens``.

    A model samples where its generation_config says so or where a temperature, top-p or top-k was asked for. Raises
    CannotServe for a generation_config that asks for what is not done here.
    """
    for name, nothing in _NOT_DONE.items():
        if own.get(name) not in nothing:
            raise CannotServe(
                f"The generation_config of {spec.model} asks for {name}={own[name]}, which docmill does not do with "
                "decoder-only models."
            )
    asked = spec.params
    sampling = {name: asked[name] for name in ("temperature", "top_p", "top_k") if name in asked}
    if sampling or own.get("do_sample"):
        model = {name: own[name] for name in ("temperature", "top_p", "top_k") if own.get(name) is not None}
        sampling = {"temperature": 1.0, **(model if own.get("do_sample") else {}), **sampling}
    if sampling.get("temperature") == 0:
        sampling = {}
    ends = own.get("eos_token_id")
    return Decoding(
        max_new_tokens=asked.get("max_new_tokens")
        or own.get("max_new_tokens")
        or min(MAX_NEW_TOKENS, context_tokens // 2),
        ends=frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
        stop=stop,
        seed=asked.get("seed", 0),
        repetition_penalty=own.get("repetition_penalty") or 1.0,
        **sampling,
    )


def cut_at(text: str, stop: Sequence[str]) -> str | None:
    """The text up to the first that stands in it of the texts that end it, or None where none does."""
    found = [place for ending in stop if (place := text.find(ending)) >= 0]
    return text[: min(found)] if found else None
