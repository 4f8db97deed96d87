"""The difference between an output and the same one computed again, and what may have caused it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, TypeGuard

from storage.json_values import Json

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Output = Mapping[str, Any]  # in its JSON form; a vector may be an array

TOLERANCE = 1e-4  # numbers of two computations differ in their last bits from one processor to another
CONTEXT = 4  # words around a difference
SHOWN = 20  # differing items
_WORDS = re.compile(r"\S+")
# What tells two items of a list apart, and the number that each has.
_LISTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "labels": (("label",), "score"),
    "weights": (("token",), "weight"),
    "spans": (("label", "start", "end", "text"), "score"),
    "sentences": (("start", "end"), "score"),
}


@dataclass(frozen=True)
class Difference:
    """The difference of two outputs. `lines` has each of its parts; numbers within TOLERANCE are the same."""

    same: bool
    summary: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """Something that differs in how two outputs were computed: its name, and its values then and now."""

    what: str
    then: str
    now: str


def difference(then: Output, now: Output) -> Difference:
    """Return the difference of two outputs of one kind."""
    parts = [_part(name, then.get(name), now.get(name)) for name in dict.fromkeys((*then, *now))]
    differing = [part for part in parts if not part.same]
    if not differing:
        return Difference(True, next((part.summary for part in parts if part.summary), "the same"))
    return Difference(
        False, "; ".join(part.summary for part in differing), tuple(line for part in differing for line in part.lines)
    )


def _part(name: str, then: Any, now: Any) -> Difference:
    if name == "vector":
        return vectors(then, now)
    if isinstance(then, str) and isinstance(now, str):
        return words(then, now)
    if name in _LISTS and isinstance(then, list) and isinstance(now, list):
        return items(name, then, now)
    return values(name, then, now)


def words(then: str, now: str) -> Difference:
    """Return the difference of two texts in words: `[-these-]` were there then, `{+these+}` are there now."""
    if then == now:
        return Difference(True, "the same")
    before, after = _WORDS.findall(then), _WORDS.findall(now)
    if before == after:
        return Difference(False, "only white space differs")
    matcher = SequenceMatcher(None, before, after, autojunk=len(before) > 5_000)
    lines, n_before, n_after = [], 0, 0
    for group in matcher.get_grouped_opcodes(CONTEXT):
        lines.append(" ".join(_pieces(group, before, after)))
    for tag, start, end, start_now, end_now in matcher.get_opcodes():
        if tag != "equal":
            n_before, n_after = n_before + end - start, n_after + end_now - start_now
    summary = f"{n_before:,} of {len(before):,} words then, {n_after:,} of {len(after):,} now"
    return Difference(False, summary, tuple(lines))


def _pieces(
    group: Sequence[tuple[str, int, int, int, int]], before: Sequence[str], after: Sequence[str]
) -> Iterator[str]:
    if group[0][1] > 0:
        yield "…"
    for tag, start, end, start_now, end_now in group:
        if tag == "equal":
            yield " ".join(before[start:end])
            continue
        if start < end:
            yield f"[-{' '.join(before[start:end])}-]"
        if start_now < end_now:
            yield f"{{+{' '.join(after[start_now:end_now])}+}}"
    if group[-1][2] < len(before):
        yield "…"


def vectors(then: ArrayLike, now: ArrayLike) -> Difference:
    """Return the difference of two vectors, or of two tables of them: the least cosine and the largest difference."""
    import numpy as np

    before, after = np.atleast_2d(np.asarray(then, np.float64)), np.atleast_2d(np.asarray(now, np.float64))
    if before.shape != after.shape:
        return Difference(False, f"{_size(before.shape)} then, {_size(after.shape)} now")
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = float(np.min(np.sum(before * after, axis=1) / np.where(lengths > 0, lengths, 1.0)))
    largest = float(np.max(np.abs(before - after), initial=0.0))
    scale = float(np.max(np.abs(before), initial=0.0)) or 1.0
    same = largest <= TOLERANCE * scale
    return Difference(same, f"cosine {cosine:.7f}, largest difference {largest:.2g}")


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) + " numbers"


def items(name: str, then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Difference:
    """Return the difference of two lists of labels, spans, weights or sentences: those in one only, and scores."""
    keys, number = _LISTS[name]
    before = {tuple(one.get(key) for key in keys): one[number] for one in then}
    after = {tuple(one.get(key) for key in keys): one[number] for one in now}
    lines, largest = [], 0.0
    for key in dict.fromkeys((*before, *after)):
        named = " ".join(map(str, key))
        if key not in after:
            lines.append(f"[-{named}-] {before[key]:.4f}")
        elif key not in before:
            lines.append(f"{{+{named}+}} {after[key]:.4f}")
        else:
            largest = max(largest, abs(before[key] - after[key]))
            if not _close(before[key], after[key]):
                lines.append(f"{named}: {before[key]:.4f} then, {after[key]:.4f} now")
    summary = f"{len(lines):,} of {len(before.keys() | after.keys()):,} {name}, largest difference {largest:.2g}"
    return Difference(not lines, summary if lines else f"largest difference {largest:.2g}", _few(lines))


def values(name: str, then: Json, now: Json) -> Difference:
    """Return the difference of two JSON values, place by place."""
    before, after = dict(_leaves(name, then)), dict(_leaves(name, now))
    lines = []
    for place in dict.fromkeys((*before, *after)):
        old, new = before.get(place, _NONE), after.get(place, _NONE)
        if not (old == new or (_is_number(old) and _is_number(new) and _close(old, new))):
            lines.append(f"{place}: {old!s} then, {new!s} now")
    summary = f"{len(lines):,} of {len(before.keys() | after.keys()):,} values" if lines else ""
    return Difference(not lines, summary, _few(lines))


_NONE = "nothing"


def _leaves(place: str, value: Json) -> Iterator[tuple[str, Json]]:
    children: Iterable[tuple[str | int, Json]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    if not children:
        yield place, value
    for key, child in children:
        yield from _leaves(f"{place}/{key}", child)


def _few(lines: Sequence[str]) -> tuple[str, ...]:
    more = len(lines) - SHOWN
    return (*lines[:SHOWN], f"… {more:,} more") if more > 0 else tuple(lines)


def _is_number(value: Json) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))


def causes(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[Cause, ...]:
    """Return what differs between two runtimes: precision, backend, device and the versions of libraries.

    A runtime that was not kept is a cause of its own.
    """
    if then is None:
        return (Cause("runtime", "not kept", str(now["backend"])),)
    names = ("precision", "backend", "device")
    found = [Cause(name, then[name], now[name]) for name in names if then[name] != now[name]]
    old, new = then["versions"], now["versions"]
    shared = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    if then["backend"] != now["backend"]:  # another backend has other libraries
        shared = [name for name in shared if name in old and name in new]
    return (*found, *(Cause(name, old.get(name, "none"), new.get(name, "none")) for name in shared))
