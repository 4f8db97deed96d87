"""Train LoRA adapters of MiniLM with a head, on a CPU in minutes."""

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
MODEL_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
# The modules that are trained in full. MiniLM's pooler was never trained: its sentence embeddings do not use it.
_FULL_MODULES = {"SEQ_CLS": ["classifier", "pooler"], "TOKEN_CLS": ["classifier"], "QUESTION_ANS": ["qa_outputs"]}
# The lower layers are not trained, which saves a third of the time.
_LAYERS = [2, 3, 4, 5]
_POOL_BATCHES = 40  # about so many batches are sorted by length together


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. A batch has at most ``batch_tokens`` tokens, with its padding.

    ``warm_up`` is the share of the steps in which the learning rate rises. ``start`` is the folder of an adapter to
    continue from. ``quality`` is float32, or native for bfloat16 on a CPU that multiplies it natively.
    """

    task: str
    labels: tuple[str, ...]
    steps: int
    batch_tokens: int = 2_048
    rank: int = 16
    peak_rate: float = 1.5e-3
    warm_up: float = 0.06
    seed: int = 7
    start: Path | None = None
    quality: str = "float32"


@dataclass(frozen=True)
class Example:
    """An encoded text with its targets: lists or numbers that the model's loss takes."""

    inputs: Mapping[str, list[int]]
    targets: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


def train(recipe: Recipe, base: Path, examples: Sequence[Example], out: Path) -> None:
    """Train an adapter of the model in ``base``. Save it in ``out``, in float16 and with the names of its labels."""
    torch.manual_seed(recipe.seed)
    model = _build_model(recipe, base)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.peak_rate, weight_decay=0.01)
    model.train()
    dtype = accelerator.dtype_for(recipe.quality, "cpu")
    began, smoothed_loss = time.monotonic(), 0.0
    for step, batch in zip(range(recipe.steps), _make_batches(recipe, examples), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_rate * _scale_rate(step / recipe.steps, recipe.warm_up)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        smoothed_loss = loss.item() if step == 0 else 0.9 * smoothed_loss + 0.1 * loss.item()
        if step % 25 == 0:
            sys.stderr.write(f"step {step} loss {smoothed_loss:.3f} after {time.monotonic() - began:.0f} s\n")
    _save(recipe, model, out)


def _build_model(recipe: Recipe, base: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(base)
    if recipe.task != "QUESTION_ANS":
        config.id2label = dict(enumerate(recipe.labels))
        config.label2id = {label: number for number, label in enumerate(recipe.labels)}
    config.attention_probs_dropout_prob = 0.0
    with accelerator.quiet():
        model_class = getattr(transformers, MODEL_CLASSES[recipe.task])
        model = model_class.from_pretrained(base, config=config, dtype=torch.float32)
    lora = LoraConfig(
        task_type=recipe.task,
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=["query", "key", "value", "dense"],
        layers_to_transform=_LAYERS,
        modules_to_save=_FULL_MODULES[recipe.task],
    )
    adapted = get_peft_model(model, lora)
    if recipe.start is not None:
        set_peft_model_state_dict(adapted, load_file(recipe.start / WEIGHTS))
    return adapted


def _scale_rate(progress: float, warm_up: float) -> float:
    """Return the share of the peak learning rate, which rises linearly to 1 and then falls to 0."""
    return progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up)


def _make_batches(recipe: Recipe, examples: Sequence[Example]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of examples of similar lengths, in a random order and without end."""
    generator = random.Random(recipe.seed)
    while True:
        order = generator.sample(list(examples), len(examples))
        pool_examples = _POOL_BATCHES * max(1, recipe.batch_tokens // 96)
        for start in range(0, len(order), pool_examples):
            groups: list[list[Example]] = [[]]
            for example in sorted(order[start : start + pool_examples], key=len, reverse=True):
                if groups[-1] and (len(groups[-1]) + 1) * len(groups[-1][0]) > recipe.batch_tokens:
                    groups.append([])
                groups[-1].append(example)
            generator.shuffle(groups)
            yield from map(_pad, groups)


def _pad(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Return a batch of examples, with 0 as the padding of inputs and -100 as that of targets."""
    longest = max(map(len, examples))
    batch = {}
    for name in examples[0].inputs:
        padded_inputs = [[*example.inputs[name], *[0] * (longest - len(example))] for example in examples]
        batch[name] = torch.tensor(padded_inputs)
    for name, value in examples[0].targets.items():
        if isinstance(value, list):
            padded_targets = [[*example.targets[name], *[-100] * (longest - len(example))] for example in examples]
            batch[name] = torch.tensor(padded_targets)
        else:
            batch[name] = torch.tensor([example.targets[name] for example in examples])
    return batch


def _save(recipe: Recipe, model: Any, out: Path) -> None:
    model.save_pretrained(str(out))
    (out / "README.md").unlink(missing_ok=True)  # PEFT writes an empty template
    weights = {name: weight.half().contiguous() for name, weight in load_file(out / WEIGHTS).items()}
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((out / ADAPTER_CONFIG).read_text())
    config["base_model_name_or_path"] = BASE
    if recipe.task != "QUESTION_ANS":
        config["id2label"] = {str(number): label for number, label in enumerate(recipe.labels)}
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
