"""Translation of texts as long as newstest2014's, beside CTranslate2 with the settings of its README's table.

The 3,003 texts have as many words as the segments of newstest2014's English side, and are made of words of the
manual pages. The model is Marian's base geometry with weights that write each text again, so that an output is as
long as its text, nearly as in a translation into German. Each side tokenizes and decodes inside its time; docmill's
is from the file with the texts to the last commit in PostgreSQL.
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

from bench.fleet import Fleet, fleet
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from bench.translate import TOKENIZERS, VOCABULARY, base_model, converted
from docmill.tasks.backends.accelerator import quiet

# Segments of newstest2014 (English, of en-de) with 0, 1, 2, … words.
# fmt: off
WORDS = (
    0, 2, 4, 7, 20, 43, 65, 76, 93, 95, 120, 118, 138, 137, 135, 130, 138, 117, 111, 116, 116, 102, 96, 92, 100, 74,
    71, 63, 64, 55, 70, 41, 50, 45, 39, 39, 30, 31, 24, 10, 20, 16, 12, 10, 12, 9, 5, 3, 9, 5, 4, 0, 6, 3, 2, 0, 1,
    1, 3, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1,
)
# fmt: on
BEAMS = 4
DOCMILL, README, BEST = "docmill", "CTranslate2 as in its README", "CTranslate2 at its best"
PAIRS_OF_POSITIONS = 32  # the fastest waves of the positions: a head's 64 dimensions
TOLD_APART = 16.0  # nats between the weight of a position and that of its neighbor
KEPT = 0.2  # of the outputs of the layers that do not copy


@dataclass(frozen=True)
class Settings:
    """Settings of CTranslate2. The table of its README has batches of 32, one at a time on all threads."""

    workers: int = 1
    size: int = 32
    by: str = "examples"

    def __str__(self) -> str:
        return f"{self.workers} at a time, {self.size} {self.by}"


SWEPT = [
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


def turns_of_segments(n_segments: int, first: int = 0) -> Iterator[list[str]]:
    """Yield so many texts with the test set's lengths for each turn. No text comes twice: docmill would skip it."""
    lengths = [n_words for n_words, times in enumerate(WORDS) for _ in range(times)]
    spread = [lengths[place * len(lengths) // n_segments] for place in range(n_segments)]
    order = torch.randperm(n_segments, generator=torch.Generator().manual_seed(5)).tolist()
    seen: set[str] = set()
    for turn in count(first):
        all_words = cycle(chain.from_iterable(text.split() for text in paragraphs(6_000)))
        words = islice(all_words, turn * sum(spread), None)
        texts: list[str] = []
        for place in order:
            while (text := " ".join(islice(words, spread[place]))) in seen:
                pass
            seen.add(text)
            texts.append(text)
        yield texts


def copying_model(folder: Path) -> Path:
    """Make a Marian of base size whose decoder attends to its own position in the text and writes that token."""
    base_model(folder, TOKENIZERS["translate"])
    with quiet():
        model = MarianMTModel.from_pretrained(folder)
    dim, heads = model.config.d_model, model.config.decoder_attention_heads
    waves = torch.cat([torch.arange(PAIRS_OF_POSITIONS), dim // 2 + torch.arange(PAIRS_OF_POSITIONS)])
    tokens = torch.ones(dim)
    tokens[waves] = 0.0
    with torch.no_grad():
        # Positions have the waves to themselves.
        words = model.model.shared.weight.normal_().mul_(tokens)
        words.sub_(words.sum(1, keepdim=True) / tokens.sum() * tokens)  # so that layer norms do the same to each
        words.mul_(1.5 / words.norm(dim=1, keepdim=True) * (tokens.sum() / dim) ** 0.5)
        for layer in [*model.model.encoder.layers, *model.model.decoder.layers]:
            attentions = [layer.self_attn, *([layer.encoder_attn] if hasattr(layer, "encoder_attn") else [])]
            for last in (*(attention.out_proj for attention in attentions), layer.fc2):
                last.weight.mul_(KEPT)
        first = model.model.decoder.layers[0].encoder_attn
        speeds = 10_000.0 ** (-2 * torch.arange(PAIRS_OF_POSITIONS) / dim)
        gain = TOLD_APART / float((1 - speeds.cos()).sum()) * (dim / heads) ** 0.5
        pick = torch.zeros(dim, dim)
        pick[torch.arange(dim), waves.repeat(heads)] = 1.0
        first.q_proj.weight.copy_(pick * gain)
        first.k_proj.weight.copy_(pick)
        first.v_proj.weight.copy_(torch.diag(tokens))
        first.out_proj.weight.copy_(4.0 * torch.diag(tokens))
        # Layer norms took the mean from the positions, and made them smaller.
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
        "--segments", type=int, default=sum(WORDS), help="fewer have the same distribution of lengths"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--types", nargs="*", default=["int8", "float32"])
    parser.add_argument("--name", default="newstest", help="of the results' files")
    asked = parser.parse_args()
    compared: list[Comparison] = []
    claimed: list[list[Claim]] = []
    swept: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = copying_model(folder / "marian-base")
        tokenizer = AutoTokenizer.from_pretrained(model)
        with fleet(folder / "mill", lane="translate", backend="ctranslate2") as through:
            for dtype in asked.types:
                direct = partial(by_ctranslate2, partial(translator_of, model, folder, dtype), tokenizer)
                some = next(turns_of_segments(max(asked.segments // 6, 60), first=999))
                swept[dtype] = {str(settings): round(direct(settings, some).rate, 1) for settings in SWEPT}
                best = max(SWEPT, key=lambda settings: swept[dtype][str(settings)])
                sides = {
                    f"{DOCMILL}, {dtype}": partial(end_to_end, through, model, tokenizer, dtype),
                    f"{README}, {dtype}": partial(direct, Settings()),
                    f"{BEST} ({best}), {dtype}": partial(direct, best),
                }
                ours, readme, fastest = sides
                question = f"newstest2014's lengths, Marian of base size, {BEAMS} beams, {dtype}"
                turns = {
                    side: partial(in_turn, work, turns_of_segments(asked.segments)) for side, work in sides.items()
                }
                compared.append(interleave(question, "tokens", turns, pairs=asked.pairs))
                claimed.append(
                    [
                        Claim(f"{DOCMILL} ÷ {README}", ours, readme, 1.2),
                        Claim(f"{DOCMILL} ÷ {BEST}", ours, fastest, 1.0),
                    ]
                )
                write(asked.name, compared, claimed, segments=asked.segments, swept=swept, busy=through.busy_shares())


def in_turn(work: Callable[[Sequence[str]], Run], turns: Iterator[list[str]]) -> Run:
    """Work on the texts of the next turn: the same ones for all sides."""
    return work(next(turns))


def end_to_end(through: Fleet, model: Path, tokenizer: Any, dtype: str, texts: Sequence[str]) -> Run:
    """A job with a warm worker, from its source to its end."""
    n_tokens = len(list(chain.from_iterable(tokenizer(list(texts))["input_ids"])))
    seconds, written = through.run(texts, "translate", str(model), beams=BEAMS, dtype=dtype)
    assert 0.99 * (n_tokens - len(texts)) <= written <= 1.01 * n_tokens, "outputs are not as long as their texts"
    return Run(n_tokens - len(texts), seconds)  # without the ends, as CTranslate2 counts


def translator_of(model: Path, folder: Path, dtype: str, workers: int) -> Any:
    made, cores = converted(model, folder), len(os.sched_getaffinity(0))
    return ctranslate2.Translator(
        str(made), compute_type=dtype, inter_threads=workers, intra_threads=cores // workers, max_queued_batches=-1
    )


def by_ctranslate2(opened: Callable[[int], Any], tokenizer: Any, settings: Settings, texts: Sequence[str]) -> Run:
    """Tokenize, let CTranslate2 sort and batch as it does by itself, and decode. Loading the model is not timed."""
    translator = opened(settings.workers)
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
        right = sum(row == source[:-1] for row, source in zip(written, ids, strict=True))
        assert right >= 0.95 * len(ids), f"only {right} of {len(ids)} outputs are their text"
        return float(sum(map(len, written)))

    return timed(work)


if __name__ == "__main__":
    main()
