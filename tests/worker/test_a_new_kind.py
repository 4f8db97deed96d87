"""A kind of task is one module and one line: everything else follows, for each type of output."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from celery import Celery
from sqlalchemy import create_engine, text

from docmill.worker.queue.messages import ENQUEUE_LANE
from docmill.worker.queue.messages import queue as queue_of
from tests.worker.harness import Docmill, copy_packages, until

MODULE = '''
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from docmill.storage.core.specs import READING_SIZE
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.outputs.output_types import {type}
from docmill.tasks.models.families import Family
from docmill.tasks.outputs import Head
from docmill.tasks.kinds.base import Computed, TaskKind
from docmill.tasks.kinds.options import Windowed
from docmill.tasks.windows.windows import Coder, Window, cut


class {name}Options(Windowed):
    """Options of `{name}`."""

    {name}_level: Annotated[int | None, Field(ge=1, le=9, description="How much to {name}.")] = None


@dataclass(frozen=True)
class {name}Recipe:
    def cut(self, texts: Sequence[str], coder: Coder) -> list[list[Window]]:
        return {cut}

    def join(self, computed: Computed) -> Outcome:
        (output,) = computed.outputs
        return Outcome(computed.content_id, Status.DONE, **self.kept(computed.text, output))

    def kept(self, text, output):
        {kept}


KIND = TaskKind(
    name="{name}",
    summary="{name} each document.",
    options={name}Options,
    output={type},
    {families}
    recipe=lambda spec, traits: {name}Recipe(),
    shard=READING_SIZE,
)
'''
AFTER = "from docmill.tasks.kinds.redact import REDACT\n"
STORED = "stored = {type}.stored({given}); return dict(text=stored.text, data=stored.data)"
KEPT = {
    "TEXT": "return dict(text=text.upper())",
    "VECTOR": "return dict(vector=output.values.astype('<f4').tobytes())",
    "LABELS": STORED.format(type="LABELS", given="output.scores.items()"),
    "SPANS": STORED.format(type="SPANS", given="text, [(s.label, s.start, s.end, s.score) for s in output.spans]"),
    "RECORD": STORED.format(type="RECORD", given="{'words': len(output.text.split())}"),
}
MODELLESS = {"TEXT"}
TYPES = ("TEXT", "VECTOR", "LABELS", "SPANS", "RECORD")
NAMES = {type_: f"do{type_.lower()}" for type_ in TYPES}
TEXTS = {"a": "One text.", "b": "Another text, of more words."}
KEYS = {"TEXT": "text", "VECTOR": "vector", "LABELS": "labels", "SPANS": "spans", "RECORD": "data"}
COLUMNS = {
    "TEXT": {"step"},
    "VECTOR": {"step_vector"},
    "LABELS": {"step", "step_score", "step_labels"},
    "SPANS": {"step_spans"},
    "RECORD": {"step_data"},
}


def module_of(type_: str, name: str) -> str:
    """Return the module of a kind; the kind of texts needs no model, and its recipe cuts windows that none reads."""
    families = "" if type_ in MODELLESS else "families={Family.ENCODER: Head.POOLING},"
    cut = "[[Window(0, len(text), None)] for text in texts]" if type_ in MODELLESS else "cut(texts, coder)"
    return MODULE.format(type=type_, name=name, kept=KEPT[type_], families=families, cut=cut)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """docmill with a kind of task for each type of output, each a module and a line of the registry."""
    tree = tmp_path_factory.mktemp("docmill")
    copy_packages(tree)
    registry = tree / "tasks" / "kinds" / "__init__.py"
    lines = registry.read_text()
    for type_, name in NAMES.items():
        (tree / "tasks" / "kinds" / f"{name}.py").write_text(module_of(type_, name))
        lines = lines.replace(AFTER, f"{AFTER}from docmill.tasks.kinds.{name} import KIND as {type_}_KIND\n")
        lines = lines.replace("    GENERATE,\n", f"    GENERATE,\n    {type_}_KIND,\n")
    registry.write_text(lines)
    return tree


@pytest.fixture
def docmill(tree: Path, tmp_path: Path, database_url: str, redis_url: str) -> Docmill:
    """docmill with the new kind, a store, a queue and a corpus."""
    records = [json.dumps({"id": id_, "text": text}) for id_, text in TEXTS.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(records))
    settings = {"DOCMILL_DATABASE_URL": database_url, "DOCMILL_REDIS_URL": redis_url, "PYTHONPATH": str(tree)}
    return Docmill(tmp_path, settings | {"DOCMILL_ORDER_ROOTS": str(tmp_path)})


def query(url: str, statement: str) -> list[Mapping[str, Any]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        rows: list[Mapping[str, Any]] = [dict(row) for row in connection.execute(text(statement)).mappings()]
    engine.dispose()
    return rows


QUICK = {"TEXT", "SPANS"}  # one needs no model


@pytest.mark.parametrize(
    "type_", [pytest.param(type_, marks=[] if type_ in QUICK else pytest.mark.long) for type_ in TYPES]
)
def test_a_new_kind_runs_and_every_writer_takes_it(docmill: Docmill, type_: str) -> None:
    name, key = NAMES[type_], KEYS[type_]
    work = ("run", name, "corpus.jsonl", *([] if type_ in MODELLESS else ["--model", "null"]))
    assert f"{name} each document." in docmill("run", "--help").stdout
    assert f"--{name}-level" in docmill(*work, f"--{name}-level", "0", code=2).stderr
    docmill(*work, f"--{name}-level", "3", "--out", "out.jsonl")
    lines = [json.loads(line) for line in (docmill.folder / "out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["task"], key in line) for line in lines] == [("a", name, True), ("b", name, True)]
    status = docmill.json("status", 1)
    assert (status["done"], status["failed"]) == (2, 0)
    for suffix in ("csv", "parquet", *(("npy",) if type_ == "VECTOR" else ())):
        docmill("results", 1, "--out", f"out.{suffix}")
    assert pq.read_table(docmill.folder / "out.parquet").num_rows == 2
    assert len(list(csv.DictReader((docmill.folder / "out.csv").read_text().splitlines()))) == 2


def test_new_kinds_are_steps_of_a_pipeline_with_a_view(docmill: Docmill, database_url: str) -> None:
    steps = ""
    for number, type_ in enumerate(TYPES):
        steps += f'[[step]]\nname = "step{number}"\ntask = "{NAMES[type_]}"\n'
        steps += "" if type_ in MODELLESS else 'model = "null"\n'
        steps += f'input = "document"\n{NAMES[type_]}-level = 2\n'
    head = 'name = "all"\ncorpus.source = "corpus.jsonl"\n'
    (docmill.folder / "all.toml").write_text(head + steps + '[output]\nfile = "all.parquet"\n')
    docmill("pipeline", "add", "all.toml")
    docmill("pipeline", "run", "all.toml")
    rows = query(database_url, "SELECT * FROM pipeline_all ORDER BY id")
    written = pq.read_table(docmill.folder / "all.parquet").column_names
    assert [row["id"] for row in rows] == ["a", "b"]
    for number, type_ in enumerate(TYPES):
        columns = {column.replace("step", f"step{number}") for column in COLUMNS[type_]}
        assert columns <= rows[0].keys()
        assert columns <= {*written}
        assert rows[0][f"step{number}_status"] == "done"
    assert rows[0]["step0"] == "ONE TEXT."


@pytest.mark.parametrize("type_", ["RECORD", *(pytest.param(type_, marks=pytest.mark.long) for type_ in TYPES[1:4])])
def test_a_step_reads_texts_only(docmill: Docmill, type_: str) -> None:
    first = f'[[step]]\nname = "one"\ntask = "{NAMES[type_]}"\nmodel = "null"\n'
    (docmill.folder / "two.toml").write_text(
        f'name = "two"\ncorpus.source = "corpus.jsonl"\n{first}{first.replace("one", "two")}'
    )
    said = docmill("pipeline", "check", "two.toml", code=2).stderr
    plural = f"{type_.lower().removesuffix('s')}s"
    assert f"the step before, one, gives {plural}, which no step can read" in said


@pytest.mark.long
def test_orders_for_new_kinds_come_through_a_queue(docmill: Docmill, redis_url: str) -> None:
    app = Celery(broker=redis_url, set_as_current=False)
    source = str(docmill.folder / "corpus.jsonl")
    for type_, name in NAMES.items():
        order = {"source": source, "task": name, f"{name}_level": 4}
        order |= {} if type_ in MODELLESS else {"model": "null"}
        app.send_task("docmill.enqueue", queue=queue_of(ENQUEUE_LANE), kwargs=order)
    app.close()
    with docmill.worker("--lanes", ",".join([*NAMES.values(), ENQUEUE_LANE])):
        until(lambda: [job["state"] for job in docmill.json("jobs")] == ["done"] * len(TYPES), "all orders are done")
    for job in docmill.json("jobs"):
        spec = docmill.json("status", job["id"])["spec"]
        assert spec["params"][f"{spec['kind']}_level"] == 4
        assert len(docmill.results(job["id"])) == len(TEXTS)
