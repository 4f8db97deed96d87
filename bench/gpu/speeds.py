"""Measure docmill's speed beside direct use of the libraries, at their best batch sizes and in the same precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import random_models
from bench.gpu.proofs import make_greedy_options, prove_greedy_outputs
from bench.gpu.settings import Bench, Report, compute_outputs, repeat_texts
from bench.limits import Encoder
from bench.pairs import Comparison, interleave
from bench.random_models import Size
from docmill.tasks.backends import accelerator
from docmill.tasks.backends.decoder_only.causal import CausalBackend
from docmill.tasks.backends.encoder.encoder_backend import EncoderBackend
from docmill.tasks.backends.encoder_decoder.seq2seq import Seq2SeqBackend
from docmill.tasks.outputs import Generated, Head

OURS = "docmill"


def make_batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield the texts in batches of similar length, as the libraries' own loops do."""
    ordered = sorted(texts, key=len, reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def find_best_batch_size(bench: Bench, work: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """Return a library's fastest batch size, and the speed of each size that fits into the memory."""
    rates: dict[int, float] = {}
    for size in bench.sizes.batch_sizes:
        try:
            rates[size] = bench.make_side(partial(work, size))().rate
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return max(rates, key=lambda size: rates[size]), {size: round(rate, 1) for size, rate in rates.items()}


def measure_embedding(bench: Bench, report: Report, size: Size) -> None:
    """Measure embedding beside sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    texts = repeat_texts(random_models.paragraphs(), bench.sizes.texts_to_encode)
    folder = random_models.encoder(bench.folder / f"embed-{size.name}", size, "bert", texts)
    backend = EncoderBackend(bench.assignment("embed", folder, Head.POOLING))
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    with accelerator.quiet():
        library = SentenceTransformer(str(folder), device=bench.device, model_kwargs={"dtype": dtype})

    def run_library(batch_size: int) -> float:
        return len(library.encode(texts, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False))

    part = f"embed, {size.name}"
    _compare_encoders(bench, report, part, backend, folder, texts, "sentence-transformers", run_library)


def measure_classification(bench: Bench, report: Report, size: Size) -> None:
    """Measure classification beside transformers' pipeline."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    texts = repeat_texts(random_models.paragraphs(), bench.sizes.texts_to_encode)
    folder = random_models.encoder(
        bench.folder / f"classify-{size.name}", size, "bert", texts, random_models.HeadClass.LABELS
    )
    backend = EncoderBackend(bench.assignment("classify", folder, Head.CLASSIFICATION))
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).to(bench.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classifier = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device=bench.device)
    ordered = sorted(texts, key=len)

    def run_library(batch_size: int) -> float:
        return len(classifier(ordered, batch_size=batch_size, truncation=True))

    part = f"classify, {size.name}"
    _compare_encoders(bench, report, part, backend, folder, texts, "transformers' pipeline", run_library)


def _compare_encoders(
    bench: Bench,
    report: Report,
    part: str,
    backend: EncoderBackend,
    folder: Path,
    texts: Sequence[str],
    library: str,
    run_library: Callable[[int], float],
) -> None:
    """Measure an encoder's backend, with its tokenizer, beside the library at its best batch size."""
    batch_size, rates = find_best_batch_size(bench, run_library)
    sides = {
        OURS: bench.make_side(lambda: len(compute_outputs(backend, backend.encode(texts)))),
        library: bench.make_side(lambda: run_library(batch_size)),
    }
    comparison = interleave(part, "texts", sides, pairs=bench.sizes.pairs)
    lengths = [min(window.tokens, backend.limit_tokens) for window in backend.encode(texts)]
    config = json.loads((folder / "config.json").read_bytes())
    operations = Encoder.of(config).operations(lengths) / len(texts)
    share = comparison.median(OURS) * operations / report.facts["peak_flops"]
    usage = {"share_of_peak": round(share, 3), "batch_tokens": backend._loop.budget.tokens}
    backend.close()
    _add_to_report(report, comparison, library, {"batch": batch_size, "rates": rates}, usage)


def measure_translation(bench: Bench, report: Report, beams: int) -> None:
    """Measure the translator that comes with docmill beside transformers' `generate` in batches."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    texts = [text for text in random_models.paragraphs("french.jsonl") if len(text) < 400]
    texts = repeat_texts(texts, bench.sizes.texts_to_translate)
    max_new_tokens = bench.sizes.new_tokens
    assignment = bench.assignment(
        "translate",
        "marian-ddtp",
        Head.SEQ2SEQ_TEXT,
        source_lang="fr",
        target_lang="en",
        beams=beams,
        max_new_tokens=max_new_tokens,
    )
    backend = Seq2SeqBackend(assignment)
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    model = AutoModelForSeq2SeqLM.from_pretrained(assignment.folder, dtype=dtype).eval().to(bench.device)
    tokenizer = AutoTokenizer.from_pretrained(assignment.folder)

    def run_library(batch_size: int) -> float:
        return _generate(model, tokenizer, texts, batch_size, num_beams=beams, max_new_tokens=max_new_tokens)

    batch_size, rates = find_best_batch_size(bench, run_library)
    sides = {
        OURS: bench.make_side(lambda: len(compute_outputs(backend, backend.encode(texts)))),
        "transformers": bench.make_side(lambda: run_library(batch_size)),
    }
    comparison = interleave(f"translate, {beams} beams", "texts", sides, pairs=bench.sizes.pairs)
    backend.close()
    _add_to_report(report, comparison, "transformers", {"batch": batch_size, "rates": rates}, {})


def measure_generation(bench: Bench, report: Report, size: Size) -> None:
    """Measure the tokens generated, beside transformers' static batches. Prove greedy outputs of the first model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [text[:300] for text in repeat_texts(random_models.paragraphs(), bench.sizes.prompts)]
    folder = random_models.decoder(bench.folder / f"decoder-{size.name}", size, texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"prompt": "{text}", "max_new_tokens": bench.sizes.new_tokens}
    if size == bench.sizes.decoders[0]:
        report.proofs.append(prove_greedy_outputs(bench, folder, tokenizer, texts[:16], options))
    dtype = accelerator.dtype_for(bench.quality, bench.device)
    backend = CausalBackend(bench.assignment("generate", folder, Head.CAUSAL_TEXT, **options))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(bench.device)

    def run_library(batch_size: int) -> float:
        n_texts = _generate(model, tokenizer, texts, batch_size, **make_greedy_options(bench))
        return n_texts * bench.sizes.new_tokens

    def run_docmill() -> float:
        outputs = compute_outputs(backend, backend.encode(texts))
        return sum(output.tokens for output in outputs if isinstance(output, Generated))

    batch_size, rates = find_best_batch_size(bench, run_library)
    sides = {OURS: bench.make_side(run_docmill), "transformers": bench.make_side(lambda: run_library(batch_size))}
    comparison = interleave(f"generate, {size.name}", "tokens", sides, pairs=bench.sizes.pairs)
    backend.close()
    _add_to_report(report, comparison, "transformers", {"batch": batch_size, "rates": rates}, {})


def _generate(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int, **options: Any) -> int:
    """Call transformers' `generate` in batches, and return the number of texts."""
    tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
    n_texts = 0
    for batch in make_batches(texts, batch_size):
        inputs = tokenizer(batch, return_tensors="pt", padding=True, truncation=True).to(model.device)
        inputs.pop("token_type_ids", None)
        with torch.inference_mode():
            outputs = model.generate(**inputs, **options)
        tokenizer.batch_decode(outputs, skip_special_tokens=True)
        n_texts += len(batch)
    return n_texts


def _add_to_report(
    report: Report, comparison: Comparison, library: str, batches: Mapping[str, Any], usage: Mapping[str, Any]
) -> None:
    """Add a comparison, the library's batch sizes, and docmill's use of the device to the report."""
    report.measured.append(
        {
            "what": comparison.question,
            "unit": f"{comparison.unit}/s",
            "medians": {side: round(comparison.median(side), 1) for side in comparison.sides},
            "ratio": round(comparison.ratio(OURS, library), 2),
            "ratios": [round(ratio, 2) for ratio in comparison.ratios(OURS, library)],
            "peak_mib": {side: runs[-1].more.get("peak_mib") for side, runs in comparison.sides.items()},
            "library": {"name": library, **batches},
            **usage,
        }
    )
