"""Models with LoRA adapters compute what PEFT's own model does, one document at a time, in float32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer

from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.merging import merge, require_fits
from docmill.tasks.errors import BadOption, CannotServe, ModelCorrupt, ModelNotFound, ModelUnsuitable
from docmill.tasks.outputs import Head
from docmill.tasks.specs import pinning
from tests.tasks import architectures, decoders
from tests.tasks.backends.encoder.test_pooling import change_json, save_with_modules
from tests.tasks.conftest import Bench, Benches, data_of, vector_of
from tests.tasks.deciding import require_equal
from tests.tasks.fakes import plan_spec
from tests.tasks.models.test_weights import remove, shorten, write
from tests.tasks.real_lines import half_and_more
from tests.tasks.reference import generate_texts

# PEFT uses names that transformers changed, and warns that it saves and unties embeddings.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("is_gradient_checkpointing", "save_embedding_layers", "tie_word_embeddings", "tied")
]

NEW_TOKENS = 10
LABELS = 3
# By name: the class of the base, PEFT's name of the task, the adapted layers and the replaced layers.
ADAPTED: Mapping[str, tuple[str, str, list[str], list[str] | None]] = {
    "bert": ("AutoModelForSequenceClassification", "SEQ_CLS", ["query", "value"], ["classifier"]),
    "t5": ("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", ["q", "v", "wo"], None),
    "gpt2": ("AutoModelForCausalLM", "CAUSAL_LM", ["c_attn", "c_proj"], None),
    "llama": ("AutoModelForCausalLM", "CAUSAL_LM", ["q_proj", "down_proj"], ["lm_head"]),
    "embeddings": ("AutoModelForCausalLM", "CAUSAL_LM", ["q_proj", "embed_tokens", "lm_head"], None),
    "tied input": ("AutoModelForCausalLM", "CAUSAL_LM", ["q_proj", "embed_tokens"], None),
    "tied output": ("AutoModelForCausalLM", "CAUSAL_LM", ["q_proj", "lm_head"], None),
    "tied t5": ("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM", ["q", "lm_head"], None),
    "tied and trained": ("AutoModelForCausalLM", "CAUSAL_LM", ["q_proj"], ["lm_head"]),
}


@pytest.fixture(scope="module")
def texts(descriptions: list[str]) -> list[str]:
    return [" ".join(text.split()[: 4 + 5 * number]) for number, text in enumerate(descriptions[:6])]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str], bert: Path, t5: Path) -> dict[str, Path]:
    """Return the folders of base models by the names in ADAPTED."""
    torch.manual_seed(5)
    folder, texts = tmp_path_factory.mktemp("bases"), descriptions[:40]
    return {
        "bert": bert,
        "t5": t5,
        "gpt2": decoders.gpt2(folder / "gpt2", texts),
        "llama": decoders.llama(folder / "llama", texts),
        "tied t5": architectures.t5(folder / "tied", texts, initializer_factor=2.0),
        "embeddings": decoders.qwen2(folder / "qwen2", texts),
        **dict.fromkeys(("tied input", "tied output", "tied and trained"), decoders.qwen3(folder / "qwen3", texts)),
    }


def load(folder: Path, kind: str, **options: Any) -> Any:
    with quiet():
        return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, **options).eval()


def save_adapter(base: Path, folder: Path, kind: str, **options: Any) -> Path:
    """Save an adapter of a base with random matrices and changed replaced layers, as if it were trained."""
    torch.manual_seed(9)
    labels = {"num_labels": LABELS} if options.get("modules_to_save") == ["classifier"] else {}
    conv1d = "c_attn" in options["target_modules"]
    config = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, fan_in_fan_out=conv1d, **options)
    model = get_peft_model(load(base, kind, **labels), config)
    for name, weight in model.named_parameters():
        if "modules_to_save" in name:
            weight.data += torch.randn_like(weight) * weight.std()
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> dict[str, Path]:
    """Return the folders of adapters by the names in ADAPTED."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(
            bases[name], folder / name, kind, task_type=task, target_modules=layers, modules_to_save=replaced
        )
        for name, (kind, task, layers, replaced) in ADAPTED.items()
    }


def load_peft(base: Path, adapter: Path, kind: str, **options: Any) -> Any:
    with quiet():
        return PeftModel.from_pretrained(load(base, kind, **options), str(adapter)).eval()


@pytest.mark.parametrize("backend", ["transformers", "openvino"])
def test_a_classifier_that_the_adapter_brings_scores_as_peft_does(
    benches: Benches, bases: dict[str, Path], adapters: dict[str, Path], texts: list[str], backend: str
) -> None:
    bench = benches(backend)
    spec = bench.spec("classify", bases["bert"], adapter=str(adapters["bert"]))
    model = load_peft(bases["bert"], adapters["bert"], "AutoModelForSequenceClassification", num_labels=LABELS)
    tokenizer = AutoTokenizer.from_pretrained(bases["bert"])
    outcomes = bench.run(spec, texts)
    assert bench.engine.open(spec)["backend"] == backend
    for text, outcome in zip(texts, outcomes, strict=True):
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        scores = {row["label"]: row["score"] for row in data_of(outcome)["labels"]}
        np.testing.assert_allclose([scores[f"LABEL_{number}"] for number in range(LABELS)], expected, atol=2e-5)


