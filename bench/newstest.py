"""Compare docmill with CTranslate2 on texts as long as newstest2014's, with the settings in CTranslate2's README.

The 3,003 texts have the word counts of newstest2014's English segments, and consist of words from manual pages. The
model has the geometry of Marian base, and weights that copy each text. An output is therefore as long as its text,
much like a translation into German. The time of each side includes tokenizing and decoding. docmill's time is from
the file with the texts to the last commit in PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from transformers import AutoTokenizer, MarianMTModel

from bench.ctranslate2_peer import VOCABULARY
from bench.fleet import Fleet, fleet
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from bench.translate import TOKENIZERS, convert_for_ctranslate2, make_base_model
from docmill.tasks.backends.accelerator import quiet

# The numbers of segments with 0, 1, 2, … words, in the English side of newstest2014 en-de.
# fmt: off
WORDS = (
    0, 2, 4, 7, 20, 43, 65, 76, 93, 95, 120, 118, 138, 137, 135, 130, 138, 117, 111, 116, 116, 102, 96, 92, 100, 74,
    71, 63, 64, 55, 70, 41, 50, 45, 39, 39, 30, 31, 24, 10, 20, 16, 12, 10, 12, 9, 5, 3, 9, 5, 4, 0, 6, 3, 2, 0, 1,
    1, 3, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1,
)
# fmt: on
BEAMS = 4
DOCMILL, README, BEST = "docmill", "CTranslate2 as in its README", "CTranslate2 at its best"
N_WAVES = 32  # the fastest waves of the position embeddings: a sine and a cosine of each fill a head's 64 dimensions
NEIGHBOR_GAP = 16.0  # nats between the attention to a position and to its neighbor
OUTPUT_SCALE = 0.2  # of the layers that do not copy


@dataclass(frozen=True)
class Settings:
    """Settings of CTranslate2: batches at a time, size of a batch, and its unit. The defaults are its README's."""

    workers: int = 1
    size: int = 32
    by: str = "examples"

    def __str__(self) -> str:
        return f"{self.workers} at a time, {self.size} {self.by}"


TRIED_SETTINGS = [
    Settings(workers, size, by)
    for workers in (1, 2)
    for size, by in (
        (16, "examples"),
        (32, "examples"),
        (64, "examples"),
        (512, "tokens"),
        (1024, "tokens"),
        (2048, "tokens"),
    )
]


