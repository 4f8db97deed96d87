"""Speeds beside direct use of the libraries, each at its best batch size and in the same precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import random_models
from bench.gpu.proofs import greedy, proof_of_writing
from bench.gpu.settings import Bench, Report, computed, texts_for
from bench.limits import Encoder
from bench.pairs import Comparison, interleave
from bench.random_models import Size
from docmill.tasks.backends import accelerator
from docmill.tasks.backends.decoder_only.causal import CausalBackend
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder_decoder.seq2seq import Seq2SeqBackend
from docmill.tasks.outputs import Generated, Head

OURS = "docmill"


def batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield the texts in batches of neighbours in length, as the libraries' own loops have them."""
    ordered = sorted(texts, key=len, reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def best_batch(bench: Bench, work: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """Return the fastest batch size of a library and the speed of each; one that does not fit is left out."""
    rates: dict[int, float] = {}
    for size in bench.sizes.batches:
        try:
            rates[size] = bench.side(partial(work, size))().rate
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return max(rates, key=lambda size: rates[size]), {size: round(rate, 1) for size, rate in rates.items()}


def embedding(bench: Bench, report: Report, size: Size) -> None:
    """Measure embedding beside sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    texts = texts_for(bench)
    folder = random_models.encoder(bench.folder / f"embed-{size.name}", size, "bert", texts)
    backend = EncoderBackend(bench.assignment("embed", folder, Head.POOLING))
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    with accelerator.quiet():
        library = SentenceTransformer(str(folder), device=bench.device, model_kwargs={"dtype": dtype})

    def directly(batch: int) -> float:
        return len(library.encode(texts, batch_size=batch, convert_to_numpy=True, show_progress_bar=False))

    _encoders(bench, report, f"embed, {size.name}", backend, folder, texts, "sentence-transformers", directly)


def classification(bench: Bench, report: Report, size: Size) -> None:
    """Measure classification beside transformers' pipeline."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    texts = texts_for(bench)
    folder = random_models.encoder(
        bench.folder / f"classify-{size.name}", size, "bert", texts, random_models.HeadClass.LABELS
    )
    backend = EncoderBackend(bench.assignment("classify", folder, Head.CLASSIFICATION))
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).to(bench.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scored = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device=bench.device)
    ordered = sorted(texts, key=len)

    def directly(batch: int) -> float:
        return len(scored(ordered, batch_size=batch, truncation=True))

    _encoders(bench, report, f"classify, {size.name}", backend, folder, texts, "transformers' pipeline", directly)


def _encoders(
    bench: Bench,
    report: Report,
    what: str,
    backend: EncoderBackend,
    folder: Path,
    texts: Sequence[str],
    library: str,
    directly: Callable[[int], float],
) -> None:
    """Measure an encoder's backend, the tokenizer included, and the library at its best batch size."""
    batch, rates = best_batch(bench, directly)
    sides = {
        OURS: bench.side(lambda: len(computed(backend, backend.encode(texts)))),
        library: bench.side(lambda: directly(batch)),
    }
    found = interleave(what, "texts", sides, pairs=bench.sizes.pairs)
    lengths = [min(one.tokens, backend.limit_tokens) for one in backend.encode(texts)]
    config = json.loads((folder / "config.json").read_bytes())
    operations = Encoder.of(config).operations(lengths) / len(texts)
    share = found.median(OURS) * operations / report.facts["peak_flops"]
    more = {"share_of_peak": round(share, 3), "batch_tokens": backend._loop.budget.tokens}
    backend.close()
    _note(report, found, library, {"batch": batch, "rates": rates}, more)


def translation(bench: Bench, report: Report, beams: int) -> None:
    """Measure the translator that comes with docmill beside transformers' `generate` in batches."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    texts = [text for text in random_models.paragraphs("french.jsonl") if len(text) < 400]
    texts = (texts * (bench.sizes.translated // len(texts) + 1))[: bench.sizes.translated]
    most = bench.sizes.new_tokens
    options: dict[str, Any] = {"source_lang": "fr", "target_lang": "en", "beams": beams, "max_new_tokens": most}
    given = bench.assignment("translate", "marian-ddtp", Head.SEQ2SEQ_TEXT, **options)
    backend = Seq2SeqBackend(given)
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    model = AutoModelForSeq2SeqLM.from_pretrained(given.folder, dtype=dtype).eval().to(bench.device)
    tokenizer = AutoTokenizer.from_pretrained(given.folder)

    def directly(batch: int) -> float:
        return len(_generated(model, tokenizer, texts, batch, num_beams=beams, max_new_tokens=most))

    batch, rates = best_batch(bench, directly)
    sides = {
        OURS: bench.side(lambda: len(computed(backend, backend.encode(texts)))),
        "transformers": bench.side(lambda: directly(batch)),
    }
    found = interleave(f"translate, {beams} beams", "texts", sides, pairs=bench.sizes.pairs)
    backend.close()
    _note(report, found, "transformers", {"batch": batch, "rates": rates}, {})


def generation(bench: Bench, report: Report, size: Size) -> None:
    """Compare greedy outputs in float32, and measure the tokens written beside transformers' static batches."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [text[:300] for text in texts_for(bench)[: bench.sizes.written]]
    folder = random_models.decoder(bench.folder / f"decoder-{size.name}", size, texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"prompt": "{text}", "max_new_tokens": bench.sizes.new_tokens}
    if size == bench.sizes.decoders[0]:
        report.proofs.append(proof_of_writing(bench, folder, tokenizer, texts[:16], options))
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    backend = CausalBackend(bench.assignment("generate", folder, Head.CAUSAL_TEXT, **options))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(bench.device)

    def directly(batch: int) -> float:
        return _generated(model, tokenizer, texts, batch, **greedy(bench)).count(True) * bench.sizes.new_tokens

    def ours() -> float:
        outputs = computed(backend, backend.encode(texts))
        return sum(one.tokens for one in outputs if isinstance(one, Generated))

    batch, rates = best_batch(bench, directly)
    sides = {OURS: bench.side(ours), "transformers": bench.side(lambda: directly(batch))}
    found = interleave(f"generate, {size.name}", "tokens", sides, pairs=bench.sizes.pairs)
    backend.close()
    _note(report, found, "transformers", {"batch": batch, "rates": rates}, {})


def _generated(model: Any, tokenizer: Any, texts: Sequence[str], batch: int, **options: Any) -> list[bool]:
    """Return an entry for each text that transformers has written for, in batches padded on the left."""
    tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
    done: list[bool] = []
    for some in batches(texts, batch):
        given = tokenizer(some, return_tensors="pt", padding=True, truncation=True).to(model.device)
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            outputs = model.generate(**given, **options)
        tokenizer.batch_decode(outputs, skip_special_tokens=True)
        done += [True] * len(some)
    return done


def _note(report: Report, found: Comparison, library: str, peer: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    report.measured.append(
        {
            "what": found.question,
            "unit": f"{found.unit}/s",
            "medians": {side: round(found.median(side), 1) for side in found.sides},
            "ratio": round(found.ratio(OURS, library), 2),
            "ratios": [round(ratio, 2) for ratio in found.ratios(OURS, library)],
            "peak_mib": {side: runs[-1].more.get("peak_mib") for side, runs in found.sides.items()},
            "library": {"name": library, **peer},
            **more,
        }
    )