@half_and_more([name for name in ADAPTED if name != "bert"])
def test_texts_are_those_that_peft_writes(
    bench: Bench, bases: dict[str, Path], adapters: dict[str, Path], texts: list[str], name: str
) -> None:
    base, adapter, kind = bases[name], adapters[name], ADAPTED[name][0]
    spec = bench.spec("generate", base, adapter=str(adapter), prompt="Say: {text}", max_new_tokens=NEW_TOKENS)
    prompts, model = [f"Say: {text}" for text in texts], load_peft(base, adapter, kind)
    reference = partial(generate_texts, base, prompts, model=model, max_new_tokens=NEW_TOKENS)
    expected = require_equal(bench.write(spec, texts), reference)
    plain = bench.spec("generate", base, prompt="Say: {text}", max_new_tokens=NEW_TOKENS)
    assert sum(text != adapted for text, adapted in zip(bench.write(plain, texts), expected, strict=True)) > 1
    assert plain.sha256 != spec.sha256


def test_the_config_of_a_merged_model_unties_a_layer_that_the_adapter_changes(
    bench: Bench, tmp_path: Path, bases: dict[str, Path], adapters: dict[str, Path]
) -> None:
    # vLLM reads the config and would leave out the weights of a tied layer.
    base, adapter = bases["tied output"], adapters["tied output"]
    spec = bench.spec("generate", base, adapter=str(adapter), prompt="{text}")
    merge(spec, base, adapter, Head.CAUSAL_TEXT, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False


def test_vectors_are_those_of_the_adapted_encoder(
    bench: Bench, tmp_path: Path, bases: dict[str, Path], texts: list[str]
) -> None:
    dense = Dense(32, 8)
    base = save_with_modules(tmp_path / "base", bases["bert"], Pooling(32, "cls"), dense)
    folder = save_adapter(base, tmp_path / "a", "AutoModel", target_modules=["query", "dense"])
    model, tokenizer = load_peft(base, folder, "AutoModel"), AutoTokenizer.from_pretrained(base)
    spec = bench.spec("embed", base, adapter=str(folder))
    for text, outcome in zip(texts, bench.run(spec, texts), strict=True):
        with torch.inference_mode():
            first = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
            expected = dense({"sentence_embedding": first})["sentence_embedding"].numpy()
        assert outcome.vector is not None
        np.testing.assert_allclose(vector_of(outcome), expected, atol=2e-5)


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            write(CONFIG, b'{"peft_type": "IA3"}'),
            ModelUnsuitable,
            "is an adapter of the type IA3: docmill takes LoRA",
        ),
        (remove(CONFIG), ModelNotFound, "is no adapter that docmill reads: it has no adapter_config.json"),
        (shorten(WEIGHTS, 0.9), ModelCorrupt, f"{WEIGHTS} has"),
        (remove(WEIGHTS), ModelNotFound, f"it has no {WEIGHTS}"),
        (shutil.rmtree, ModelNotFound, "a is not a folder on this machine"),
    ],
)
def test_a_folder_that_is_no_whole_lora_adapter_is_refused(
    damage: Any, error: type[Exception], message: str, bench: Bench, tmp_path: Path, bases: Any, adapters: Any
) -> None:
    folder = shutil.copytree(adapters["gpt2"], tmp_path / "a")
    damage(folder)
    with pytest.raises(error, match=message):
        bench.spec("generate", bases["gpt2"], adapter=str(folder), prompt="{text}")


def test_an_adapter_whose_weights_fit_another_model_is_refused_before_weights_are_read(
    bench: Bench, bases: dict[str, Path], adapters: dict[str, Path]
) -> None:
    spec = bench.spec("generate", bases["llama"], adapter=str(adapters["gpt2"]), prompt="{text}")
    with pytest.raises(
        ModelUnsuitable, match=r"is an adapter of another model or for another task: its .* does not fit"
    ):
        require_fits(spec, bases["llama"], adapters["gpt2"])
    with pytest.raises(CannotServe, match="is an adapter of another model"):
        bench.engine.open(spec)


def test_an_adapter_that_names_another_base_on_the_hub_is_refused(
    bench: Bench, tmp_path: Path, adapters: dict[str, Path]
) -> None:
    folder = shutil.copytree(adapters["gpt2"], tmp_path / "a")
    change_json("adapter_config.json", base_model_name_or_path="org/gpt2")(folder)
    hub = pinning.Pinned("other/gpt2", "0" * 40)
    pinning.with_adapter(hub, {}, str(folder), bench.folders)
    with pytest.raises(ModelUnsuitable, match=r"is an adapter of org/gpt2, not of org/llama: use --model org/gpt2"):
        pinning.with_adapter(replace(hub, model="org/llama"), {}, str(folder), bench.folders)


def test_files_that_change_after_the_order_are_refused(
    bench: Bench, tmp_path: Path, bases: dict[str, Path], adapters: dict[str, Path]
) -> None:
    folder = shutil.copytree(adapters["gpt2"], tmp_path / "a")
    spec = bench.spec("generate", bases["gpt2"], adapter=str(folder), prompt="{text}")
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text() + " ")
    with pytest.raises(CannotServe, match="have changed since the job was made"):
        bench.engine.open(spec)


def test_an_adapter_is_of_one_model_that_has_weights(bench: Bench, adapters: dict[str, Path]) -> None:
    null = pinning.pin("null", bench.folders)
    with pytest.raises(ModelUnsuitable, match="null has no weights that an adapter could change"):
        pinning.with_adapter(null, {}, str(adapters["gpt2"]), bench.folders)
    with pytest.raises(BadOption, match="--adapter is of one model"):
        plan_spec("embed", pinned=null, adapter="a")
