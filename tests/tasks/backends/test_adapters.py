"""Models with LoRA adapters: the outputs of PEFT's own model, one document at a time, in float32."""

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

from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.merging import merge, require_fits
from docmill.tasks.errors import BadOption, CannotServe, ModelCorrupt, ModelNotFound, ModelUnsuitable
from docmill.tasks.outputs import Head
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec
from tests.tasks import architectures, decoders
from tests.tasks.backends.encoder.test_pooling import saved
from tests.tasks.conftest import Bench, Benches, data_of
from tests.tasks.deciding import require_equal
from tests.tasks.models.test_weights import remove, shorten, write
from tests.tasks.real_lines import half_and_more

# PEFT asks transformers by names that transformers changed, and says that it saves and unties embeddings.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}")
    for words in ("is_gradient_checkpointing", "save_embedding_layers", "tie_word_embeddings", "tied")
]

NEW_TOKENS = 10
LABELS = 3
# By base: the class that was adapted, PEFT's name of the task, the adapted layers and those that are replaced.
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
def bases(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> dict[str, Path]:
    torch.manual_seed(5)
    folder, some = tmp_path_factory.mktemp("bases"), descriptions[:40]
    return {
        "bert": architectures.bert(folder / "bert", some),
        "t5": architectures.t5(folder / "t5", some, initializer_factor=2.0, tie_word_embeddings=False),
        "gpt2": decoders.gpt2(folder / "gpt2", some),
        "llama": decoders.llama(folder / "llama", some),
        "tied t5": architectures.t5(folder / "tied", some, initializer_factor=2.0),
        "embeddings": decoders.qwen2(folder / "qwen2", some),
        **dict.fromkeys(("tied input", "tied output", "tied and trained"), decoders.qwen3(folder / "qwen3", some)),
    }


def loaded(folder: Path, kind: str, **options: Any) -> Any:
    with quiet():
        return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, **options).eval()


def trained(base: Path, folder: Path, kind: str, **options: Any) -> Path:
    """Save an adapter of a base as if it were trained: its matrices are random, and replaced layers have changed."""
    torch.manual_seed(9)
    labels = {"num_labels": LABELS} if options.get("modules_to_save") == ["classifier"] else {}
    conv1d = "c_attn" in options["target_modules"]
    config = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, fan_in_fan_out=conv1d, **options)
    model = get_peft_model(loaded(base, kind, **labels), config)
    for name, weight in model.named_parameters():
        if "modules_to_save" in name:
            weight.data += torch.randn_like(weight) * weight.std()
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: trained(
            bases[name], folder / name, kind, task_type=task, target_modules=layers, modules_to_save=replaced
        )
        for name, (kind, task, layers, replaced) in ADAPTED.items()
    }


def peft_model(base: Path, adapter: Path, kind: str, **options: Any) -> Any:
    with quiet():
        return PeftModel.from_pretrained(loaded(base, kind, **options), str(adapter)).eval()


def spec_of(bench: Bench, kind: str, base: Path, adapter: Path | None, **options: Any) -> Spec:
    pinned = pinning.pin(str(base), bench.folders)
    config = pinning.read_config(pinned, bench.folders)
    named = None if adapter is None else str(adapter)
    both, whole = pinning.with_adapter(pinned, config, named, bench.folders)
    asked = kinds.options(kind, **{"dtype": "float32", "adapter": named, **options})
    return build_spec(kind, both, asked, whole)


@pytest.mark.parametrize("backend", ["transformers", "openvino"])
def test_a_classifier_that_the_adapter_brings_scores_as_peft_does(
    benches: Benches, bases: dict[str, Path], made: dict[str, Path], texts: list[str], backend: str
) -> None:
    bench = benches(backend)
    spec = spec_of(bench, "classify", bases["bert"], made["bert"])
    model = peft_model(bases["bert"], made["bert"], "AutoModelForSequenceClassification", num_labels=LABELS)
    tokenizer = AutoTokenizer.from_pretrained(bases["bert"])
    outcomes = bench.run(spec, texts)
    assert bench.engine.open(spec)["backend"] == backend
    for text, outcome in zip(texts, outcomes, strict=True):
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        found = {one["label"]: one["score"] for one in data_of(outcome)["labels"]}
        np.testing.assert_allclose([found[f"LABEL_{number}"] for number in range(LABELS)], expected, atol=2e-5)


