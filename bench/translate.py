"""Translation or summaries by an encoder-decoder of base size: docmill end to end, CTranslate2, transformers.

The model is Marian's base geometry with random weights, which writes 32 tokens for every text, so that all sides do
the same work. End to end is Redis and PostgreSQL with a worker that has loaded the model: from the file with the
texts to the end of the job. The sides that are called directly tokenise and decode inside their time, too. Each side
has as many texts as keep it busy for some seconds; a text is another one in each run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel

from bench.fleet import Fleet, fleet
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.encoder_decoder.ctranslate import convert
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.engine.engine import Engine
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.outputs import Head
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec

SHIPPED = Path(__file__).resolve().parent.parent / "examples" / "models"
TOKENIZERS = {"translate": SHIPPED / "marian-ddtp", "summarize": SHIPPED / "synopsis-ddtp"}
VOCABULARY = 58_101
NEW_TOKENS = 32
LONGEST_CHARS = 1_000  # of a text to be summarised: below 512 tokens
WAIT_S = 300.0
BATCHES = (16, 24, 32, 48, 64, 96)
SIDES = {
    "docmill, ctranslate2 int8": 8,
    "CTranslate2 directly, int8": 8,
    "docmill, ctranslate2 float32": 4,
    "CTranslate2 directly, float32": 4,
    "transformers, batches of 32, float32": 1,
    "transformers, batches of 32, bfloat16": 1,
    "our transformers backend, native": 1,
}
DOCMILL_INT8, DIRECT_INT8, DOCMILL_FP32, DIRECT_FP32, PEER, _, OURS = SIDES


@dataclass
class Texts:
    """Texts that no run has seen: each has the number of its run before it."""

    base: Sequence[str]
    runs: dict[str, int] = field(default_factory=dict)

    def next(self, side: str) -> list[str]:
        number = self.runs[side] = self.runs.get(side, 0) + 1
        some = [*self.base] * SIDES[side]
        return [f"{number} {place} {text}" for place, text in enumerate(some)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TOKENIZERS), default="translate", help="summaries are of longer texts")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--greedy", type=int, default=64, help="texts of the slow sides; CTranslate2 has 4 and 8 times as many"
    )
    parser.add_argument("--beams", type=int, default=32, help="the same with 4 beams")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = base_model(folder / "marian-base", TOKENIZERS[asked.task])
        compared: list[Comparison] = []
        claimed: list[list[Claim]] = []
        busy: dict[str, list[float]] = {}
        for beams, count in ((1, asked.greedy), (4, asked.beams)):
            texts = Texts(some_texts(asked.task, count))
            with (
                fleet(folder / f"mill-{beams}", lane=asked.task, backend="ctranslate2") as through,
                direct(model, asked.task, beams, folder, texts) as sides,
            ):
                for dtype, side in (("int8", DOCMILL_INT8), ("float32", DOCMILL_FP32)):
                    sides[side] = partial(end_to_end, through, model, asked.task, beams, dtype, texts, side)
                ordered = {side: sides[side] for side in SIDES}
                compared.append(interleave(question(asked.task, beams), "tokens", ordered, pairs=asked.pairs))
                busy[f"beams={beams}"] = through.busy_shares()
            claimed.append(claims(beams))
            write(asked.task, compared, claimed, busy_shares_end_to_end=busy)


def some_texts(task: str, count: int) -> list[str]:
    """Paragraphs to translate; to summarise, four of them at a time, as far as they fit into the model's window."""
    if task == "translate":
        return paragraphs(count)
    found = iter(paragraphs(8 * count))
    fours = (" ".join(four) for four in zip(found, found, found, found, strict=True))
    short = [text for text in fours if len(text) <= LONGEST_CHARS]
    if len(short) < count:
        raise SystemExit(f"only {len(short)} of these texts fit into the model's window; ask for less")
    return short[:count]


def question(task: str, beams: int) -> str:
    what = f"{task}, Marian of base size"
    return f"{what}, {'greedy' if beams == 1 else f'{beams} beams'}, {NEW_TOKENS} tokens a text"


def claims(beams: int) -> list[Claim]:
    return [
        Claim("end to end ÷ CTranslate2, int8", DOCMILL_INT8, DIRECT_INT8, 0.95),
        Claim("end to end ÷ CTranslate2, float32", DOCMILL_FP32, DIRECT_FP32, 0.95),
        Claim("end to end int8 ÷ transformers", DOCMILL_INT8, PEER, 4.0 if beams == 1 else 2.5),
        Claim("our transformers backend ÷ transformers", OURS, PEER, 1.5),
    ]


