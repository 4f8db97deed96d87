"""Compare labels, entities, answers and zero-shot labels end to end with transformers at its best batch size.

docmill uses Redis, PostgreSQL and a warm worker. Its time begins when the file of texts is ready, and ends when the
job ends. It computes in the processor's native precision and in int8. transformers' pipelines are called directly, on
texts in order of length, in their fastest precision. transformers no longer has a pipeline for question answering, so
the benchmark calls its model on padded batches and takes each text's best start and end. The models have MiniLM's
size and random weights. Each run has new texts.

The arithmetic limit is the time of the matrix products for the peer's inputs alone, without padding, at the rate of
this machine's fastest product in the peer's precision. It includes no head, no tokenizer and no store.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from bench import limits, random_models
from bench.fleet import fleet
from bench.manpages import paragraphs
from bench.pairs import Claim, Comparison, Run, interleave, timed, write
from bench.random_models import MINILM, HeadClass
from docmill.tasks.backends.accelerator import quiet

QUESTION = "What does the option do?"
LABELS = ("files", "networks", "graphics", "games", "text", "sound", "programming", "mathematics", "mail", "system")
OURS, IN_INT8 = "docmill", "docmill in int8"
LIMIT = "arithmetic limit"
MOST_TOKENS = 512  # in an input of the models
FLOAT32 = {"float32": torch.float32}
# bfloat16 takes many times as long on a processor without instructions for it.
DTYPES = FLOAT32 | ({"bfloat16": torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {})
BATCHES = (8, 32, 128)
PROBED = 256  # texts on which the peer's batch sizes and precisions are tried

# Takes texts and a batch size. Returns the number of computed texts.
Peer = Callable[[Sequence[str], int], int]


@dataclass(frozen=True)
class Question:
    """A kind of task to be measured, on every ``share``-th text.

    The model reads each text of ``beside`` together with each document, in an input of its own.
    """

    task: str
    head: HeadClass
    wanted: float
    peer: Callable[[Path, torch.dtype], Peer]
    options: dict[str, Any] = field(default_factory=dict)
    share: int = 1
    name: str = ""
    beside: Sequence[str] = ("",)


def open_pipeline(task: str, folder: Path, dtype: torch.dtype, **options: Any) -> Peer:
    """Return transformers' pipeline as a peer."""
    pipeline = transformers.pipeline(task, model=str(folder), dtype=dtype, device="cpu")
    truncation = {} if task == "token-classification" else {"truncation": True}

    def compute(texts: Sequence[str], batch: int) -> int:
        return len(pipeline(sorted(texts, key=len), batch_size=batch, **truncation, **options))

    return compute


def open_answering_model(folder: Path, dtype: torch.dtype) -> Peer:
    """Return a loop over padded batches that takes the best start and end of each text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, dtype=dtype).eval()

    def compute(texts: Sequence[str], batch: int) -> int:
        ordered, computed = sorted(texts, key=len), 0
        for start in range(0, len(ordered), batch):
            batch_texts = ordered[start : start + batch]
            questions = [QUESTION] * len(batch_texts)
            inputs = tokenizer(questions, batch_texts, truncation="only_second", padding=True, return_tensors="pt")
            with torch.inference_mode():
                output = model(**inputs)
            output.start_logits.argmax(-1).tolist()
            output.end_logits.argmax(-1).tolist()
            computed += len(batch_texts)
        return computed

    return compute


QUESTIONS = (
    Question("classify", HeadClass.LABELS, 2.0, partial(open_pipeline, "text-classification", top_k=None)),
    Question(
        "entities", HeadClass.TAGS, 2.0, partial(open_pipeline, "token-classification", aggregation_strategy="simple")
    ),
    Question(
        "answer", HeadClass.ANSWERS, 2.0, open_answering_model, {"question": {"answer": QUESTION}}, beside=[QUESTION]
    ),
    Question(
        "classify",
        HeadClass.LABELS,
        2.5,
        partial(open_pipeline, "zero-shot-classification", candidate_labels=list(LABELS)),
        {"labels": {label: label for label in LABELS}},
        share=10,
        name="zero-shot, ten labels",
        beside=[f"This example is {label}." for label in LABELS],  # the pipeline's own sentence
    ),
)


def find_best(question: Question, folder: Path, texts: Sequence[str]) -> tuple[Peer, str, int]:
    """Return the peer in its fastest precision, that precision, and the fastest batch size."""
    probed = texts[:: max(1, len(texts) // (PROBED // question.share))]
    rates: list[tuple[float, str, int]] = []
    peers = {dtype: question.peer(folder, torch_dtype) for dtype, torch_dtype in DTYPES.items()}
    for dtype, peer in peers.items():
        peer(probed[:8], 8)
        rates += [(timed(partial(peer, probed, batch)).rate, dtype, batch) for batch in BATCHES]
    _, dtype, batch = max(rates)
    return peers[dtype], dtype, batch


def estimate_limit(question: Question, folder: Path, texts: Sequence[str], dtype: str) -> Run:
    """Return a run that takes the time of the arithmetic alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text_lengths = [len(ids) for ids in tokenizer([*texts], truncation=True, max_length=MOST_TOKENS)["input_ids"]]
    beside_lengths = [len(tokenizer(text)["input_ids"]) - 1 if text else 0 for text in question.beside]
    lengths = [min(MOST_TOKENS, length + beside) for length in text_lengths for beside in beside_lengths]
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    return Run(len(texts), limits.Encoder.of(config).operations(lengths) / limits.peak(DTYPES[dtype]))


def compare(question: Question, texts: Sequence[str], pairs: int, work: Path) -> tuple[Comparison, list[Claim]]:
    """Measure one kind of task."""
    title = question.name or question.task
    texts = texts[:: question.share]
    folder = random_models.encoder(work / f"model {title}", MINILM, "bert", texts, question.head)
    peer, dtype, batch = find_best(question, folder, texts)
    library = f"transformers, {dtype}, batches of {batch}"
    runs = 0

    def make_new_texts() -> list[str]:
        nonlocal runs
        runs += 1
        return [f"{runs}.{number} {text}" for number, text in enumerate(texts)]

    with fleet(work / title, lane=question.task) as installation:

        def run_docmill(precision: str) -> Run:
            new_texts = make_new_texts()
            seconds, _ = installation.run(new_texts, question.task, str(folder), dtype=precision, **question.options)
            return Run(len(new_texts), seconds)

        sides: dict[str, Callable[[], Run]] = {
            OURS: partial(run_docmill, "auto"),
            IN_INT8: partial(run_docmill, "int8"),
            library: lambda: timed(lambda: peer(make_new_texts(), batch)),
            LIMIT: lambda: estimate_limit(question, folder, make_new_texts(), dtype),
        }
        comparison = interleave(title, "texts", sides, pairs=pairs)
    return comparison, [
        *(Claim(f"{side} ÷ transformers", side, library, question.wanted) for side in (OURS, IN_INT8)),
        Claim(f"{LIMIT} ÷ transformers", LIMIT, library, question.wanted),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--name", default="heads", help="of the results' files")
    options = parser.parse_args()
    texts = paragraphs(options.texts)
    random_models.seeded()
    with tempfile.TemporaryDirectory() as work, quiet():
        results = [compare(question, texts, options.pairs, Path(work)) for question in QUESTIONS]
    comparisons = [comparison for comparison, _ in results]
    write(options.name, comparisons, [claims for _, claims in results], texts=len(texts))


if __name__ == "__main__":
    main()
