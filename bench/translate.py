"""Compare docmill with CTranslate2 and transformers: translation or summaries by an encoder-decoder of base size.

The model has the geometry of Marian's base model and random weights. It writes 32 tokens for every text, so all sides
do the same work. docmill runs end to end, with Redis, PostgreSQL and a worker that has loaded the model; its time is
from the file with the texts to the end of the job. The time of the sides that are called directly includes tokenizing
and decoding. Each side gets enough texts to keep it busy for some seconds, and new texts in each run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel

from bench import ctranslate2_peer
from bench.ctranslate2_peer import NEW_TOKENS, VOCABULARY
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
LONGEST_CHARS = 1_000  # of a text to summarize, which keeps it below 512 tokens
WAIT_S = 300.0
BATCHES = (16, 24, 32, 48, 64, 96)
# Each side gets this many times the texts of --greedy or --beams.
SIDES = {
    "docmill, ctranslate2 int8": 8,
    "CTranslate2 directly, int8": 8,
    "docmill, ctranslate2 float32": 4,
    "CTranslate2 directly, float32": 4,
    "transformers, batches of 32, float32": 1,
    "transformers, batches of 32, bfloat16": 1,
    "our transformers backend, native": 1,
}
DOCMILL_INT8, DIRECT_INT8, DOCMILL_FP32, DIRECT_FP32, PEER, PEER_BF16, OURS = SIDES


@dataclass
class Texts:
    """Texts that no run of a side has seen before: each begins with the number of its run and its own number."""

    base: Sequence[str]
    runs: dict[str, int] = field(default_factory=dict)

    def take(self, side: str) -> list[str]:
        """Return the texts for the side's next run."""
        run = self.runs[side] = self.runs.get(side, 0) + 1
        return [f"{run} {number} {text}" for number, text in enumerate([*self.base] * SIDES[side])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(TOKENIZERS), default="translate", help="texts to summarize are longer")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--greedy", type=int, default=64, help="texts for the slowest sides; the others get 4 or 8 times as many"
    )
    parser.add_argument("--beams", type=int, default=32, help="texts for the slowest sides with 4 beams")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_base_model(folder / "marian-base", TOKENIZERS[options.task])
        comparisons: list[Comparison] = []
        claims: list[list[Claim]] = []
        busy_shares: dict[str, list[float]] = {}
        for beams, count in ((1, options.greedy), (4, options.beams)):
            texts = Texts(select_texts(options.task, count))
            with (
                fleet(folder / f"mill-{beams}", lane=options.task, backend="ctranslate2") as installation,
                direct_sides(model, options.task, beams, folder, texts) as sides,
            ):
                for dtype, side in (("int8", DOCMILL_INT8), ("float32", DOCMILL_FP32)):
                    sides[side] = partial(
                        run_end_to_end, installation, model, options.task, beams, dtype, texts, side
                    )
                ordered = {side: sides[side] for side in SIDES}
                question = phrase_question(options.task, beams)
                comparisons.append(interleave(question, "tokens", ordered, pairs=options.pairs))
                busy_shares[f"beams={beams}"] = installation.busy_shares()
            claims.append(list_claims(beams, comparisons[-1].best(PEER, PEER_BF16)))
            write(options.task, comparisons, claims, busy_shares_end_to_end=busy_shares)


def select_texts(task: str, count: int) -> list[str]:
    """Return paragraphs to translate, or texts of four paragraphs to summarize that fit into the model's window."""
    if task == "translate":
        return paragraphs(count)
    source = iter(paragraphs(8 * count))
    joined = (" ".join(four) for four in zip(source, source, source, source, strict=True))
    short = [text for text in joined if len(text) <= LONGEST_CHARS]
    if len(short) < count:
        raise SystemExit(f"Only {len(short)} of the texts fit into the model's window. Ask for fewer.")
    return short[:count]


def phrase_question(task: str, beams: int) -> str:
    """Return the heading of a comparison."""
    search = "greedy" if beams == 1 else f"{beams} beams"
    return f"{task}, Marian of base size, {search}, {NEW_TOKENS} tokens a text"


def list_claims(beams: int, peer: str) -> list[Claim]:
    """Return the ratios that we aim at. `peer` is transformers in its best precision."""
    return [
        Claim("end to end ÷ CTranslate2, int8", DOCMILL_INT8, DIRECT_INT8, 0.95),
        Claim("end to end ÷ CTranslate2, float32", DOCMILL_FP32, DIRECT_FP32, 0.95),
        Claim(f"end to end int8 ÷ {peer}", DOCMILL_INT8, peer, 4.0 if beams == 1 else 2.5),
        Claim(f"our transformers backend ÷ {peer}", OURS, peer, 1.5),
    ]


