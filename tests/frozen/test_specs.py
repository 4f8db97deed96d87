"""The specs that people's stores have results under stay the same, whichever way a task is given.

`make_specs` wrote `specs.json` at d5aa8a2. A spec that changes would make people compute everything anew. Eight have
changed since: where a model reads or writes one language only, leaving out --from or --to has the spec of naming it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.frozen import adapter, hub_cache
from tests.worker.harness import Docmill

FROZEN = json.loads(Path(__file__).with_name("specs.json").read_text(encoding="utf-8"))
MODELS: Mapping[str, Mapping[str, Any]] = FROZEN["models"]
SHORT_DTYPES = {"native", "fp32", "bf16", "fp16"}  # only pipeline files and settings take these, as an empty prefix


@dataclass(frozen=True)
class Case:
    """A task as it was given, with the spec that was made of it."""

    kind: str
    model: str
    options: Mapping[str, Any]
    quality: str
    params: Mapping[str, Any]
    id: str

    @property
    def is_within_reach(self) -> bool:
        """True if commands find the model in the test's cache of the hub."""
        return "/models/" not in self.model

    @property
    def flags(self) -> list[str]:
        """The options of the command line."""
        found = []
        for name, value in self.options.items():
            for one in value if isinstance(value, list) else [value]:
                found += [f"--{name}", str(one)]
        return found

    @property
    def step(self) -> str:
        """The step's keys in a pipeline file."""
        given = {"task": self.kind, "model": self.model, "input": "document", **self.options}
        return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in given.items())


CASES = [Case(group["kind"], group["model"], *case) for group in FROZEN["specs"] for case in group["cases"]]
REACHED = [case for case in CASES if case.is_within_reach]
WITH_FLAGS = [
    case for case in REACHED if case.options.get("dtype") not in SHORT_DTYPES and case.options.get("prefix") != ""
]


@pytest.fixture
def offline(tmp_path: Path) -> Docmill:
    """docmill without a network, with the small files of every model and the weights of none."""
    hub_cache.fill(tmp_path / "hub", MODELS)
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "Un texte.", "title": "Titre"}\n')
    return Docmill(tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"})


def test_every_frozen_spec_is_made_again() -> None:
    for case in CASES:
        spec = adapter.planned(case.kind, case.model, case.options, MODELS)
        made = json.loads(adapter.canonical(spec))
        assert _told(made) == _told(vars(case)), case
        assert adapter.identity(spec) == case.id, case


def test_every_kind_and_option_is_among_the_frozen_specs() -> None:
    assert {case.kind for case in CASES} == {"summarize", "translate", "embed", "generate"}
    assert {name for case in CASES for name in case.options} == {
        *("from", "to", "beams", "max-new-tokens", "window-tokens", "pooling", "windows", "dtype", "prompt"),
        *("prompt-name", "prefix", "system", "temperature", "top-p", "top-k", "seed", "stop"),
    }


def test_a_message_makes_the_same_specs() -> None:
    for case in CASES:
        if len(case.options.get("stop", [])) > 1:  # a message has one text
            continue
        given = {name.replace("-", "_"): value for name, value in case.options.items()}
        given |= {"stop": given["stop"][0]} if "stop" in given else {}
        arguments = {"source": "c.jsonl", "task": case.kind, "model": case.model, **given}
        assert adapter.identity(adapter.ordered(arguments, MODELS)) == case.id, case


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_the_steps_of_a_pipeline_file_make_the_same_specs(offline: Docmill, every: bool) -> None:
    cases = REACHED if every else [*_with_every_option_and_model(REACHED)]
    steps = [f'[[step]]\nname = "s{number}"\n{case.step}' for number, case in enumerate(cases)]
    head = 'name = "frozen"\n[corpus]\nsource = "corpus.jsonl"\n'
    (offline.folder / "frozen.toml").write_text("\n".join([head, *steps]), encoding="utf-8")
    specs = offline.json("pipeline", "check", "frozen.toml")["specs"]
    for number, case in enumerate(cases):
        assert _told(specs[f"s{number}"]) == _told(vars(case)), case


def test_the_options_of_the_command_line_make_the_same_specs(offline: Docmill) -> None:
    for case in _with_every_option(WITH_FLAGS):
        offline("enqueue", "corpus.jsonl", "--task", case.kind, "--model", case.model, *case.flags)
        assert case.id in _stored(offline), case


def test_the_setting_of_the_precision_is_part_of_the_spec(offline: Docmill) -> None:
    offline.environment["DOCMILL_DTYPE"] = "float16"
    offline("enqueue", "corpus.jsonl", "--task", "embed", "--model", "hub/bert")
    wanted = [case.id for case in CASES if (case.model, case.options) == ("hub/bert", {"dtype": "float16"})]
    assert _stored(offline) == set(wanted)


@pytest.mark.parametrize(
    ("options", "id_"),
    [
        ("embed", "54575e03d248e3aec75e922ae72d10304b6858576e36d13303c8dcb07354cde8"),
        ("translate", "b1fa1da0d612abd261ddc6afbae03b5926325de62d702038b62bb38cb266b1ef"),
        ("translate --from fr --to en", "99b887eeac4d059ff867e3d1a6ddc7f89aafd9d81d77a65b0140e26de7dbe01f"),
        ("translate --from auto", "fb03ccf14ba5563cc524d8da69f5b0042d8bef43a2a745b916273817c9e003be"),
        ("summarize", "f517ce364331ac9d7c096c95d71798e216f4d09890882ca4c503205e482e4737"),
    ],
)
def test_the_models_that_come_with_docmill_make_the_same_specs(offline: Docmill, options: str, id_: str) -> None:
    offline("enqueue", "corpus.jsonl", "--task", *options.split())
    assert _stored(offline) == {id_}


def _with_every_option(cases: Sequence[Case]) -> Iterator[Case]:
    """Few cases of each kind that together have each option that the kind has in ``cases``."""
    return _few(cases, lambda case: {*case.options})


def _with_every_option_and_model(cases: Sequence[Case]) -> Iterator[Case]:
    """Cases that together have each option and each model of each kind in ``cases``."""
    return _few(cases, lambda case: {*case.options, case.model})


def _few(cases: Sequence[Case], parts: Callable[[Case], set[str]]) -> Iterator[Case]:
    """Few cases of each kind that together have each part that the kind has in ``cases``."""
    seen: set[tuple[str, str]] = set()
    for case in sorted(cases, key=lambda case: -len(case.options)):
        found = {(case.kind, part) for part in parts(case)}
        if not found <= seen:
            seen |= found
            yield case


def _told(spec: Mapping[str, Any]) -> str:
    """Return a spec without its model, as text, since 1 and 1.0 make two ids."""
    return json.dumps([spec["kind"], spec["quality"], spec["params"]], sort_keys=True)


def _stored(docmill: Docmill) -> set[str]:
    """The ids of the specs in the store."""
    store = Path(docmill.environment["DOCMILL_HOME"]) / "docmill.db"
    with closing(sqlite3.connect(store)) as connection:
        return {sha256.hex() for (sha256,) in connection.execute("SELECT sha256 FROM spec")}
