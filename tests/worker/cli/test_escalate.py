"""`docmill run --escalate`: what is doubted is computed again, and every command tells of it."""

from __future__ import annotations

import pytest

from tests.worker.harness import EXAMPLES, Docmill

RUN = ("run", "summarize", EXAMPLES / "descriptions.jsonl", "--limit", 6, "--max-new-tokens", 8)
GREEDY = (*RUN, "--beams", 1)
ESCALATED = (*GREEDY, "--escalate-beams", 2)


@pytest.mark.long
def test_doubtful_summaries_are_computed_again_with_more_beams(embedded: Docmill) -> None:
    embedded(*GREEDY)
    first = {result["id"]: result for result in embedded.results(1)}
    doubtful = sorted(key for key, result in first.items() if "output_truncated" in result["flags"])
    assert 0 < len(doubtful) < 6
    said = embedded(*ESCALATED).stderr
    assert "Job 2 done: 6 documents, 6 unique texts: 6 done" in said
    status = embedded.json("status", 2)
    escalated = status["escalated"]["summarize"]
    assert (escalated["texts"], escalated["of"], escalated["failed"]) == (len(doubtful), 6, 0)
    assert escalated["spec"]["params"]["beams"] == 2
    assert status["prior"] == 6 - len(doubtful)
    results = {result["id"]: result for result in embedded.results(2)}
    kept = [key for key in first if key not in doubtful]
    assert {key: results[key]["text"] for key in kept} == {key: first[key]["text"] for key in kept}

    explained = embedded.json("explain", 2, doubtful[0])["steps"][0]
    assert explained["escalation"]["first"]["outcome"]["output"] == {"text": first[doubtful[0]]["text"]}
    number = {"first": 1, "second": 2}[explained["escalation"]["result"]]
    assert explained["spec"]["params"]["beams"] == number
    assert explained["outcome"]["output"] == {"text": results[doubtful[0]]["text"]}
    shown = embedded("explain", 2, doubtful[0]).stdout
    assert "Escalated" in shown
    assert "doubted     output_truncated" in shown
    assert "Escalated" not in embedded("explain", 2, kept[0]).stdout

    assert "Nothing to compute" in embedded(*ESCALATED).stderr
    assert f"{len(doubtful)} of 6 texts" in embedded("status", 3).stdout
