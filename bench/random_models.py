"""Make models of real sizes with random weights, for machines without access to a model hub.

Speed and memory do not depend on the weights. The tokenizers are trained on example texts, so that a text has about
as many tokens as with the tokenizer of a trained model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordPiece

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_VOCABULARY = 8_000
# Larger than the usual initial weights, with which attention hardly matters and outputs nearly tie.
_INITIALIZER_RANGE = 0.1


class HeadClass(Enum):
    """The head of an encoder, as the name of its class in transformers. LABELS has the labels of an NLI model."""

    NONE = "AutoModel"
    LABELS = "AutoModelForSequenceClassification"
    TAGS = "AutoModelForTokenClassification"
    ANSWERS = "AutoModelForQuestionAnswering"

    @property
    def labels(self) -> tuple[str, ...]:
        return {HeadClass.TAGS: _TAGS, HeadClass.ANSWERS: ("start", "end")}.get(self, _NLI)


_NLI = ("contradiction", "neutral", "entailment")
_TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-MISC", "I-MISC")


@dataclass(frozen=True)
class Size:
    """The geometry of a model. Only decoders use ``kv_heads``."""

    name: str
    layers: int
    dim: int
    heads: int
    inner: int
    kv_heads: int = 1


TINY = Size("tiny", 2, 64, 4, 128, 2)
MINILM = Size("MiniLM", 6, 384, 12, 1_536)
BERT_BASE = Size("BERT base", 12, 768, 12, 3_072)
SMOLLM_135M = Size("SmolLM2 135M", 30, 576, 9, 1_536, 3)
LLAMA_1B = Size("Llama 3.2 1B", 16, 2_048, 32, 8_192, 8)


def paragraphs(name: str = "descriptions.jsonl") -> list[str]:
    """Return the paragraphs of an example file, without very short ones."""
    rows = map(json.loads, (EXAMPLES / name).read_text(encoding="utf-8").splitlines())
    return [line for row in rows for line in row["text"].split("\n") if len(line.strip()) > 20]


def encoder(
    folder: Path, size: Size, model_type: str, texts: Sequence[str], head: HeadClass = HeadClass.NONE
) -> Path:
    """Make an encoder of a model type, such as `bert`, with a head. Return its folder."""
    tokenizer = _train_word_pieces(texts, has_token_types=model_type == "bert")
    sizes: dict[str, Any] = (
        {"dim": size.dim, "n_layers": size.layers, "n_heads": size.heads, "hidden_dim": size.inner}
        if model_type == "distilbert"
        else {
            "hidden_size": size.dim,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "intermediate_size": size.inner,
        }
    )
    config = transformers.AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=514,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=_INITIALIZER_RANGE,
        id2label=dict(enumerate(head.labels)),
        label2id={label: number for number, label in enumerate(head.labels)},
        **sizes,
    )
    return _save(folder, getattr(transformers, head.value).from_config(config), tokenizer)


def decoder(folder: Path, size: Size, texts: Sequence[str]) -> Path:
    """Make a decoder of Llama's design that has no end token. Return its folder."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_train_byte_pairs(texts), pad_token="<pad>", eos_token="<end>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.dim,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.inner,
        max_position_embeddings=2_048,
        initializer_range=_INITIALIZER_RANGE,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(folder, transformers.LlamaForCausalLM(config), tokenizer)


def _save(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seeded(seed: int = 0) -> None:
    """Seed the weights of the next models, so that they are the same in each run."""
    torch.manual_seed(seed)


def _train_word_pieces(texts: Sequence[str], *, has_token_types: bool) -> Any:
    """Return a WordPiece tokenizer trained on these texts."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if has_token_types else []), "attention_mask"],
        model_max_length=512,
    )


def _train_byte_pairs(texts: Sequence[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer trained on these texts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
