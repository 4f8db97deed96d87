"""Options of the Python API: the options of the command line, with underscores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any, Literal, TypeAlias, TypedDict

from docmill.tasks import kinds
from docmill.tasks.errors import BadOption, hint
from docmill.tasks.kinds.options import key
from docmill.worker.settings import Settings
from docmill.worker.submit.options import Request, Work, checked

Task: TypeAlias = Literal[
    "answer", "classify", "embed", "entities", "extract", "generate", "redact", "sparse", "summarize", "translate"
]


class Options(TypedDict, total=False):
    """Options of a job by their names in Python. docs/command-line.md describes them."""

    length: Literal["short", "medium", "long"] | int | None
    from_: str | None
    to: str | None
    unit: Literal["paragraph", "sentence"] | None
    pooling: Literal["cls", "mean", "last"] | None
    window_vectors: Literal["mean", "all"] | None
    messages: str | None
    n: int | None
    raw: bool | None
    fill_context: bool | None
    hypothesis: str | None
    multi_label: bool | None
    window_score: Literal["mean", "max"] | None
    threshold: float | None
    pattern: Sequence[str] | None
    region: Sequence[str] | None
    entity: Sequence[str] | None
    replace: Literal["tag", "hash", "mask"] | None
    salt: str | None
    cite: bool | None
    question: str | Sequence[str] | Mapping[str, str] | None
    max_answer_tokens: int | None
    no_answer_threshold: float | None
    always_answer: bool | None
    prefix: str | None
    model_prompt: str | None
    schema: str | Mapping[str, Any] | None
    labels: str | Sequence[str] | Mapping[str, str] | None
    word_label: Literal["simple", "first", "average", "max"] | None
    min_new_tokens: int | None
    no_repeat_ngram_size: int | None
    stop: Sequence[str] | None
    length_penalty: float | None
    early_stopping: bool | None
    beams: int | None
    max_new_tokens: int | None
    system: str | None
    temperature: float | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    repetition_penalty: float | None
    tokenizer: str | None
    prompt: str | None
    top_k: int | None
    window_tokens: int | None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] | None
    adapter: str | None
    leave_out: str | None
    escalate: str | None
    escalate_beams: int | None
    when: str | None
    max_failures: float | None
    max_flagged: float | None
    priority: int | None
    text_field: str | None
    id_field: str | None
    encoding: str | None
    sheet: str | None
    header_row: int | None
    ocr: str | None
    limit: int | None
    prune: bool | None
    prune_max: float | None
    prune_rejected: Literal["stop", "keep"] | None
    strict: bool | None
    revision: str | None


def python_name(spelling: str) -> str:
    """Return an option's name in Python: `from_` for --from, `top_k` for --top-k."""
    name = spelling.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


_OF_KINDS = {python_name(key(name, field)): name for name, field in kinds.OPTIONS.items()}
NAMES = (*_OF_KINDS, *(name for name in Work.model_fields if name not in {"source", "task"}))


def request_of(
    settings: Settings, source: str, task: str, arguments: Mapping[str, Any], key: str | None = None
) -> Request:
    """Return the request in the options of a call. None stands for an option that was not given.

    Raises BadOption.
    """
    for name in arguments:
        if name not in NAMES:
            advice = hint(name, NAMES, "`docmill run TASK --help` lists the options.")
            raise BadOption(f"There is no option {name}. {advice}")
    values = {name: value for name, value in arguments.items() if value is not None}
    of_kind = {_OF_KINDS[name]: values.pop(name) for name in [*values] if name in _OF_KINDS}
    options = kinds.options(task, **{"dtype": settings.dtype, **of_kind})
    return checked(options, {"source": source, "task": task, "idempotency_key": key, **values})
