"""Encoders in another library: converted once into the cache, and compared with their own code at each opening."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.core.specs import Spec
from tasks.backends.convert import made_once
from tasks.backends.encoder.heads import StatesOf
from tasks.backends.tokens import Tokens, padded
from tasks.errors import Unsuited
from tasks.windows.windows import Encoded

log = logging.getLogger("docmill.backends")

STATES = "states"  # the name of the output


@dataclass(frozen=True)
class Conversion:
    """A way from a model to what a ``library`` computes. ``version`` names it, and all on which its result depends.

    ``write`` fills an empty folder, which ``read`` opens. ``distance`` says how far what was opened is from the
    model's own code, which may be ``tolerance`` at the most.
    """

    library: str
    version: str
    write: Callable[[Path], None]
    read: Callable[[Path], StatesOf]
    distance: Callable[[StatesOf], float]
    tolerance: float


def converted(spec: Spec, cache_dir: Path, conversion: Conversion) -> StatesOf:
    """A model's encoder in another library, converted once.

    Raises Unsuited where it does not convert, or does not give what its own code gives.
    """
    library = conversion.library
    key = f"{spec.revision.replace(':', '-')}-{conversion.version}"
    folder = cache_dir / library.lower().replace(" ", "") / key
    try:
        encoder = conversion.read(made_once(folder, conversion.write, cache_dir))
        with torch.inference_mode():
            distance = conversion.distance(encoder)
    except (OSError, Unsuited):
        raise
    except Exception as error:  # whatever the converters raise on code that they cannot follow
        raise Unsuited(f"{spec.model} does not convert for {library}: {type(error).__name__}.") from error
    log.info("conversion.compared library=%r model=%s difference=%.2g", library, spec.model, distance)
    if not distance <= conversion.tolerance:
        raise Unsuited(f"{spec.model} on {library} does not give the same: {distance:.2g} of difference.")
    return encoder


class LastStates(nn.Module):
    """An encoder as a function from tensors, in the order of ``names``, to its last hidden states."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self._model = model
        self._names = names

    def forward(self, *values: Tensor) -> Tensor:
        states: Tensor = self._model(**dict(zip(self._names, values, strict=True)), return_dict=False)[0]
        return states


def example(tokens: Tokens) -> dict[str, Tensor]:
    """Return a batch for a tracer to run a model on: two texts of different lengths, by the tokenizer's names."""
    # What is traced must not take a mask of ones for granted.
    given = padded([Encoded(5, {"input_ids": [1] * 5}), Encoded(3, {"input_ids": [1] * 3})], tokens)
    (first,) = tokens.encode(["a"])
    if "token_type_ids" in first.features:
        given["token_type_ids"] = torch.zeros_like(given["input_ids"])
    return dict(given)


def by_name(features: dict[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
    """A padded batch as arrays, for inputs of these names; one that the tokenizer does not give is zeros."""
    zeros = torch.zeros_like(features["input_ids"])
    return {name: features.get(name, zeros).numpy() for name in names}
