"""GGUF files as folders of safetensors, made once and kept in the cache.

transformers takes most of a minute to read a GGUF file, each time. It gives each weight as float32, and so does the
folder: its outputs are those of a model that was read from the file itself.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from docmill.tasks.backends import accelerator
from docmill.tasks.backends.convert import made_once
from docmill.tasks.backends.loading import reported
from docmill.tasks.errors import ModelCorrupt, ModelUnsuitable, TaskError
from docmill.tasks.models import gguf

log = logging.getLogger("docmill.backends")


def converted(file: Path, revision: str, cache_dir: Path) -> Path:
    """Return the folder with the model of a GGUF file, converted if need be.

    Raises NotInstalled without the libraries, ModelCorrupt for a file that lacks weights, and ModelUnsuitable for a
    model that transformers does not read.
    """

    def build(target: Path) -> None:
        gguf.require_extra(file)
        try:
            _convert(file, target)
        except TaskError:
            raise
        except Exception as error:  # whatever the libraries raise on files that they cannot read
            reason = " ".join(str(error).split())[:300]
            raise ModelUnsuitable(
                f"transformers cannot read {file}: {type(error).__name__}: {reason} Name a folder or a hub id with "
                "the model's safetensors."
            ) from error

    return made_once(gguf.converted_place(revision, cache_dir), build, cache_dir)


def _convert(file: Path, target: Path) -> None:
    with accelerator.quiet(), _no_bar(), torch.no_grad():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        with reported() as report:
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        if report.missing:
            raise ModelCorrupt(
                f"{file} lacks {len(report.missing)} weights of its architecture, such as {min(report.missing)}: "
                "download it again, or name another file."
            )
        config = copy.deepcopy(read.config)
        del config.quantization_config  # a model that has one refuses to be saved
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = read.generation_config
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    log.info("gguf_converted file=%s", file)


@contextmanager
def _no_bar() -> Iterator[None]:
    """Leave out the progress bar of the reading, which no setting of transformers turns off."""
    own = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = own
