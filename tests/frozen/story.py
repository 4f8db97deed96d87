"""The commands that filled the frozen stores, in the order in which they were given."""

from __future__ import annotations

from dataclasses import dataclass

# The stores name this folder wherever a source's path stands; a test puts its own in its place.
FOLDER = "/tmp/docmill-frozen"
SEARCHED = "reading XML files"
ORDERS = {
    "order-done": {"source": f"{FOLDER}/notes.csv", "task": "translate", "model": "null", "corpus": "ordered"},
    "order-refused": {"source": "/elsewhere/notes.csv", "task": "translate", "model": "null"},
}


@dataclass(frozen=True)
class Ran:
    """A command whose job ended, with its exit code."""

    arguments: str
    code: int = 0


# Each of these leaves a job that is done. Given again, it computes nothing.
DONE = (
    Ran("run notes.csv --task summarize --model null --corpus notes"),
    Ran("run notes.csv --task generate --model null --prompt {meta.title}:{text} --temperature 0.5 --seed 3 "
        "--stop END --corpus notes"),
    Ran("run letters --task embed --model null --windows all --window-tokens 8 --corpus letters"),
    Ran("run press.jsonl --task translate --model null --from fr --to en --corpus press --prune --prune-max 90 "
        "--prune-rejected keep", 4),
    Ran("run french.jsonl --task translate --from auto --to en --beams 1 --corpus french --dtype float32", 1),
    Ran("run letters --task summarize --beams 1 --max-new-tokens 20 --corpus letters --dtype float32"),
    Ran("run letters --task embed --corpus letters --dtype float32"),
    Ran("pipeline run nightly.toml", 4),
)  # fmt: skip
# An earlier version of a source, whose documents were superseded and marked as vanished by the command above.
BEFORE = Ran("run press.jsonl --task translate --model null --from fr --to en --corpus press")
# A job that was cancelled, and one that was held.
CANCELLED = "enqueue press.jsonl --task summarize --model null --corpus cancelled"
PAUSED = "enqueue letters --task translate --model null --corpus paused --priority 5"
# A job whose worker was killed between its shards, and one whose source was being read by a command that was killed.
HALF_DONE = "many.jsonl.gz --task translate --model null --corpus many"
INTERRUPTED = "more.jsonl.gz --task summarize --model null --corpus more"
