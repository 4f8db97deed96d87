"""Small models with random weights, of many architectures, saved as on the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece

ENCODER_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
# With usual random weights all tokens are nearly as likely, and rounding would decide.
SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "init_std": 0.5,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}


def encoder_decoder(name: str, tokenizer: Any, **config: Any) -> Any:
    """Return a model whose classes in transformers begin with ``name``."""
    own_config = getattr(transformers, f"{name}Config")(**{"vocab_size": len(tokenizer), **config})
    return getattr(transformers, f"{name}ForConditionalGeneration")(own_config)


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Save a model with its tokenizer, and return the folder."""
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy_with_settings(folder: Path, target: Path, **settings: Any) -> Path:
    """Copy a model's folder, and change generation settings in the copy."""
    shutil.copytree(folder, target)
    file = target / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return target


def unigram(texts: Iterable[str], special: list[str], size: int = 400, unknown: str = "<unk>") -> Tokenizer:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token=unknown, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # The order and the last digits of the scores differ between runs.
    learnt = sorted(json.loads(tokenizer.to_str())["model"]["vocab"], key=lambda row: (row[0] not in special, row[0]))
    pieces = [(piece, round(score, 1)) for piece, score in learnt[len(special) :]]
    tokenizer.model = Unigram([*((piece, 0.0) for piece in special), *pieces], unk_id=special.index(unknown))
    return tokenizer


def byte_level(texts: Iterable[str], special: list[str], size: int = 500) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _pieces(texts: list[str], max_length: int) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of word pieces that puts an end token after each text."""
    tokenizer = unigram(texts, ["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def t5(folder: Path, texts: list[str], kind: str = "T5", **config: Any) -> Path:
    """Save a T5, or a variant whose classes begin with ``kind``."""
    fast = _pieces(texts, 512)
    settings = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "n_positions": 512,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        **config,
    }
    model = encoder_decoder(kind, fast, **settings)
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.data[0] = 0  # no trained model writes padding
    return save(folder, model, fast)


def _bart_like(folder: Path, texts: list[str], name: str, **config: Any) -> Path:
    fast = byte_pairs(texts)
    fast.model_max_length = 1024
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    model = encoder_decoder(name, fast, forced_eos_token_id=2, **ids, **SIZES, **config)
    model.generation_config.max_length = 30
    model.generation_config.num_beams = 3
    return save(folder, model, fast)


def bart(folder: Path, texts: list[str]) -> Path:
    return _bart_like(folder, texts, "Bart", max_position_embeddings=128)


def led(folder: Path, texts: list[str]) -> Path:
    """Save an LED. Its encoder sees 16 tokens around each token, so longer texts are padded to a multiple of 16."""
    positions = {"max_encoder_position_embeddings": 256, "max_decoder_position_embeddings": 128}
    return _bart_like(folder, texts, "LED", attention_window=16, **positions)


def pegasus(folder: Path, texts: list[str]) -> Path:
    fast = _pieces(texts, 128)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1}
    model = encoder_decoder("Pegasus", fast, max_position_embeddings=128, **ids, **SIZES)
    model.generation_config.max_length = 20
    return save(folder, model, fast)


def sentencepiece_model(folder: Path, texts: list[str], name: str) -> Path:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / name), vocab_size=400, hard_vocab_limit=False, minloglevel=2
    )
    corpus.unlink()
    (folder / f"{name}.vocab").unlink()
    return folder / f"{name}.model"


def marian(folder: Path, texts: list[str], language_tokens: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True)
    sentencepiece_model(folder, texts, "source").rename(folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = ["</s>", "<unk>", *language_tokens]
    names += [pieces.id_to_piece(n) for n in range(pieces.get_piece_size())]
    names = [*dict.fromkeys(name for name in names if name != "<s>"), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    pad = len(names) - 1
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "MarianTokenizer", "model_max_length": 512, "source_lang": "es"})
    )
    config = transformers.MarianConfig(
        vocab_size=len(names),
        decoder_vocab_size=len(names),
        max_position_embeddings=128,
        pad_token_id=pad,
        eos_token_id=0,
        bos_token_id=0,
        decoder_start_token_id=pad,
        forced_eos_token_id=0,
        **SIZES,
    )
    model = transformers.MarianMTModel(config).eval()
    model.generation_config.max_length = 30
    model.generation_config.bad_words_ids = [[pad]]
    model.save_pretrained(folder)
    # Older models on the hub have their weights in a pickle.
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def multilingual(folder: Path, texts: list[str], codes: list[str], kind: str) -> Path:
    """Save an nllb, mbart or m2m100, which get languages as tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "nllb":
        bpe = Tokenizer(BPE(unk_token="<unk>"))
        bpe.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
        bpe.train_from_iterator(texts, trainer)
        learnt = json.loads(bpe.to_str())["model"]
        merges = [tuple(pair) for pair in learnt["merges"]]
        tokenizer = transformers.NllbTokenizer(
            vocab=learnt["vocab"], merges=merges, extra_special_tokens=codes, model_max_length=1024
        )
    elif kind == "mbart":
        pieces = json.loads(unigram(texts, special).to_str())["model"]["vocab"]
        tokenizer = transformers.MBart50Tokenizer(vocab=[tuple(piece) for piece in pieces])
    else:
        folder.mkdir(parents=True)
        spm = sentencepiece_model(folder, texts, "sentencepiece.bpe")
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(spm))
        learnt = [pieces.id_to_piece(number) for number in range(3, pieces.get_piece_size())]
        vocabulary = folder / "vocab.json"
        vocabulary.write_text(json.dumps({name: number for number, name in enumerate([*special, *learnt])}))
        tokenizer = transformers.M2M100Tokenizer(str(vocabulary), str(spm), model_max_length=1024)
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    settings = {"vocab_size": len(tokenizer) + 128, "max_position_embeddings": 128, **ids, **SIZES}
    model = encoder_decoder("MBart" if kind == "mbart" else "M2M100", tokenizer, **settings)
    model.generation_config.max_length = 30
    return save(folder, model, tokenizer)


# The special tokens of BERT and DeBERTa.
IN_BRACKETS: dict[str, Any] = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}


def words(texts: Sequence[str], *, typed: bool) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of BERT's kind. If ``typed``, it marks the second text of a pair."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
        model_max_length=128,
        **IN_BRACKETS,
    )


def sentence_pieces(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of DeBERTa's kind, whose tokens begin with the white space before a word."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = unigram(texts, special, size=500, unknown="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **IN_BRACKETS)


def byte_pairs(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of RoBERTa's kind."""
    tokenizer = byte_level(texts, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=128,
    )


def bert(folder: Path, texts: list[str]) -> Path:
    tokenizer = words(texts, typed=True)
    config = transformers.BertConfig(vocab_size=len(tokenizer), **ENCODER_SIZES, max_position_embeddings=128)
    return save(folder, transformers.BertModel(config), tokenizer)


def roberta(folder: Path, texts: list[str]) -> Path:
    tokenizer = byte_pairs(texts)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), **ENCODER_SIZES, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1
    )
    return save(folder, transformers.RobertaModel(config), tokenizer)