def draw_turns(n_segments: int, first: int = 0) -> Iterator[list[str]]:
    """Yield texts with the test set's lengths for each turn. No text repeats, since docmill would skip it."""
    all_lengths = [n_words for n_words, n_texts in enumerate(WORDS) for _ in range(n_texts)]
    lengths = [all_lengths[place * len(all_lengths) // n_segments] for place in range(n_segments)]
    order = torch.randperm(n_segments, generator=torch.Generator().manual_seed(5)).tolist()
    seen: set[str] = set()
    for turn in count(first):
        all_words = cycle(chain.from_iterable(text.split() for text in paragraphs(6_000)))
        words = islice(all_words, turn * sum(lengths), None)
        texts: list[str] = []
        for place in order:
            while (text := " ".join(islice(words, lengths[place]))) in seen:
                pass
            seen.add(text)
            texts.append(text)
        yield texts


def make_copying_model(folder: Path) -> Path:
    """Make a Marian of base size whose decoder writes the source token at its own position. Return its folder."""
    make_base_model(folder, TOKENIZERS["translate"])
    with quiet():
        model = MarianMTModel.from_pretrained(folder)
    dim, heads = model.config.d_model, model.config.decoder_attention_heads
    waves = torch.cat([torch.arange(N_WAVES), dim // 2 + torch.arange(N_WAVES)])
    tokens = torch.ones(dim)
    tokens[waves] = 0.0
    with torch.no_grad():
        # Token embeddings are zero in the dimensions of the waves, so that only positions use these.
        words = model.model.shared.weight.normal_().mul_(tokens)
        words.sub_(words.sum(1, keepdim=True) / tokens.sum() * tokens)  # so that layer norms treat all tokens alike
        words.mul_(1.5 / words.norm(dim=1, keepdim=True) * (tokens.sum() / dim) ** 0.5)
        for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
            attentions = [layer.self_attn, *([layer.encoder_attn] if hasattr(layer, "encoder_attn") else [])]
            for output in (*(attention.out_proj for attention in attentions), layer.fc2):
                output.weight.mul_(OUTPUT_SCALE)
        first = model.model.decoder.layers[0].encoder_attn
        speeds = 10_000.0 ** (-2 * torch.arange(N_WAVES) / dim)
        gain = NEIGHBOR_GAP / float((1 - speeds.cos()).sum()) * (dim / heads) ** 0.5
        pick = torch.zeros(dim, dim)
        pick[torch.arange(dim), waves.repeat(heads)] = 1.0
        first.q_proj.weight.copy_(pick * gain)
        first.k_proj.weight.copy_(pick)
        first.v_proj.weight.copy_(torch.diag(tokens))
        first.out_proj.weight.copy_(4.0 * torch.diag(tokens))
        # Layer norms subtract the mean from the positions and scale them down. The projections undo both.
        ids = torch.randint(1, VOCABULARY - 1, (8, 64), generator=torch.Generator().manual_seed(5))
        embedded = model.model.shared(ids) * dim**0.5 + model.model.encoder.embed_positions(ids.shape)
        mean, scale = embedded.mean(), embedded.std(-1).mean()
        first.q_proj.weight.mul_(scale)
        first.k_proj.weight.mul_(scale)
        first.q_proj.bias.copy_(mean * gain)
        first.k_proj.bias.copy_(mean)
        model.generation_config.update(
            num_beams=BEAMS,
            min_new_tokens=None,
            max_new_tokens=256,
            bad_words_ids=None,
            length_penalty=0.0,
            early_stopping=False,
        )
        with quiet():
            model.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--segments", type=int, default=sum(WORDS), help="fewer segments have the same distribution of lengths"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--types", nargs="*", default=["int8", "float32"])
    parser.add_argument("--name", default="newstest", help="name of the result files")
    options = parser.parse_args()
    comparisons: list[Comparison] = []
    claims: list[list[Claim]] = []
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_copying_model(folder / "marian-base")
        tokenizer = AutoTokenizer.from_pretrained(model)
        with fleet(folder / "fleet", lane="translate", backend="ctranslate2") as installation:
            for dtype in options.types:
                run_direct = partial(run_ctranslate2, partial(open_translator, model, folder, dtype), tokenizer)
                texts = next(draw_turns(max(options.segments // 6, 60), first=999))
                rates[dtype] = {
                    str(settings): round(run_direct(settings, texts).rate, 1) for settings in TRIED_SETTINGS
                }
                best = max(TRIED_SETTINGS, key=lambda settings: rates[dtype][str(settings)])
                sides = {
                    f"{DOCMILL}, {dtype}": partial(run_docmill, installation, model, tokenizer, dtype),
                    f"{README}, {dtype}": partial(run_direct, Settings()),
                    f"{BEST} ({best}), {dtype}": partial(run_direct, best),
                }
                ours, readme, fastest = sides
                question = f"newstest2014's lengths, Marian of base size, {BEAMS} beams, {dtype}"
                turns = {
                    side: partial(run_next_turn, work, draw_turns(options.segments)) for side, work in sides.items()
                }
                comparisons.append(interleave(question, "tokens", turns, pairs=options.pairs))
                claims.append(
                    [
                        Claim(f"{DOCMILL} ÷ {README}", ours, readme, 1.2),
                        Claim(f"{DOCMILL} ÷ {BEST}", ours, fastest, 1.0),
                    ]
                )
                busy = installation.busy_shares()
                write(options.name, comparisons, claims, segments=options.segments, swept=rates, busy=busy)


def run_next_turn(work: Callable[[Sequence[str]], Run], turns: Iterator[list[str]]) -> Run:
    """Run a side on the texts of its next turn, which are the same for all sides."""
    return work(next(turns))


def run_docmill(installation: Fleet, model: Path, tokenizer: Any, dtype: str, texts: Sequence[str]) -> Run:
    """Run a job on a warm worker, from its source file to its last commit."""
    n_tokens = len(list(chain.from_iterable(tokenizer(list(texts))["input_ids"])))
    seconds, written = installation.run(texts, "translate", str(model), beams=BEAMS, dtype=dtype)
    assert 0.99 * (n_tokens - len(texts)) <= written <= 1.01 * n_tokens, "outputs are not as long as their texts"
    return Run(n_tokens - len(texts), seconds)  # without end tokens, as CTranslate2 counts


def open_translator(model: Path, folder: Path, dtype: str, workers: int) -> Any:
    """Return the model as CTranslate2 loads it, with the cores divided among so many workers."""
    path, cores = convert_for_ctranslate2(model, folder), len(os.sched_getaffinity(0))
    return ctranslate2.Translator(
        str(path), compute_type=dtype, inter_threads=workers, intra_threads=cores // workers, max_queued_batches=-1
    )


def run_ctranslate2(load: Callable[[int], Any], tokenizer: Any, settings: Settings, texts: Sequence[str]) -> Run:
    """Tokenize, let CTranslate2 sort and batch the texts, and decode. The time does not include loading the model."""
    translator = load(settings.workers)
    ids: list[list[int]] = []

    def work() -> float:
        ids.extend(tokenizer(list(texts))["input_ids"])
        results = translator.translate_batch(
            [list(map(str, row)) for row in ids],
            max_batch_size=settings.size,
            batch_type=settings.by,
            beam_size=BEAMS,
            length_penalty=0,
        )
        written = [[int(word) for word in result.hypotheses[0]] for result in results]
        tokenizer.batch_decode(written, skip_special_tokens=True)
        n_copies = sum(row == source[:-1] for row, source in zip(written, ids, strict=True))
        assert n_copies >= 0.95 * len(ids), f"only {n_copies} of {len(ids)} outputs equal their texts"
        return float(sum(map(len, written)))

    return timed(work)


if __name__ == "__main__":
    main()