def base_model(folder: Path, tokenizer: Path) -> Path:
    """A folder with the model; its vocabulary is that of a shipped one, filled up with words that mean nothing."""
    folder.mkdir()
    for name in ("source.spm", "target.spm", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "added_tokens_decoder"})
    )
    words = sorted(json.loads((tokenizer / "vocab.json").read_text()).items(), key=lambda item: item[1])
    names = [name for name, _ in words if name != "<pad>"]
    names += [f"▁word{number}" for number in range(VOCABULARY - 1 - len(names))] + ["<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    pad = VOCABULARY - 1
    torch.manual_seed(5)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=VOCABULARY,
            d_model=512,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=2048,
            decoder_ffn_dim=2048,
            max_position_embeddings=512,
            activation_function="swish",
            scale_embedding=True,
            pad_token_id=pad,
            eos_token_id=0,
            bos_token_id=0,
            decoder_start_token_id=pad,
            forced_eos_token_id=None,
        )
    )
    model.generation_config.update(min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, bad_words_ids=[[pad]])
    with quiet():
        model.save_pretrained(folder)
    return folder


def end_to_end(through: Fleet, model: Path, task: str, beams: int, dtype: str, texts: Texts, side: str) -> Run:
    """A job with a warm worker, from its source to its end."""
    some = texts.next(side)
    seconds, written = through.run(some, task, str(model), beams=beams, dtype=dtype)
    assert written >= len(some) * NEW_TOKENS, "a text was given fewer tokens than on the other sides"
    return Run(written, seconds)


@contextmanager
def direct(model: Path, task: str, beams: int, folder: Path, texts: Texts) -> Iterator[dict[str, Callable[[], Run]]]:
    """The sides that run in this process."""
    sides: dict[str, Callable[[], Run]] = {}
    folders = ModelFolders(None, folder)
    pinned = pinning.pin(str(model), folders)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(model)
        for dtype in ("float32", "bfloat16"):
            side = f"transformers, batches of 32, {dtype}"
            sides[side] = partial(by_transformers, seq2seq(model, dtype), tokenizer, beams, texts, side)
    for dtype, side in (("int8", DIRECT_INT8), ("float32", DIRECT_FP32)):
        translator = translator_of(model, dtype, folder)
        best = max(BATCHES, key=lambda size: by_ctranslate2(translator, tokenizer, beams, size, texts, side).rate)
        sys.stderr.write(f"{side}: batches of {best} are the fastest of {BATCHES}\n")
        sides[side] = partial(by_ctranslate2, translator, tokenizer, beams, best, texts, side)
    opener = partial(open_backend, device="cpu", folders=folders, backend="transformers")
    engine = Engine(opener)
    engine.start()
    spec = build_spec(task, pinned, kinds.options(task, beams=beams), pinning.read_config(pinned, folders))
    sides[OURS] = partial(by_ours, engine, spec, texts)
    try:
        yield sides
    finally:
        engine.close()


def seq2seq(model: Path, dtype: str) -> Any:
    """The model as transformers loads it."""
    return AutoModelForSeq2SeqLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()


def translator_of(model: Path, dtype: str, folder: Path) -> Any:
    """The model as CTranslate2 loads it, a thread for each core; what it is converted to is kept in the folder."""
    cores = len(os.sched_getaffinity(0))
    return ctranslate2.Translator(
        str(converted(model, folder)), compute_type=dtype, inter_threads=cores, intra_threads=1, max_queued_batches=-1
    )


def converted(model: Path, folder: Path) -> Path:
    """Return the folder with a model as docmill converts it for CTranslate2; a cache in ``folder`` keeps it."""
    pinned = pinning.pin(str(model), ModelFolders(None, folder))
    spec = Spec("translate", str(model), pinned.revision)
    return convert(Assignment(spec, model, "cpu", folder, Head.SEQ2SEQ_TEXT))


def by_ctranslate2(translator: Any, tokenizer: Any, beams: int, size: int, texts: Texts, side: str) -> Run:
    """Sorted by length and batched by CTranslate2 itself; the words of the converted model are token ids."""
    some = texts.next(side)

    def work() -> float:
        sources = [list(map(str, ids)) for ids in tokenizer(some)["input_ids"]]
        results = translator.translate_batch(
            sources,
            max_batch_size=size,
            beam_size=beams,
            min_decoding_length=NEW_TOKENS,
            max_decoding_length=NEW_TOKENS,
            suppress_sequences=[[str(VOCABULARY - 1)]],
        )
        written = [[int(word) for word in result.hypotheses[0]] for result in results]
        tokenizer.batch_decode(written, skip_special_tokens=True)
        return float(sum(map(len, written)))

    return timed(work)


def by_transformers(model: Any, tokenizer: Any, beams: int, texts: Texts, side: str) -> Run:
    """generate in batches of 32 texts of like length."""
    some = sorted(texts.next(side), key=len)

    def work() -> float:
        n_written = 0
        for start in range(0, len(some), 32):
            batch = tokenizer(some[start : start + 32], return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = model.generate(**batch, num_beams=beams)
            tokenizer.batch_decode(ids, skip_special_tokens=True)
            n_written += (ids.shape[1] - 1) * ids.shape[0]
        return float(n_written)

    return timed(work)


def by_ours(engine: Engine, spec: Spec, texts: Texts) -> Run:
    """Our engine with the transformers backend."""
    some = texts.next(OURS)

    def work() -> float:
        ticket = engine.submit(spec, list(enumerate(some)))
        assert ticket.wait(WAIT_S)
        return float(sum(outcome.tokens_out or 0 for outcome in ticket.finished()))

    return timed(work)


if __name__ == "__main__":
    main()
