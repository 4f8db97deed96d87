"""Subtitles (SRT and WebVTT) as text: the cues' lines, without numbers, times and markup, by pysubs2 (an extra)."""

from __future__ import annotations

import html
import re

# Tags, times within a cue (`<00:00:05.500>`), and the override codes of other formats (`{\an8}`).
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|</?>|<[\d:.]+>|\{\\[^{}]*\}")
_DASHES = "-–—"  # another speaker's words
_ENTITIES = frozenset(("vtt",))


def text(source: str, form: str) -> str:
    """Return the text of subtitles, with a line for each cue. `form` is `srt` or `vtt`.

    Live captions show a line again with the next one; it is kept once.
    """
    import pysubs2

    cues = pysubs2.SSAFile.from_string(source, format_=form, keep_html_tags=True, keep_unknown_html_tags=True)
    found: list[str] = []
    shown: list[str] = []
    ended_ms = -1
    for cue in cues:
        if cue.is_comment:
            continue
        lines = [line for line in map(str.strip, _plain(cue.text, form).split("\n")) if line]
        again = shown if cue.start <= ended_ms else []
        new = [line for line in lines if line not in again]
        if new:
            found.append("".join(f"\n{line}" if line[0] in _DASHES else f" {line}" for line in new).strip())
        shown, ended_ms = lines, cue.end
    return "\n".join(found)


def _plain(raw: str, form: str) -> str:
    without = _MARKUP.sub("", raw.replace("\\N", "\n"))
    return html.unescape(without) if form in _ENTITIES else without
