"""Load weights with transformers, and read its report of weights that a model's files lack.

The library makes up at random what a checkpoint lacks, or has in another shape, and goes on with a warning. Here that
is an error, whichever library asks transformers for a model: sentence-transformers does, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from docmill.tasks.backends.convert import index_files
from docmill.tasks.errors import WeightsMissing

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Experts that are kept one by one are joined as they are loaded, which takes as much memory as they have weights.
_EXPERTS = ".experts."
_MOST_JOINED_BYTES = 4 << 30
_hollow: ContextVar[bool] = ContextVar("hollow", default=False)


class _Loaded(TypedDict):
    """The part that is read of transformers' report on a model that it loaded."""

    missing_keys: set[str]
    mismatched_keys: set[tuple[str, ...]]


_Own = Callable[..., "tuple[PreTrainedModel, _Loaded]"]


class NotTold(Exception):
    """The weights cannot be reported without being loaded: quantized ones, and many experts."""


@dataclass
class Report:
    """The weights that models lack which were loaded in a ``reported`` block, by their names in the model."""

    missing: list[str] = field(default_factory=list)

    def require(self, model: str, kind: str, *, unused: Sequence[str] = ()) -> None:
        """Raise WeightsMissing unless all are there; what begins with one of ``unused`` has no part in any output."""
        missing = sorted(name for name in self.missing if not name.startswith(tuple(unused)))
        if missing:
            raise WeightsMissing(
                f"The files of {model} lack {len(missing)} weights that {kind} computes with, such as {missing[0]}; "
                f"they would be made up at random. Name a model that was trained for {kind}, or copy or download the "
                "whole model."
            )


@contextmanager
def hollow() -> Iterator[None]:
    """Let models that are loaded in the block have no weights: only their names and shapes are read.

    Such a model takes next to no memory and computes nothing of sense; what was reported of it is true. Loading
    raises NotTold where that is not possible.
    """
    before = _hollow.set(True)
    try:
        yield
    finally:
        _hollow.reset(before)


@contextmanager
def reported() -> Iterator[Report]:
    """Collect transformers' reports on all models that any library loads in the block.

    One thread at a time.
    """
    from transformers import PreTrainedModel

    report = Report()
    own = vars(PreTrainedModel)["from_pretrained"]
    load: Callable[..., PreTrainedModel] = _load_hollow if _hollow.get() else _load

    def told(kind: type[PreTrainedModel], /, *arguments: object, **options: object) -> PreTrainedModel:
        return load(partial(own.__func__, kind), report, *arguments, **options)

    PreTrainedModel.from_pretrained = classmethod(told)
    try:
        yield report
    finally:
        PreTrainedModel.from_pretrained = own


def _load(own: _Own, report: Report, *arguments: object, **options: object) -> PreTrainedModel:
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = own(*arguments, **options)
    report.missing += _lacking(model, found)
    return model


def _load_hollow(
    own: _Own,
    report: Report,
    folder: str | Path,
    *_: object,
    config: PretrainedConfig,
    subfolder: str | None = None,
    **__: object,
) -> PreTrainedModel:
    weights = _shapes(Path(folder) / (subfolder or ""))
    joined = sum(one.nbytes for name, one in weights.items() if _EXPERTS in name)
    if getattr(config, "quantization_config", None) is not None or joined > _MOST_JOINED_BYTES:
        raise NotTold
    dtype = next((one.dtype for one in weights.values() if one.is_floating_point()), torch.float32)
    return _load(own, report, None, config=config, state_dict=weights, dtype=dtype)


def _lacking(model: PreTrainedModel, found: _Loaded) -> list[str]:
    """The names in a loading report whose weights are not the checkpoint's.

    A buffer that is missing was computed from the config. Tied weights are in no report.
    """
    computed = {name for name, _ in model.named_buffers()}
    return [*(set(found["missing_keys"]) - computed), *(name for name, *_ in found["mismatched_keys"])]


def _shapes(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder in name, shape and type, all of them one number."""
    whole = folder / SAFE_WEIGHTS_NAME
    files = [whole] if whole.is_file() else index_files(folder / SAFE_WEIGHTS_INDEX_NAME)
    found = {}
    for path in files:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                dtype = _DTYPES.get(part.get_dtype(), torch.float32)
                found[name] = torch.zeros((), dtype=dtype).expand(part.get_shape())
    return found
