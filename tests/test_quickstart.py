"""`make run`: its commands show what docmill can do, and uv installs its environment from the places that pip has."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from examples.quickstart import STEPS
from release.install import uv_commands
from tests.worker.harness import EXAMPLES, ROOT, Docmill

PIPELINE = """
name = "readme"
corpus.source = "one.jsonl"

[[step]]
name = "english"
task = "translate"
from = "fr"
to = "en"

[[step]]
name = "gist"
task = "summarize"
input = "english"

[[step]]
name = "names"
task = "entities"
input = "english"
"""


@pytest.mark.slow
def test_each_quick_start_command_shows_results_and_no_doubtful_ones(tmp_path: Path) -> None:
    docmill = Docmill(tmp_path, {"COLUMNS": "80"})
    (tmp_path / "examples").symlink_to(EXAMPLES)
    completed = [docmill(*shlex.split(command)) for _, command in STEPS]
    output = "\n".join(process.stdout + process.stderr for process in completed)
    for text in ("eqonomize", "default-mysql-client", "games 0.", "C++ (language)", "write to [EMAIL]"):
        assert text in output
    assert "nothing found" not in output
    assert "as doubtful" not in output


@pytest.mark.slow
def test_the_readme_shows_what_the_demo_models_make_of_a_french_document(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    text, english, gist, names = [cell for _, cell in rows if set(cell) != {"-"}]
    assert any(json.loads(line)["text"] == text for line in (EXAMPLES / "french.jsonl").read_text().splitlines())
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "one", "text": text}))
    (tmp_path / "readme.toml").write_text(PIPELINE)
    docmill = Docmill(tmp_path, {})
    docmill("pipeline", "run", "readme.toml")
    [result] = docmill.results(1)
    steps = result["steps"]
    spans = [f"{span['text']} ({span['label']})" for span in steps["names"]["spans"]]
    assert (steps["english"]["text"], steps["gist"]["text"], ", ".join(spans)) == (english, gist, names)
    assert not any(step["flags"] for step in steps.values())


def test_uv_gets_pips_indexes_links_and_certificate() -> None:
    settings = {"index-url": "https://a/simple", "find-links": "/wheels\n/more", "cert": "/ca.pem", "timeout": "9"}
    [(command, environment)] = uv_commands(settings)
    assert [argument for argument in command if "=" in argument] == [
        "--index-url=https://a/simple",
        "--find-links=/wheels",
        "--find-links=/more",
        "--index-strategy=unsafe-best-match",
    ]
    assert environment == {"SSL_CERT_FILE": "/ca.pem"}