def written_by(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    """Return what a model's generate writes for each text, after its chat template if it has one."""
    answers = []
    for text in texts:
        prompt = f"Say: {text}"
        if tokenizer.chat_template is not None:
            asked = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=tokenizer.chat_template is None)
        with torch.inference_mode(), quiet():
            ids = model.generate(**encoded, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
        begin = 0 if model.config.is_encoder_decoder else encoded["input_ids"].shape[1]
        answers.append(tokenizer.decode(ids[begin:], skip_special_tokens=True))
    return answers


@half_and_more([name for name in ADAPTED if name != "bert"])
def test_texts_are_those_that_peft_writes(
    bench: Bench, bases: dict[str, Path], made: dict[str, Path], texts: list[str], name: str
) -> None:
    base, adapter, kind = bases[name], made[name], ADAPTED[name][0]
    spec = spec_of(bench, "generate", base, adapter, prompt="Say: {text}", max_new_tokens=NEW_TOKENS)
    written = partial(written_by, peft_model(base, adapter, kind), AutoTokenizer.from_pretrained(base), texts)
    expected = require_equal([outcome.text for outcome in bench.run(spec, texts)], written)
    plain = spec_of(bench, "generate", base, None, prompt="Say: {text}", max_new_tokens=NEW_TOKENS)
    without = [outcome.text for outcome in bench.run(plain, texts)]
    assert sum(one != other for one, other in zip(without, expected, strict=True)) > 1
    assert plain.sha256 != spec.sha256


def test_the_config_of_a_merged_model_unties_a_layer_that_the_adapter_changes(
    bench: Bench, tmp_path: Path, bases: dict[str, Path], made: dict[str, Path]
) -> None:
    # vLLM goes by the config, and would leave out the weights of a tied layer.
    base, adapter = bases["tied output"], made["tied output"]
    spec = spec_of(bench, "generate", base, adapter, prompt="{text}")
    merge(spec, base, adapter, Head.CAUSAL_TEXT, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False


def test_vectors_are_those_of_the_adapted_encoder(
    bench: Bench, tmp_path: Path, bases: dict[str, Path], texts: list[str]
) -> None:
    dense = Dense(32, 8)
    base = saved(tmp_path / "base", bases["bert"], Pooling(32, "cls"), dense)
    folder = trained(base, tmp_path / "a", "AutoModel", target_modules=["query", "dense"])
    model, tokenizer = peft_model(base, folder, "AutoModel"), AutoTokenizer.from_pretrained(base)
    spec = spec_of(bench, "embed", base, folder)
    for text, outcome in zip(texts, bench.run(spec, texts), strict=True):
        with torch.inference_mode():
            first = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
            expected = dense({"sentence_embedding": first})["sentence_embedding"].numpy()
        assert outcome.vector is not None
        np.testing.assert_allclose(np.frombuffer(outcome.vector, "<f4"), expected, atol=2e-5)


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "error", "says"),
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
    damage: Any, error: type[Exception], says: str, bench: Bench, tmp_path: Path, bases: Any, made: dict[str, Path]
) -> None:
    folder = shutil.copytree(made["gpt2"], tmp_path / "a")
    damage(folder)
    with pytest.raises(error, match=says):
        spec_of(bench, "generate", bases["gpt2"], folder, prompt="{text}")


def test_an_adapter_whose_weights_fit_another_model_is_refused_before_weights_are_read(
    bench: Bench, bases: dict[str, Path], made: dict[str, Path]
) -> None:
    spec = spec_of(bench, "generate", bases["llama"], made["gpt2"], prompt="{text}")
    with pytest.raises(
        ModelUnsuitable, match=r"is an adapter of another model or for another task: its .* does not fit"
    ):
        require_fits(spec, bases["llama"], made["gpt2"])
    with pytest.raises(CannotServe, match="is an adapter of another model"):
        bench.engine.open(spec)


def test_an_adapter_that_names_another_base_on_the_hub_is_refused(
    bench: Bench, tmp_path: Path, made: dict[str, Path]
) -> None:
    folder = shutil.copytree(made["gpt2"], tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/gpt2"}))
    hub = pinning.Pinned("other/gpt2", "0" * 40)
    pinning.with_adapter(hub, {}, str(folder), bench.folders)
    with pytest.raises(ModelUnsuitable, match=r"is an adapter of org/gpt2, not of org/llama: use --model org/gpt2"):
        pinning.with_adapter(replace(hub, model="org/llama"), {}, str(folder), bench.folders)


def test_files_that_change_after_the_order_are_refused(
    bench: Bench, tmp_path: Path, bases: dict[str, Path], made: dict[str, Path]
) -> None:
    folder = shutil.copytree(made["gpt2"], tmp_path / "a")
    spec = spec_of(bench, "generate", bases["gpt2"], folder, prompt="{text}")
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text() + " ")
    with pytest.raises(CannotServe, match="have changed since the job was made"):
        bench.engine.open(spec)


def test_an_adapter_is_of_one_model_that_has_weights(bench: Bench, made: dict[str, Path]) -> None:
    null = pinning.pin("null", bench.folders)
    with pytest.raises(ModelUnsuitable, match="null has no weights that an adapter could change"):
        pinning.with_adapter(null, {}, str(made["gpt2"]), bench.folders)
    with pytest.raises(BadOption, match="--adapter is of one model"):
        build_spec("embed", null, kinds.options("embed", adapter="a"), {})
