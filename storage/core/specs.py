"""Specs, which are everything that can change an output, the kinds of task that they name, and outcomes.

An outcome is the result of one content under one spec.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

import orjson

from docmill.storage.core.normalize import normalize_json
from docmill.storage.errors import ValueRefused
from docmill.storage.features import flags_of_checks
from docmill.storage.outputs.output_types import CONFIDENCE, Output, OutputType, Stored

TRUNCATED = "output_truncated"  # the flag of an output that stopped at the model's limit
# The flags that the checks of outputs raise (`tasks.checks`).
CHECKED = frozenset(
    {
        "repetition",
        "length_ratio",
        "copied_input",
        "wrong_language",
        "missing_sentences",
        "numbers_changed",
        "names_changed",
    }
)
LOW_CONFIDENCE = "low_confidence"  # the flag of an output whose tokens the model found improbable
DOUBTFUL = CHECKED.union(
    (TRUNCATED, LOW_CONFIDENCE, "empty", "empty_window", "language_uncertain", "not_reduced"), flags_of_checks()
)
REFUSED = "the database cannot store its output"
NO_JSON = "its output has no JSON form: a number is not finite or past 64 bits, or it is nested too deep"


@dataclass(frozen=True)
class Spec:
    """Everything that can change an output: the kind of task, the model with its revision, and the options.

    ``revision`` pins the weights: a hub commit (40 hex digits) or ``sha256:…`` of a local folder's files. ``quality``
    is ``native`` (the device's own precision), or a precision by name: ``float32``, ``bfloat16``, ``float16``,
    ``int8``. ``params`` holds only options that were given, as JSON values; the revision pins the model's own
    generation_config.
    """

    kind: str
    model: str
    revision: str
    quality: str = "native"
    params: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the canonical form: UTF-8 JSON, keys sorted at every level, no white space. Raises ValueRefused."""
        try:
            return orjson.dumps(self.fields, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError as error:  # an option with bytes that are not UTF-8, say
            raise ValueRefused(f"the value of an option cannot be stored: {error}") from error

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by their names, which are the keys of the canonical form and columns of the table of specs."""
        return {**vars(self), "params": dict(self.params)}

    @classmethod
    def from_json(cls, raw: bytes) -> Spec:
        return cls(**orjson.loads(raw))

    @property
    def sha256(self) -> bytes:
        """The spec's identity: SHA-256 (32 bytes) of its canonical JSON."""
        return hashlib.sha256(self.to_json()).digest()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __str__(self) -> str:
        adapter = f" + {self.params['adapter']}" if "adapter" in self.params else ""
        model = f"{self.model}@{self.revision.removeprefix('sha256:')[:12]}{adapter}"
        return f"{self.kind} with {model} ({self.quality})"


@dataclass(frozen=True)
class ShardSize:
    """The bounds of a shard: whichever is reached first. Aimed at 10 to 60 s of work."""

    contents: int
    chars: int


# A device writes text about a hundred times slower than it reads it.
READING_SIZE = ShardSize(256, 400_000)
WRITING_SIZE = ShardSize(64, 60_000)


@dataclass(frozen=True)
class StoredKind:
    """A kind of task, as the store knows it. A spec names it, and so does the lane of its shards."""

    name: str
    output: OutputType
    shard: ShardSize
    heading: str = "output"  # of the column of its outputs in tables for people


class Status(StrEnum):
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """The class of a failure, which says whether a retry can help."""

    TRANSIENT = "transient"
    DOCUMENT = "document"
    MODEL = "model"


@dataclass(frozen=True)
class Outcome:
    """One row of the outcome table, before it has a spec and a runtime.

    ``text``, ``vector`` and ``data`` hold the output as its type says (`storage.outputs.output_types`). ``vector``
    has little-endian float32 bytes: ``dim`` values, or ``windows × dim`` row by row, in which case ``data`` has
    ``{"dim": …, "windows": [[start, end], …]}`` in characters of the text. ``reason`` is a sentence for people,
    without the document's text. ``confidence`` (0 to 1) is the measure of the kind of task (`tasks.kinds.base`);
    None if it is not known. Of a text that a model wrote, ``mean_logprob`` and ``least_logprob`` are the mean and the
    least of its tokens' log-probabilities (natural logarithms).
    """

    content_id: int
    status: Status
    text: str | None = None
    vector: bytes | None = None
    data: dict[str, Any] | None = None
    reason: str | None = None
    reason_class: Reason | None = None
    flags: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    confidence: float | None = None
    mean_logprob: float | None = None
    least_logprob: float | None = None

    @classmethod
    def done(
        cls, content_id: int, output: Output, *, flags: tuple[str, ...] = (), tokens_in: int = 0, tokens_out: int = 0
    ) -> Outcome:
        """Return an outcome with an output in the form that its type is stored in."""
        return cls(
            content_id,
            Status.DONE,
            text=output.text,
            vector=output.vector,
            data=None if output.data is None else dict(output.data),
            flags=flags,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )

    def refused(self, reason: str) -> Outcome:
        """Return a failure in the place of an outcome that cannot be stored."""
        no_output: dict[str, Any] = dict.fromkeys(("text", "vector", "data", *CONFIDENCE))
        return replace(self, status=Status.FAILED, reason=reason, reason_class=Reason.MODEL, **no_output)


def check_outcome(outcome: Outcome, output: OutputType) -> Outcome:
    """Return the outcome, or a failure in its place if it is done and its output is not of this type."""
    problem = output.problem(outcome) if outcome.status is Status.DONE else None
    if problem is None:
        return outcome
    return outcome.refused(f"its output is not stored as {output.plural} are: {problem}")


def make_storable(outcome: Outcome) -> Outcome:
    """Return the outcome as every database can store it, flagged where its output had to be mended.

    An outcome whose data has no JSON form fails. Numbers about its confidence that are not finite are left out.
    """
    data, in_data = _as_json(outcome.data)
    if outcome.data is not None and data is None:
        return make_storable(outcome.refused(NO_JSON))
    text, in_text = normalize_json(outcome.text)
    reason, _ = normalize_json(outcome.reason)
    flags = [*normalize_json(outcome.flags)[0]]
    of_output = [f"output_{flag}" for flag in sorted({*in_text, *in_data})]  # such as `output_nul_replaced`
    flags += [flag for flag in of_output if flag not in flags]
    numbers = {name: getattr(outcome, name) for name in CONFIDENCE}
    mended: dict[str, Any] = {name: number if _is_finite(number) else None for name, number in numbers.items()}
    mended |= {"text": text, "data": data, "reason": reason, "flags": tuple(flags)}
    changed = {name: value for name, value in mended.items() if value != getattr(outcome, name)}
    return replace(outcome, **changed) if changed else outcome


def _as_json(value: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a JSON value as it is stored, and the flags of replacements; None for a value without a JSON form."""
    try:
        mended, replaced = normalize_json(value)
        orjson.dumps(mended)
    except (TypeError, RecursionError):
        return None, ()
    return (mended, replaced) if _is_finite(mended) else (None, ())


def _is_finite(value: object) -> bool:
    """Return False for a value with NaN or an infinity in it, which orjson would write as `null`."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_is_finite, value))


class StoredOutcome(Stored, Protocol):
    """A row of outcomes; a query may leave out columns that nobody reads."""

    spec_id: int
    status: str
    flags: Sequence[str]
    reason: str | None
    reason_class: str | None
    tokens_in: int
    tokens_out: int
    output_id: int | None
    runtime_id: int | None
    created_at: float


@dataclass(frozen=True)
class Known:
    """The status and the flags of an outcome that is stored."""

    status: str
    flags: Collection[str]


def tally(outcomes: Iterable[Known]) -> dict[str, int]:
    """Return the number of outcomes by status, and of `truncated` and `doubtful` outcomes, which are done as well."""
    known = list(outcomes)
    counts = {str(status): sum(outcome.status == status for outcome in known) for status in Status}
    done = [outcome.flags for outcome in known if outcome.status == Status.DONE]
    counts["truncated"] = sum(TRUNCATED in outcome.flags for outcome in known)
    counts["doubtful"] = sum(not DOUBTFUL.isdisjoint(flags) for flags in done)
    return counts
