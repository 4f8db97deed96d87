"""The output of one window as JSON values, and on a line."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.outputs import Output

SHOWN = 6  # numbers, labels or spans on a line


def of_window(output: Output) -> dict[str, Any]:
    """Return a window's output as JSON values. Of scores for each token it has the best one."""
    from tasks import outputs

    match output:
        case outputs.Generated():
            return asdict(output)
        case outputs.Several():
            return {"texts": [one.text for one in output.outputs], "tokens": output.tokens}
        case outputs.Vector():
            return {"vector": output.values.tolist()}
        case outputs.Weights():
            tokens = output.vocabulary.tokens
            pairs = zip(output.ids.tolist(), output.values.tolist(), strict=True)
            return {"weights": [{"token": tokens[number], "weight": weight} for number, weight in pairs]}
        case outputs.Labels():
            return {"scores": dict(output.scores)}
        case outputs.Spans():
            return {"spans": [asdict(one) for one in output.spans]}
        case outputs.TokenScores():
            best = output.scores.argmax(axis=1).tolist()
            scores = output.scores.max(axis=1).tolist()
            return {"tokens": [[output.labels[place], score] for place, score in zip(best, scores, strict=True)]}
        case outputs.SpanScores():
            starts, ends = (None if not len(one) else int(one.argmax()) for one in (output.starts, output.ends))
            return {"best_start_token": starts, "best_end_token": ends, "null": output.null}
        case outputs.Record():
            return {"data": dict(output.data)}
        case outputs.Failure():
            return {"failed": output.reason, "class": output.reason_class}


def shown(output: Output) -> str:
    """Return a window's output for a terminal."""
    found = of_window(output)
    if "text" in found:
        cut = " (stopped at the model's limit)" if found["truncated"] else ""
        return f"{found['text']}{cut}"
    if "texts" in found:
        return "\n".join(found["texts"])
    if "vector" in found:
        numbers = " ".join(f"{value:+.3f}" for value in found["vector"][:SHOWN])
        return f"{len(found['vector'])} numbers: {numbers} …"
    if "scores" in found:
        best = sorted(found["scores"].items(), key=lambda one: -one[1])[:SHOWN]
        return ", ".join(f"{label} {score:.3f}" for label, score in best)
    import orjson

    return orjson.dumps(found).decode()
