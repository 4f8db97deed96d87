"""Encoders on OpenVINO: converted once into the cache, and compared with the model's own code at each opening."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import openvino
import torch
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from docmill.storage.core.specs import Spec
from docmill.tasks.backends import accelerator
from docmill.tasks.backends.convert import is_whole, made_once
from docmill.tasks.backends.encoder.comparison import TOLERANCES, Comparison, Proven, compared, local_span
from docmill.tasks.backends.encoder.converted.compiled import FILE, FOLDER, STATES, CompiledEncoder
from docmill.tasks.backends.encoder.converted.first_states import FirstStates
from docmill.tasks.backends.encoder.reopening import Unkept
from docmill.tasks.backends.tokens import Tokens, padded
from docmill.tasks.errors import Unsuited
from docmill.tasks.windows.windows import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("docmill.backends")

# Raised with every change of what is written below.
_FORMAT = 1


@dataclass(frozen=True)
class Conversion:
    """A form of an encoder that OpenVINO computes. ``version`` names it, and all on which its result depends.

    ``make`` converts the encoder. ``comparison`` computes by the model's own code what the result is compared with.
    """

    version: str
    make: Callable[[], openvino.Model]
    comparison: Callable[[], Comparison]


class OpenVinoEncoder:
    """A compiled encoder that gives tensors; safe to call from several threads."""

    def __init__(self, folder: Path, tokens: Tokens, dtype: torch.dtype) -> None:
        self.folder = folder
        precision = str(dtype).removeprefix("torch.")
        self._compiled = CompiledEncoder(folder, tokens, precision, torch.get_num_threads())

    def __call__(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """``token_embeddings`` in float32, of shape (texts, longest, dim), and their ``attention_mask``."""
        return {name: torch.from_numpy(values) for name, values in self._compiled(batch).items()}


def converted(spec: Spec, cache_dir: Path, conversion: Conversion, tokens: Tokens, dtype: torch.dtype) -> Proven:
    """A model's encoder on OpenVINO, converted once and computed in ``dtype``.

    Raises Unsuited where it does not convert, or does not give what its own code gives.
    """

    def build(folder: Path) -> None:
        openvino.save_model(conversion.make(), folder / FILE, compress_to_fp16=False)

    ready = cache_dir / FOLDER / f"{spec.revision.replace(':', '-')}-{conversion.version}"
    try:
        encoder = OpenVinoEncoder(made_once(ready, build, cache_dir), tokens, dtype)
        comparison = conversion.comparison()
        distance = comparison.distance(encoder)
    except (OSError, Unsuited):
        raise
    except Exception as error:  # whatever the converters raise on code that they cannot follow
        raise Unsuited(f"{spec.model} does not convert for OpenVINO: {type(error).__name__}.") from error
    log.info("conversion.compared library='OpenVINO' model=%s difference=%.2g", spec.model, distance)
    if not distance <= comparison.tolerance:
        raise Unsuited(f"{spec.model} on OpenVINO does not give the same: {distance:.2g} of difference.")
    return Proven(encoder, comparison)


def converted_before(name: str, cache_dir: Path, tokens: Tokens, dtype: torch.dtype) -> OpenVinoEncoder:
    """Return an encoder that was converted into the folder of this name. Raises Unkept where that is not whole."""
    folder = cache_dir / FOLDER / name
    if not is_whole(folder, cache_dir):
        raise Unkept("conversion")
    return OpenVinoEncoder(folder, tokens, dtype)


def tracing(model: PreTrainedModel, tokens: Tokens, dtype: torch.dtype, *, first_only: bool = False) -> Conversion:
    """The float32 transformers encoder as it is, computed in ``dtype``.

    With ``first_only`` an encoder of BERT's design gives no other last hidden state than that of the first token.
    """
    parts = f"{form(model)}-first" if first_only else form(model)
    return Conversion(
        f"{openvino.__version__.partition('-')[0]}-{version('transformers')}-{parts}",
        lambda: traced(model, tokens, first_only=first_only),
        lambda: compared(model, TOLERANCES[dtype], first_only=first_only),
    )


def form(model: PreTrainedModel) -> str:
    """Return the part of a conversion's version that depends on the model's attention."""
    return f"{_FORMAT}-local" if local_span(model.config) else str(_FORMAT)


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


@contextmanager
def _written_out(model: PreTrainedModel) -> Iterator[None]:
    """Have local attention traced as products.

    Fused, OpenVINO gives NaN for a token that attends to no other. Padding that is further from the text than the
    span is such a token.
    """
    config = getattr(model, "config", None)
    if config is None or not local_span(config):
        yield
        return
    before = config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class _LastStates(nn.Module):
    """An encoder as a function from tensors, in the order of ``names``, to its last hidden states."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self._model = model
        self._names = names

    def forward(self, *values: Tensor) -> Tensor:
        states: Tensor = self._model(**dict(zip(self._names, values, strict=True)), return_dict=False)[0]
        return states


def traced(model: PreTrainedModel, tokens: Tokens, *, first_only: bool = False) -> openvino.Model:
    """The encoder as OpenVINO's model: inputs by the tokenizer's names, of any shape, to its last hidden states."""
    # Two texts of different lengths: what is traced must not take a mask of ones for granted.
    given = padded([Encoded(5, {"input_ids": [1] * 5}), Encoded(3, {"input_ids": [1] * 3})], tokens)
    if "token_type_ids" in tokens.encode(["a"])[0].features:
        given["token_type_ids"] = torch.zeros_like(given["input_ids"])
    with accelerator.quiet(), warnings.catch_warnings(), torch.no_grad(), _root_logger_kept(), _written_out(model):
        warnings.simplefilter("ignore")  # the tracer's, on every `if` of the model's code
        # The comparison at each opening proves more than the tracer's own check, which computes all twice.
        decoder = TorchScriptPythonDecoder(
            (FirstStates if first_only else _LastStates)(model, list(given)),
            example_input=tuple(given.values()),
            trace_kwargs={"check_trace": False},
        )
        made = openvino.convert_model(decoder)
    for port, name in zip(made.inputs, given, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    made.outputs[0].get_tensor().set_names({STATES})
    made.validate_nodes_and_infer_types()
    return made
