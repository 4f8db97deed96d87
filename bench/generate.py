"""Measure how many tokens per second SmolLM2-135M writes in bfloat16, for prompts that share a template.

docmill runs end to end, through Redis into PostgreSQL with a warm worker, on vLLM and on transformers. It is compared
with vLLM called directly, and with transformers in static batches of 16. The model has no end token, so that all
outputs have the same number of tokens. Each side has its own process, which has loaded the model. Each run has new
texts. vLLM requires an older release of transformers. With `--plain`, the sides without vLLM use another environment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.fleet import Fleet, fleet
from bench.models import SMOLLM2, endless, fetched
from bench.pairs import Claim, Run, interleave, write

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "descriptions.jsonl"
WORDS = 40
PROMPT = (
    "You are given the description of a software package from a catalogue. Read it with care. Then write one "
    "sentence that says what the package is for, for people who have never heard of it. Name no version numbers, no "
    "authors and no licences. Do not repeat the name of the package more than once. If the description lists several "
    "programs, name the most important one only. Write plain English in the present tense, with a full stop at the "
    "end. Do not begin with the words this package. Here is the description:\n{text}\nNow write the sentence."
)


def texts(run: int, count: int) -> list[str]:
    """Return descriptions of 40 words. Each begins with the number of the run, so that no two runs share a text."""
    lines = [json.loads(line)["text"] for line in EXAMPLES.read_text(encoding="utf-8").splitlines()]
    return [f"{run}.{n}. " + " ".join(lines[n % len(lines)].split()[:WORDS]) for n in range(count)]


def build_docmill_side(installation: Fleet, model: Path, tokens: int) -> Callable[[int, int], Run]:
    """Return the side of docmill with a warm worker."""

    def work(run: int, count: int) -> Run:
        seconds, written = installation.run(
            texts(run, count), "generate", str(model), prompt=PROMPT, max_new_tokens=tokens
        )
        assert written == count * tokens, "the model ended an output early"
        return Run(written, seconds)

    return work


class Peer:
    """A side on another library, in a process of its own that keeps its model loaded."""

    def __init__(self, python: str, name: str, model: Path, tokens: int, stack: ExitStack) -> None:
        command = [python, "-m", "bench.generate", "--peer", name, "--model", str(model)]
        self._process = stack.enter_context(
            subprocess.Popen(
                [*command, "--tokens", str(tokens)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        stack.callback(self._process.kill)
        self._tokens = tokens

    def __call__(self, run: int, count: int) -> Run:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(texts(run, count)) + "\n")
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return Run(count * self._tokens, float(line.split()[1]))
        raise SystemExit("the process of a peer ended during the benchmark")


def _read_release(python: str) -> str:
    """Return the release of transformers in the environment of this interpreter."""
    program = "from importlib.metadata import version; print(version('transformers'))"
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def _serve(work: Callable[[Sequence[str]], None]) -> None:
    """Run as a peer: read a batch of texts from each line of stdin, and print the seconds of its work."""
    for line in sys.stdin:
        batch = json.loads(line)
        began = time.perf_counter()
        work(batch)
        sys.stdout.write(f"seconds {time.perf_counter() - began}\n")
        sys.stdout.flush()


def _apply_template(tokenizer: Any, batch: Sequence[str]) -> list[str]:
    """Return the prompts of a batch, as the model's chat template writes them."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT.replace("{text}", text)}], tokenize=False, add_generation_prompt=True
        )
        for text in batch
    ]


def _load_transformers(model: str, tokens: int, precision: str) -> Callable[[Sequence[str]], None]:
    """Return a function that calls transformers' own generate on batches of 16 prompts of similar length."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    causal_lm = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, precision)).eval()

    def work(batch: Sequence[str]) -> None:
        prompts = sorted(_apply_template(tokenizer, batch), key=len)
        for start in range(0, len(prompts), 16):
            encoded = tokenizer(
                prompts[start : start + 16], return_tensors="pt", padding=True, add_special_tokens=False
            )
            with torch.inference_mode():
                causal_lm.generate(**encoded, max_new_tokens=tokens, do_sample=False)

    return work


def _load_vllm(model: str, tokens: int) -> Callable[[Sequence[str]], None]:
    """Return a function that calls vLLM's own batch interface, with its prefix cache."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CONFIGURE_LOGGING"] = "0"
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=8192,
        max_num_seqs=64,
        enable_prefix_caching=True,
        enforce_eager=True,
        kv_cache_memory_bytes=2 << 30,
    )
    tokenizer, sampling = llm.get_tokenizer(), SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)

    def work(batch: Sequence[str]) -> None:
        llm.generate(_apply_template(tokenizer, batch), sampling, use_tqdm=False)

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--plain", default=sys.executable, help="the Python of the sides without vLLM")
    parser.add_argument("--peer", help="for the benchmark itself")
    parser.add_argument("--model", help="for the benchmark itself")
    options = parser.parse_args()
    if options.peer == "vllm":
        return _serve(_load_vllm(options.model, options.tokens))
    if options.peer is not None:
        return _serve(_load_transformers(options.model, options.tokens, options.peer))
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        folder = Path(work)
        model = endless(fetched(SMOLLM2), folder / "model")
        installations: dict[str, Fleet] = {}

        def start_docmill(backend: str, python: str) -> Callable[[int, int], Run]:
            installations[backend] = stack.enter_context(
                fleet(folder / backend, lane="generate", backend=backend, python=python)
            )
            return build_docmill_side(installations[backend], model, options.tokens)

        def start_peer(name: str, python: str) -> Callable[[int, int], Run]:
            return Peer(python, name, model, options.tokens, stack)

        plain, release = options.plain, f"transformers {_read_release(options.plain)}"
        sides: dict[str, Callable[[int, int], Run]] = {
            "docmill, vllm": start_docmill("vllm", sys.executable),
            "vLLM called directly": start_peer("vllm", sys.executable),
            f"docmill, {release}": start_docmill("transformers", plain),
            f"{release}, batches of 16, bfloat16": start_peer("bfloat16", plain),
            f"{release}, batches of 16, float32": start_peer("float32", plain),
        }
        ours, direct, portable, *static = sides
        runs = itertools.count()
        comparison = interleave(
            f"{options.prompts} prompts with a shared template, {options.tokens} tokens each",
            "tokens",
            {name: lambda side=side: side(next(runs), options.prompts) for name, side in sides.items()},  # type: ignore[misc]
            pairs=options.pairs,
        )
        best = comparison.best(*static)
        claims = [
            Claim("vllm backend ÷ vLLM called directly", ours, direct, 0.95),
            Claim("vllm backend ÷ static batches at their best precision", ours, best, 2.0),
            Claim("transformers backend ÷ static batches at their best precision", portable, best, 1.3),
        ]
        write(
            "generate",
            [comparison],
            [claims],
            busy_shares_end_to_end={name: installation.busy_shares() for name, installation in installations.items()},
        )
    return None


if __name__ == "__main__":
    main()
