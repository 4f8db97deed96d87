"""A decoder-only model scores labels as a plain loop over transformers does, one label at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.errors import BadOption, CannotServe, ModelUnsuitable
from tests.tasks import decoders
from tests.tasks.backends.encoder.test_classification import scores_of
from tests.tasks.conftest import Bench, Benches

TOPICS = {"art": "art", "art history": "paintings and those who made them", "games": "games"}
LISTED = "Labels:\n- art\n- art history: paintings and those who made them\n- games\n\n"
TOLD = "Choose the label that fits the text below best. Answer with the label only.\n\n"


def score_labels(folder: Path, text: str, *, chat: bool) -> dict[str, float]:
    """Return the score of each label, whose tokens follow the prompt and are followed by an end."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def ids(words: str) -> list[int]:
        return list(tokenizer(words, add_special_tokens=False)["input_ids"])

    if chat:
        messages = [{"role": "user", "content": f"{TOLD}{LISTED}Text:\n{text.strip()}"}]
        prompt = ids(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        ends = [tokenizer.eos_token_id]
    else:
        prompt = tokenizer(f"{LISTED}Text: {text.strip()}\nLabel:")["input_ids"]
        ends = [tokenizer.eos_token_id, *ids("\n")]
    sums = []
    for label in TOPICS:
        written = ids(label if chat else f" {label}")
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *written]])).logits[0].double()
        log_probabilities = logits.log_softmax(dim=-1)[len(prompt) - 1 :]
        total = sum(float(log_probabilities[place, token]) for place, token in enumerate(written))
        sums.append(total + math.log(sum(math.exp(float(log_probabilities[len(written), end])) for end in ends)))
    return dict(zip(TOPICS, torch.tensor(sums, dtype=torch.float64).softmax(0).tolist(), strict=True))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_scores_are_those_of_a_loop_over_texts_and_labels(
    name: str, benches: Benches, descriptions: list[str], tmp_path: Path
) -> None:
    texts = [text[:length] for text, length in zip(descriptions, (60, 20, 90, 40, 75), strict=False)]
    folder = decoders.DECODERS[name](tmp_path / name, descriptions[:40])
    bench = benches("transformers")
    spec = bench.spec("classify", folder, labels=TOPICS)
    for text, outcome in zip(texts, bench.run(spec, texts), strict=True):
        expected: Mapping[str, float] = score_labels(folder, text, chat=name != "gpt2")
        assert dict(scores_of(outcome)) == pytest.approx(expected, abs=1e-4)
        assert outcome.text == max(expected, key=lambda label: expected[label])
    (long,) = bench.run(bench.spec("classify", folder, labels=TOPICS, top_k=1), [" ".join(descriptions[:4])])
    assert (len(scores_of(long)), long.flags) == (1, ("windowed",))


def test_options_that_a_decoder_only_model_cannot_follow_are_refused(
    bench: Bench, descriptions: list[str], tmp_path: Path
) -> None:
    folder = str(decoders.llama(tmp_path / "llama", descriptions[:20]))
    with pytest.raises(ModelUnsuitable, match=r"classify needs --labels with .*, which is decoder-only \(llama\)"):
        bench.spec("classify", folder)
    for name, value in {"hypothesis": "It is {}.", "multi_label": True}.items():
        with pytest.raises(BadOption, match=r"is for NLI models; .* is a decoder-only model, whose scores are"):
            bench.spec("classify", folder, labels=TOPICS, **{name: value})
    with pytest.raises(BadOption, match="chooses between labels: give two or more"):
        bench.spec("classify", folder, labels={"art": "art"})
    crowded = {f"label {number}": "word " * 20 for number in range(40)}
    with pytest.raises(CannotServe, match="there is no room for a text"):
        bench.engine.open(bench.spec("classify", folder, labels=crowded))
