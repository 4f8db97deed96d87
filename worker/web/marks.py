"""Run the checks of an input and an output again, and mark their findings, or the words that differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from docmill.storage.core.specs import DOUBTFUL, Spec
from docmill.tasks import kinds
from docmill.tasks.checks import Checks, Finding, in_words
from docmill.tasks.errors import TaskError
from docmill.tasks.models import families
from docmill.tasks.models.families import Direction
from docmill.tasks.specs import pinning
from docmill.worker.settings import Settings

WORD = re.compile(r"https?://\S*[\w/]|[^\W_]+(?:[.,:/_-][^\W_]+)*")
SAME_LANGUAGE = 0.5  # the least share of the output's words that stand in the input, too
NEVER_SPACED = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]")
MOST_EVIDENCE = 4
BETWEEN_OUTPUTS = "\n\n"
ChecksOf = Callable[[Spec], Checks]


class TextPart(NamedTuple):
    """A stretch of a text; `marked` if it differs, or if a check found something there."""

    text: str
    marked: bool


def mark_findings(
    source: str, output: str, findings: Iterable[Finding]
) -> tuple[list[TextPart], list[TextPart]] | None:
    """Return both texts in parts, with a mark on each place of the findings; None if they have no place."""
    places = [(finding.start, finding.end, finding.lost) for finding in findings]
    lost = [place for _, _, place in places if place is not None]
    written = [(start, end) for start, end, _ in places if start is not None and end is not None]
    return ([*_at(source, lost)], [*_at(output, written)]) if lost or written else None


def excerpt(parts: Sequence[TextPart], longest: int) -> list[TextPart]:
    """Return a stretch of a text in parts that has its first mark, and the numbers of characters left out.

    Words stay whole, unless they are long.
    """
    whole = "".join(part.text for part in parts).replace("\n", " ")
    size, first = len(whole), 0
    for part in parts:
        if part.marked:
            break
        first += len(part.text)
    start = (
        0 if size <= longest or first >= size or first < longest // 2 else min(first - longest // 4, size - longest)
    )
    end = min(size, start + longest)
    if start and (space := whole.find(" ", start - 1, min(first, start + longest // 8))) >= 0:
        start = space + 1
    if end < size and (space := whole.rfind(" ", end - longest // 8, end + 1)) > first % size:
        end = space
    kept, place = [], 0
    for part in parts:
        text = part.text[max(0, start - place) : max(0, end - place)]
        place += len(part.text)
        kept += [part._replace(text=text)] if text else []
    before, after = start, size - end
    head = [TextPart(f"({before:,} characters before) … ", False)] if before else []
    return [*head, *kept, *([TextPart(f" … ({after:,} more characters)", False)] if after else [])]


def marked(source: str, output: str) -> tuple[list[TextPart], list[TextPart]]:
    """Return both texts in parts, with a mark on the output's words that do not stand in the input.

    If most words of the output are new, it counts as another language. Then only words that no translation changes
    are marked, such as numbers and addresses. The same goes for scripts without spaces.
    """
    read, written = _words(source), _words(output)
    common = sum(word in read for word in written)
    every = common >= SAME_LANGUAGE * len(written) and not NEVER_SPACED.search(output)
    before = [TextPart(source, False)] if every else [*_parts(source, written, every=False)]
    return before, [*_parts(output, read, every=every)]


def _is_kept(word: str) -> bool:
    """Return True for a word that translations keep: one with a digit, a sign or an inner capital."""
    return any(char.isdigit() or char in "./_:" for char in word) or any(char.isupper() for char in word[1:])


def _words(text: str) -> set[str]:
    return {match[0].casefold() for match in WORD.finditer(text)}


def _parts(text: str, others: set[str], *, every: bool) -> Iterator[TextPart]:
    end = 0
    for match in WORD.finditer(text):
        word = match[0]
        if word.casefold() in others or not (every or _is_kept(word)):
            continue
        if end < match.start():
            yield TextPart(text[end : match.start()], False)
        yield TextPart(word, True)
        end = match.end()
    if end < len(text):
        yield TextPart(text[end:], False)


def _at(text: str, places: Iterable[tuple[int, int]]) -> Iterator[TextPart]:
    """Yield the parts of a text with marks at these places, which may overlap."""
    end = 0
    for start, stop in sorted(places):
        if stop <= end:
            continue
        if end < start:
            yield TextPart(text[end:start], False)
        yield TextPart(text[max(start, end) : stop], True)
        end = stop
    if end < len(text):
        yield TextPart(text[end:], False)


def checks_of(settings: Settings, spec: Spec) -> Checks:
    """Return the checks of the outputs under a spec.

    The model's own languages are known if its files are on this machine.
    """
    return kinds.checks(spec, kinds.Traits(direction=_direction(settings, spec)))


def findings(checks: Checks, source: str, outputs: Sequence[str], flags: Collection[str]) -> tuple[Finding, ...]:
    """Return the findings in joined outputs for their own flags; the checks of this release may find more."""
    evidence: list[Finding] = []
    start = 0
    for text in outputs:
        of_text = checks.findings(source, text, flags)
        evidence += [finding.moved(start) for finding in of_text if finding.flag in flags]
        start += len(text) + len(BETWEEN_OUTPUTS)
    return tuple(evidence)


def mark_output(
    source: str, outputs: Sequence[str], flags: Collection[str], checks: Checks
) -> tuple[Sequence[TextPart], Sequence[TextPart], Sequence[tuple[bool, str]]]:
    """Return an input and its joined outputs with marks on the findings of checks, and remarks: the flags in words.

    In doubtful outputs without findings, marks are on words that are not in the input. A remark is True if it casts
    doubt, and a text.
    """
    evidence = findings(checks, source, outputs, flags)
    output = BETWEEN_OUTPUTS.join(outputs)
    before, after = [TextPart(source, False)], [TextPart(output, False)]
    if not DOUBTFUL.isdisjoint(flags):
        before, after = mark_findings(source, output, evidence) or marked(source, output)
    remarks = [remark(flag, (finding.evidence for finding in evidence if finding.flag == flag)) for flag in flags]
    return before, after, sorted(remarks, key=lambda pair: not pair[0])


def remark(flag: str, evidence: Iterable[str] = ()) -> tuple[bool, str]:
    """Return True if a flag casts doubt, and the findings of a check, or else the flag, in words."""
    said = [f"{sentence.removesuffix('.')}." for sentence in dict.fromkeys(evidence)] or [f"{in_words(flag)}."]
    more = [f"And {len(said) - MOST_EVIDENCE} more."] if len(said) > MOST_EVIDENCE else []
    sentences = " ".join(said[:MOST_EVIDENCE] + more)
    return flag in DOUBTFUL, sentences[0].upper() + sentences[1:]


def _direction(settings: Settings, spec: Spec) -> Direction:
    if not pinning.here(spec, settings.model_folders):
        return families.UNKNOWN
    try:
        folder = pinning.locate(spec, settings.model_folders)
        return families.direction_of_folder(folder)
    except TaskError:
        return families.UNKNOWN