def make_base_model(folder: Path, tokenizer: Path) -> Path:
    """Save the model in a new folder, and return the folder.

    The vocabulary is that of a shipped tokenizer, filled up with meaningless words.
    """
    folder.mkdir()
    for name in ("source.spm", "target.spm", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key != "added_tokens_decoder"})
    )
    token_ids = sorted(json.loads((tokenizer / "vocab.json").read_text()).items(), key=lambda item: item[1])
    tokens = [token for token, _ in token_ids if token != "<pad>"]
    tokens += [f"▁word{number}" for number in range(VOCABULARY - 1 - len(tokens))] + ["<pad>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    pad_id = VOCABULARY - 1
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
            pad_token_id=pad_id,
            eos_token_id=0,
            bos_token_id=0,
            decoder_start_token_id=pad_id,
            forced_eos_token_id=None,
        )
    )
    model.generation_config.update(min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, bad_words_ids=[[pad_id]])
    with quiet():
        model.save_pretrained(folder)
    return folder


def run_end_to_end(
    installation: Fleet, model: Path, task: str, beams: int, dtype: str, texts: Texts, side: str
) -> Run:
    """Run a job with a warm worker, timed from its source to its end."""
    sources = texts.take(side)
    seconds, n_tokens = installation.run(sources, task, str(model), beams=beams, dtype=dtype)
    assert n_tokens >= len(sources) * NEW_TOKENS, "a text got fewer tokens than on the other sides"
    return Run(n_tokens, seconds)


@contextmanager
def direct_sides(
    model: Path, task: str, beams: int, folder: Path, texts: Texts
) -> Iterator[dict[str, Callable[[], Run]]]:
    """Yield the sides that run in this process. CTranslate2 uses its fastest batch size."""
    sides: dict[str, Callable[[], Run]] = {}
    folders = ModelFolders(None, folder)
    pinned = pinning.pin(str(model), folders)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(model)
        for dtype in ("float32", "bfloat16"):
            side = f"transformers, batches of 32, {dtype}"
            sides[side] = partial(run_transformers, load_seq2seq(model, dtype), tokenizer, beams, texts, side)
    for dtype, side in (("int8", DIRECT_INT8), ("float32", DIRECT_FP32)):
        translator = ctranslate2_peer.load_translator(convert_for_ctranslate2(model, folder), dtype)
        best = max(BATCHES, key=lambda size: run_ctranslate2(translator, tokenizer, beams, size, texts, side).rate)
        sys.stderr.write(f"{side}: batches of {best} are the fastest of {BATCHES}\n")
        sides[side] = partial(run_ctranslate2, translator, tokenizer, beams, best, texts, side)
    opener = partial(open_backend, device="cpu", folders=folders, backend="transformers")
    engine = Engine(opener)
    engine.start()
    spec = build_spec(task, pinned, kinds.options(task, beams=beams), pinning.read_config(pinned, folders))
    sides[OURS] = partial(run_engine, engine, spec, texts)
    try:
        yield sides
    finally:
        engine.close()


def load_seq2seq(model: Path, dtype: str) -> Any:
    """Load the model with transformers."""
    return AutoModelForSeq2SeqLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()


def convert_for_ctranslate2(model: Path, folder: Path) -> Path:
    """Convert a model for CTranslate2 as docmill does, and return the result's folder. `folder` caches it."""
    pinned = pinning.pin(str(model), ModelFolders(None, folder))
    spec = Spec("translate", str(model), pinned.revision)
    return convert(Assignment(spec, model, "cpu", folder, Head.SEQ2SEQ_TEXT))


def run_ctranslate2(translator: Any, tokenizer: Any, beams: int, size: int, texts: Texts, side: str) -> Run:
    """Translate with CTranslate2, which sorts the texts by length and makes batches of at most `size` texts."""
    sources = texts.take(side)

    return timed(lambda: ctranslate2_peer.translate(translator, tokenizer, beams, size, sources))


def run_transformers(model: Any, tokenizer: Any, beams: int, texts: Texts, side: str) -> Run:
    """Call `generate` with batches of 32 texts of similar length."""
    sources = sorted(texts.take(side), key=len)

    def work() -> float:
        n_tokens = 0
        for start in range(0, len(sources), 32):
            batch = tokenizer(sources[start : start + 32], return_tensors="pt", padding=True)
            with torch.inference_mode():
                ids = model.generate(**batch, num_beams=beams)
            tokenizer.batch_decode(ids, skip_special_tokens=True)
            n_tokens += (ids.shape[1] - 1) * ids.shape[0]
        return float(n_tokens)

    return timed(work)


def run_engine(engine: Engine, spec: Spec, texts: Texts) -> Run:
    """Run docmill's engine with the transformers backend."""
    sources = texts.take(OURS)

    def work() -> float:
        ticket = engine.submit(spec, list(enumerate(sources)))
        assert ticket.wait(WAIT_S)
        return float(sum(outcome.tokens_out or 0 for outcome in ticket.finished()))

    return timed(work)


if __name__ == "__main__":
    main()
