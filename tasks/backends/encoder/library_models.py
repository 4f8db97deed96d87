"""Models that sentence-transformers opens: from this machine, with safe weights, and without a model's own code."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder

from docmill.tasks.backends import accelerator
from docmill.tasks.backends.loading import Report, reported

Model = TypeVar("Model", SentenceTransformer, SparseEncoder)


def opened(library: type[Model], folder: Path, device: str, dtype: torch.dtype) -> tuple[Model, Report]:
    """Return the model of a folder, and the report of the weights that it lacks."""
    with accelerator.quiet(), reported() as report:
        model = library(
            str(folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    model.eval()
    return model, report
