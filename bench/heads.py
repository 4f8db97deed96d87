"""Labels, entities, answers and zero-shot labels end to end, beside transformers at its best batch and precision.

docmill runs through Redis into PostgreSQL with a warm worker: from the file with the texts to the end of the job, in
the processor's own precision and in int8. Beside it are transformers' pipelines, called directly on texts in order of
length. transformers has no pipeline for question answering any more: its model is called on padded batches, and each
text's best start and end are taken. The models have MiniLM's size and random weights. A text is another one in each
run.

The arithmetic limit is the time of the products of the peer's inputs alone, without padding, at the rate of this
machine's fastest product in the peer's precision. It has no head, no tokenizer and no store.
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
MOST_TOKENS = 512  # of an input of the models
FLOAT32 = {"float32": torch.float32}
# A processor without instructions for bfloat16 takes many times as long with it.
DTYPES = FLOAT32 | ({"bfloat16": torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else {})
BATCHES = (8, 32, 128)
PROBED = 256  # texts on which the peer's batch sizes and precisions are tried

# From texts and a batch size to the number of texts done.
Peer = Callable[[Sequence[str], int], int]


@dataclass(frozen=True)
class Question:
    """A kind of task to be measured. ``share`` of the texts are enough, where one takes long.

    ``beside`` has the texts that the model reads together with each document, in an input of its own.
    """

    task: str
    head: HeadClass
    wanted: float
    peer: Callable[[Path, torch.dtype], Peer]
    options: dict[str, Any] = field(default_factory=dict)
    share: int = 1
    name: str = ""
    beside: Sequence[str] = ("",)


def by_pipeline(task: str, folder: Path, dtype: torch.dtype, **options: Any) -> Peer:
    """Return transformers' pipeline as a peer."""
    given = transformers.pipeline(task, model=str(folder), dtype=dtype, device="cpu")
    truncated = {} if task == "token-classification" else {"truncation": True}

    def work(texts: Sequence[str], batch: int) -> int:
        return len(given(sorted(texts, key=len), batch_size=batch, **truncated, **options))

    return work


def by_model(folder: Path, dtype: torch.dtype) -> Peer:
    """Return a loop over padded batches that takes the best start and end of each text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, dtype=dtype).eval()

    def work(texts: Sequence[str], batch: int) -> int:
        ordered, done = sorted(texts, key=len), 0
        for start in range(0, len(ordered), batch):
            some = ordered[start : start + batch]
            given = tokenizer(
                [QUESTION] * len(some), some, truncation="only_second", padding=True, return_tensors="pt"
            )
            with torch.inference_mode():
                found = model(**given)
            found.start_logits.argmax(-1).tolist()
            found.end_logits.argmax(-1).tolist()
            done += len(some)
        return done

    return work


QUESTIONS = (
    Question("classify", HeadClass.LABELS, 2.0, partial(by_pipeline, "text-classification", top_k=None)),
    Question(
        "entities", HeadClass.TAGS, 2.0, partial(by_pipeline, "token-classification", aggregation_strategy="simple")
    ),
    Question("answer", HeadClass.ANSWERS, 2.0, by_model, {"question": {"answer": QUESTION}}, beside=[QUESTION]),
    Question(
        "classify",
        HeadClass.LABELS,
        2.5,
        partial(by_pipeline, "zero-shot-classification", candidate_labels=list(LABELS)),
        {"labels": {label: label for label in LABELS}},
        share=10,
        name="zero-shot, ten labels",
        beside=[f"This example is {label}." for label in LABELS],  # the pipeline's own sentence
    ),
)


def best(question: Question, folder: Path, texts: Sequence[str]) -> tuple[Peer, str, int]:
    """Return the peer in its fastest precision, that precision, and the fastest batch size."""
    some = texts[:: max(1, len(texts) // (PROBED // question.share))]
    tried: list[tuple[float, str, int]] = []
    peers = {name: question.peer(folder, dtype) for name, dtype in DTYPES.items()}
    for name, peer in peers.items():
        peer(some[:8], 8)
        tried += [(timed(partial(peer, some, batch)).rate, name, batch) for batch in BATCHES]
    _, name, batch = max(tried)
    return peers[name], name, batch


def limit(question: Question, folder: Path, texts: Sequence[str], dtype: str) -> Run:
    """Return a run that takes the time of the arithmetic alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    alone = [len(ids) for ids in tokenizer([*texts], truncation=True, max_length=MOST_TOKENS)["input_ids"]]
    more = [len(tokenizer(text)["input_ids"]) - 1 if text else 0 for text in question.beside]
    lengths = [min(MOST_TOKENS, one + other) for one in alone for other in more]
    config = transformers.AutoConfig.from_pretrained(folder).to_dict()
    return Run(len(texts), limits.Encoder.of(config).operations(lengths) / limits.peak(DTYPES[dtype]))


def measured(question: Question, texts: Sequence[str], pairs: int, work: Path) -> tuple[Comparison, list[Claim]]:
    """Measure one kind of task."""
    title = question.name or question.task
    texts = texts[:: question.share]
    folder = random_models.encoder(work / f"model {title}", MINILM, "bert", texts, question.head)
    peer, dtype, batch = best(question, folder, texts)
    library = f"transformers, {dtype}, batches of {batch}"
    runs = 0

    def fresh() -> list[str]:
        nonlocal runs
        runs += 1
        return [f"{runs}.{number} {text}" for number, text in enumerate(texts)]

    with fleet(work / title, lane=question.task) as through:

        def ours(precision: str) -> Run:
            these = fresh()
            seconds, _ = through.run(these, question.task, str(folder), dtype=precision, **question.options)
            return Run(len(these), seconds)

        sides: dict[str, Callable[[], Run]] = {
            OURS: partial(ours, "auto"),
            IN_INT8: partial(ours, "int8"),
            library: lambda: timed(lambda: peer(fresh(), batch)),
            LIMIT: lambda: limit(question, folder, fresh(), dtype),
        }
        found = interleave(title, "texts", sides, pairs=pairs)
    return found, [
        *(Claim(f"{side} ÷ transformers", side, library, question.wanted) for side in (OURS, IN_INT8)),
        Claim(f"{LIMIT} ÷ transformers", LIMIT, library, question.wanted),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--name", default="heads", help="of the results' files")
    asked = parser.parse_args()
    texts = paragraphs(asked.texts)
    random_models.seeded()
    with tempfile.TemporaryDirectory() as name, quiet():
        found = [measured(question, texts, asked.pairs, Path(name)) for question in QUESTIONS]
    write(asked.name, [one for one, _ in found], [claims for _, claims in found], texts=len(texts))


if __name__ == "__main__":
    main()
