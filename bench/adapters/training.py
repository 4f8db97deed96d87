"""A training loop for LoRA adapters of MiniLM with a head, on a CPU in minutes."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from docmill.tasks.backends import accelerator
from docmill.tasks.models.adapters import WEIGHTS
from docmill.tasks.models.weights import ADAPTER_CONFIG

BASE = "sentence-transformers/all-MiniLM-L6-v2"
CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
# What an adapter of each task has in full. Nobody trained MiniLM's pooler, which its sentence embeddings do not use.
_WHOLE = {"SEQ_CLS": ["classifier", "pooler"], "TOKEN_CLS": ["classifier"], "QUESTION_ANS": ["qa_outputs"]}
# The lower layers stay as they are, which takes a third of the time off.
_LAYERS = [2, 3, 4, 5]
_POOLED = 40  # batches whose examples are sorted together by their length


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. A batch has at most ``batch_tokens`` tokens with its padding.

    ``start`` is the folder of an adapter that the training goes on from. ``quality`` is float32, or native for
    bfloat16 where the processor multiplies it natively.
    """

    task: str
    labels: tuple[str, ...]
    steps: int
    batch_tokens: int = 2_048
    rank: int = 16
    peak_rate: float = 1.5e-3
    warm: float = 0.06
    seed: int = 7
    start: Path | None = None
    quality: str = "float32"


@dataclass(frozen=True)
class Example:
    """An encoded text with its targets: ``wanted`` has the lists or numbers that the model's loss takes."""

    given: Mapping[str, list[int]]
    wanted: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.given["input_ids"])


def train(recipe: Recipe, base: Path, examples: Sequence[Example], out: Path) -> None:
    """Train an adapter of the model in ``base`` and save it in ``out``, in float16 and with its labels' names."""
    torch.manual_seed(recipe.seed)
    model = _model(recipe, base)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.peak_rate, weight_decay=0.01)
    model.train()
    dtype = accelerator.dtype_for(recipe.quality, "cpu")
    begun, lately = time.monotonic(), 0.0
    for step, batch in zip(range(recipe.steps), _batches(recipe, examples), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_rate * _rate(step / recipe.steps, recipe.warm)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        lately = loss.item() if step == 0 else 0.9 * lately + 0.1 * loss.item()
        if step % 25 == 0:
            sys.stderr.write(f"step {step} loss {lately:.3f} after {time.monotonic() - begun:.0f} s\n")
    _save(recipe, model, out)


def _model(recipe: Recipe, base: Path) -> Any:
    named = dict(enumerate(recipe.labels))
    config = transformers.AutoConfig.from_pretrained(base)
    if recipe.task != "QUESTION_ANS":
        config.id2label, config.label2id = named, {label: number for number, label in named.items()}
    config.attention_probs_dropout_prob = 0.0
    with accelerator.quiet():
        model = getattr(transformers, CLASSES[recipe.task]).from_pretrained(base, config=config, dtype=torch.float32)
    lora = LoraConfig(
        task_type=recipe.task,
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=["query", "key", "value", "dense"],
        layers_to_transform=_LAYERS,
        modules_to_save=_WHOLE[recipe.task],
    )
    adapted = get_peft_model(model, lora)
    if recipe.start is not None:
        set_peft_model_state_dict(adapted, load_file(recipe.start / WEIGHTS))
    return adapted


def _rate(done: float, warm: float) -> float:
    """Return the share of the highest learning rate: up to it, and then down to nothing."""
    return done / warm if done < warm else (1 - done) / (1 - warm)


def _batches(recipe: Recipe, examples: Sequence[Example]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches for ever: examples of like lengths together, in a mixed order."""
    chance = random.Random(recipe.seed)
    while True:
        order = chance.sample(list(examples), len(examples))
        pool = _POOLED * max(1, recipe.batch_tokens // 96)
        for start in range(0, len(order), pool):
            groups: list[list[Example]] = [[]]
            for one in sorted(order[start : start + pool], key=len, reverse=True):
                if groups[-1] and (len(groups[-1]) + 1) * len(groups[-1][0]) > recipe.batch_tokens:
                    groups.append([])
                groups[-1].append(one)
            chance.shuffle(groups)
            yield from map(_padded, groups)


def _padded(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    longest = max(map(len, examples))
    batch = {}
    for name in examples[0].given:
        batch[name] = torch.tensor([[*one.given[name], *[0] * (longest - len(one))] for one in examples])
    for name, value in examples[0].wanted.items():
        if isinstance(value, list):
            rows = [[*one.wanted[name], *[-100] * (longest - len(one))] for one in examples]
            batch[name] = torch.tensor(rows)
        else:
            batch[name] = torch.tensor([one.wanted[name] for one in examples])
    return batch


def _save(recipe: Recipe, model: Any, out: Path) -> None:
    model.save_pretrained(str(out))
    (out / "README.md").unlink(missing_ok=True)  # PEFT's own, which says nothing
    weights = {name: weight.half().contiguous() for name, weight in load_file(out / WEIGHTS).items()}
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((out / ADAPTER_CONFIG).read_text())
    config["base_model_name_or_path"] = BASE
    if recipe.task != "QUESTION_ANS":
        config["id2label"] = {str(number): label for number, label in enumerate(recipe.labels)}
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
