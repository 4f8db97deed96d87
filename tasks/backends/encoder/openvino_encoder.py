"""Encoders on OpenVINO: the model's own code, traced once into the cache, and compared with it at each opening."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino
import torch
import transformers
from torch import Tensor, nn

from tasks.backends import accelerator
from tasks.backends.convert import made_once
from tasks.backends.encoder.packed import TOLERANCES, difference
from tasks.backends.tokens import Tokens, padded
from tasks.errors import Unsuited
from tasks.windows import Encoded

log = logging.getLogger("docmill.backends")

# Raised with every change of what is written below.
_FORMAT = 1
_FILE = "model.xml"
_STATES = "states"
_PRECISIONS: Mapping[torch.dtype, str] = MappingProxyType({torch.float32: "f32", torch.bfloat16: "bf16"})


class OpenVinoEncoder:
    """The last hidden states of an encoder for a batch of token ids, padded; safe to call from several threads."""

    def __init__(self, folder: Path, tokens: Tokens, dtype: torch.dtype) -> None:
        at_once = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": at_once,
            "NUM_STREAMS": at_once,
            "ENABLE_CPU_PINNING": False,  # beside other processes a core that is taken is waited for
        }
        self._compiled = openvino.Core().compile_model(str(folder / _FILE), "CPU", settings)
        self._names = [port.any_name for port in self._compiled.inputs]
        self._tokens = tokens
        self._of_thread = threading.local()

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``."""
        features = padded(batch, self._tokens)
        zeros = torch.zeros_like(features["input_ids"])
        given = {name: features.get(name, zeros).numpy() for name in self._names}
        states = self._request().infer(given)[_STATES].astype(np.float32)  # a copy: the next call writes there again
        return {"token_embeddings": torch.from_numpy(states), "attention_mask": features["attention_mask"]}

    def _request(self) -> Any:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request


@dataclass(frozen=True)
class Origin:
    """Which model it is, and where what is made of it is kept."""

    name: str
    revision: str
    cache_dir: Path


@dataclass(frozen=True)
class Conversion:
    """A way from a model to what OpenVINO computes. ``version`` names it, and all on which its result depends.

    ``distance`` says how far an encoder is from the model's own code, which may be ``tolerance`` at the most.
    """

    version: str
    make: Callable[[], Any]
    distance: Callable[[OpenVinoEncoder], float]
    tolerance: float


def tracing(model: Any, tokens: Tokens, dtype: torch.dtype) -> Conversion:
    """The float32 transformers encoder as it is, computed in ``dtype``."""
    version = f"{openvino.__version__.partition('-')[0]}-{transformers.__version__}-{_FORMAT}"
    return Conversion(
        version, lambda: traced(model, tokens), lambda encoder: difference(encoder, model), TOLERANCES[dtype]
    )


def converted_encoder(
    model: Any, tokens: Tokens, dtype: torch.dtype, origin: Origin, conversion: Conversion
) -> OpenVinoEncoder:
    """The transformers encoder on OpenVINO, converted once; what is not in int8 is computed in ``dtype``.

    Takes the model over. Raises Unsuited where it does not convert, or does not give what its own code gives.
    """
    key = f"{origin.revision.replace(':', '-')}-{conversion.version}"

    def build(target: Path) -> None:
        openvino.save_model(conversion.make(), target / _FILE, compress_to_fp16=False)

    try:
        folder = made_once(origin.cache_dir / "openvino" / key, build, origin.cache_dir)
        encoder = OpenVinoEncoder(folder, tokens, dtype)
        with torch.inference_mode():
            distance = conversion.distance(encoder)
    except (OSError, Unsuited):
        raise
    except Exception as error:  # whatever the converters raise on code that they cannot follow
        raise Unsuited(f"{origin.name} does not convert for OpenVINO: {type(error).__name__}.") from error
    log.info("conversion.compared model=%s difference=%.2g", origin.name, distance)
    if not distance <= conversion.tolerance:
        raise Unsuited(f"{origin.name} on OpenVINO does not give the same: {distance:.2g} of difference.")
    model.to("meta")
    return encoder


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """The converter lets the root logger say errors only, and adds a filter and a handler of its own."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


class _States(nn.Module):
    """The encoder as a function of tensors by name."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self._model = model
        self._names = names

    def forward(self, *values: Tensor) -> Tensor:
        states: Tensor = self._model(**dict(zip(self._names, values, strict=True)), return_dict=False)[0]
        return states


def traced(model: Any, tokens: Tokens) -> Any:
    """The encoder as OpenVINO's model: inputs by the tokenizer's names, of any shape, to its last hidden states."""
    # Two texts of different lengths: what is traced must not take a mask of ones for granted.
    example = padded([Encoded(5, {"input_ids": [1] * 5}), Encoded(3, {"input_ids": [1] * 3})], tokens)
    (first,) = tokens.encode(["a"])
    if "token_type_ids" in first.features:
        example["token_type_ids"] = torch.zeros_like(example["input_ids"])
    with accelerator.quiet(), warnings.catch_warnings(), torch.no_grad(), _root_logger_kept():
        warnings.simplefilter("ignore")  # the tracer's, on every `if` of the model's code
        made = openvino.convert_model(_States(model, list(example)), example_input=tuple(example.values()))
    for port, name in zip(made.inputs, example, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    made.outputs[0].get_tensor().set_names({_STATES})
    made.validate_nodes_and_infer_types()
    return made
