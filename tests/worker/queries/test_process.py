"""The process that stays after a search: its answers, its end, and what a search does where it cannot be asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from docmill.storage.core.outcomes import Reason
from docmill.storage.core.specs import Spec
from docmill.tasks import kinds
from docmill.tasks.models import weightless
from docmill.tasks.outputs import Failure, Vector
from docmill.tasks.specs import pinning
from docmill.tasks.specs.plan import build_spec
from docmill.worker.queries import client
from docmill.worker.queries.client import QueryProcess, embedding
from docmill.worker.queries.process import Opening, Server, code_in, packed, receive, send, unpacked
from docmill.worker.settings import Settings, for_libraries, load_settings
from tests.worker.harness import Docmill, command_of, share_conversions, until

IDLE = "DOCMILL_SEARCH_IDLE_S"
LONG_S = "600"  # nothing here takes so long
FOREST = "The forest is full of old trees. "
ENGINES = "A steam engine drives the wheels of the locomotive. "
TEXTS = ["a shell", "railway", " "]
SEARCH = ("search", "corpus.jsonl", "railway", "--json")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a path that is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="docmill-q-") as folder:
        share_conversions(Path(folder) / "home")
        yield Path(folder) / "home"
        for pid in processes(Path(folder)):
            os.kill(pid, signal.SIGTERM)
        until(lambda: not processes(Path(folder)), "the query process ends")


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home=home, search_idle_s=LONG_S)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    pinned = pinning.pin("minilm", models_dir=None, cache_dir=tmp_path_factory.mktemp("cache"))
    config, stated = pinning.read_config(pinned, models_dir=None), pinning.read_prompts(pinned, models_dir=None)
    return build_spec("embed", pinned, kinds.options("embed", dtype="float32"), config, stated)


def processes(folder: Path) -> list[int]:
    """The query processes with this folder."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    told = {pid: command_of(pid) for pid in numbers}
    return [
        pid
        for pid, command in told.items()
        if b"docmill.worker.queries.process" in command and bytes(folder) in command
    ]


def opening_of(settings: Settings) -> Opening:
    return Opening("cpu", settings.backend, None, str(settings.cache_dir))


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket of a process, and its lock held."""
    folder = settings.cache_dir / "search"
    folder.mkdir(mode=0o700, parents=True)
    with socket.socket(socket.AF_UNIX) as listener, (folder / "lock").open("ab") as lock:
        assert client._locked(lock)
        listener.bind(str(folder / "socket"))
        listener.listen()
        yield listener


@contextmanager
def serving(settings: Settings, key: str, idle_s: float) -> Iterator[threading.Thread]:
    """A process's server on a thread of this one."""
    with listening(settings) as listener:
        server = Server(listener, key, opening_of(settings))

        def serve() -> None:
            server.serve(idle_s)
            server.leave()
            server._engine.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield thread
        thread.join()


def alike(first: list[Vector | Failure], second: list[Vector | Failure]) -> bool:
    """Return True for the same outputs, up to the rounding of another number of threads."""
    return len(first) == len(second) and all(
        np.allclose(one.values, other.values, atol=1e-5) and one.read_tokens == other.read_tokens
        if isinstance(one, Vector) and isinstance(other, Vector)
        else one == other
        for one, other in zip(first, second, strict=True)
    )


@pytest.mark.slow
def test_later_searches_find_the_same_by_the_model_that_the_first_one_left(
    home: Path, tmp_path: Path, write_corpus: Callable[..., Path]
) -> None:
    docmill = Docmill(tmp_path, {"DOCMILL_HOME": str(home), "DOCMILL_LOG_LEVEL": "info"})
    write_corpus(
        [
            {"id": "long", "text": FOREST * 40 + ENGINES * 4 + FOREST * 40},
            {"id": "b", "text": "Fonts for Tamil. A shell."},
        ]
    )
    docmill("run", "corpus.jsonl", "--task", "embed")
    own = docmill(*SEARCH)
    assert "model.opened" in own.stderr
    assert not processes(home)

    docmill.environment[IDLE] = LONG_S
    (tmp_path / "queries.txt").write_text("railway\nletters\n")
    batch = ("search", "corpus.jsonl", "--queries", "queries.txt", "--json", "--passages")
    of_many = docmill(*batch)
    assert "model.opened" in of_many.stderr
    assert not processes(home)  # a batch starts none

    docmill.from_anew = True  # its output is a pipe, whose end is waited for
    for _ in range(2):
        said = docmill(*SEARCH)
        assert said.stdout == own.stdout
        assert "opened=1" in said.stderr
        assert "model.opened" not in said.stderr
    [pid] = processes(home)
    assert f"query_process_answered pid={pid} opened=1" in said.stderr
    assert os.getsid(pid) != os.getsid(0)
    assert {Path(f"/proc/{pid}/fd/{number}").readlink() for number in range(3)} == {Path(os.devnull)}
    assert (home / "cache" / "search").stat().st_mode & 0o777 == 0o700
    said = docmill(*batch)
    assert said.stdout == of_many.stdout
    assert f"pid={pid}" in said.stderr

    os.kill(pid, signal.SIGKILL)  # and its socket stays
    until(lambda: not processes(home), "it is gone")
    commands = [docmill.start(*SEARCH) for _ in range(2)]
    assert [command.wait(120) for command in commands] == [0, 0]
    [other] = processes(home)
    assert docmill.log("search").count(own.stdout) == 2

    docmill.environment["OMP_NUM_THREADS"] = "3"
    said = docmill(*SEARCH)
    until(lambda: other not in processes(home), "the one with other variables leaves")
    docmill.environment[IDLE] = "0.01"
    docmill(*SEARCH)
    until(lambda: not processes(home), "it ends when it is idle")
    assert [path.name for path in (home / "cache" / "search").iterdir()] == ["lock"]


def test_outputs_by_the_process_are_those_of_this_one(settings: Settings, spec: Spec) -> None:
    with embedding(load_settings(home=settings.home, search_idle_s=0), "cpu", starts=True) as embed:
        own = embed(spec, TEXTS)
    assert isinstance(own[2], Failure)
    process = QueryProcess(settings, "cpu", starts=False)
    with serving(settings, process._opening.key(for_libraries()), 600) as thread:
        theirs = process.embed(spec, TEXTS)
        assert theirs is not None
        assert alike(theirs, own)
        assert theirs[2] == own[2]
        last = QueryProcess(settings.model_copy(update={"search_idle_s": 0.01}), "cpu", starts=False)
        again = last.embed(spec, TEXTS[:1])
        assert again is not None
        assert alike(again, own[:1])
        thread.join()  # idle, by the last search's own setting
    assert not (settings.cache_dir / "search" / "socket").exists()


def test_a_process_that_nobody_asks_ends(settings: Settings) -> None:
    with serving(settings, "key", 0.01) as thread:
        thread.join()


def test_a_process_with_another_key_makes_room_for_who_may_start_one(settings: Settings, spec: Spec) -> None:
    process = QueryProcess(settings, "cpu", starts=False)
    with serving(settings, "of another release", 600) as thread:
        assert process.embed(spec, TEXTS) is None
        assert thread.is_alive()
        with process._connected() as line:
            send(line, json.dumps({"key": "mine", "replaces": True}).encode())
            assert json.loads(receive(line)) == {"other": True}
        thread.join()
    assert not (settings.cache_dir / "search" / "socket").exists()


def test_a_model_that_cannot_be_opened_ends_the_process_and_the_search_says_why(
    settings: Settings, spec: Spec
) -> None:
    process = QueryProcess(settings, "cpu", starts=False)
    lost = Spec("embed", "nobody/nothing", "0" * 40, "float32")
    with serving(settings, process._opening.key(for_libraries()), 600) as thread:
        assert process.embed(lost, TEXTS) is None
        thread.join()


@pytest.mark.parametrize("said", [b"", b"\0\0\0", b"\0\0\0\4oops", b"\xff\xff\xff\xff", b"\0\0\0\2{}"])
def test_a_process_that_dies_or_talks_nonsense_costs_no_answer(settings: Settings, spec: Spec, said: bytes) -> None:
    def dies(listener: socket.socket) -> None:
        line, _ = listener.accept()
        with line:
            receive(line)
            line.sendall(said)

    with listening(settings) as listener:
        dying = threading.Thread(target=dies, args=(listener,))
        dying.start()
        with embedding(settings, "cpu", starts=True) as embed:
            outputs = embed(spec, ["a shell"])
            assert isinstance(outputs[0], Vector)
            assert alike(embed(spec, ["a shell"]), outputs)  # without asking again
        dying.join()


def test_no_process_is_asked_where_it_is_switched_off_or_would_hold_a_gpu_or_serve_nothing(
    settings: Settings, spec: Spec
) -> None:
    off = load_settings(home=settings.home, search_idle_s=0)
    assert QueryProcess(off, "cpu", starts=True).embed(spec, TEXTS) is None
    assert QueryProcess(settings, "cuda:0", starts=True).embed(spec, TEXTS) is None
    nothing = Spec("embed", weightless.NULL, weightless.NULL_REVISION)
    assert QueryProcess(settings, "cpu", starts=True).embed(nothing, TEXTS) is None
    assert not (settings.cache_dir / "search").exists()


def test_a_folder_of_others_or_with_too_long_a_path_is_not_used(home: Path, spec: Spec) -> None:
    folder = home / "cache" / "search"
    folder.mkdir()
    folder.chmod(0o755)
    process = QueryProcess(load_settings(home=home, search_idle_s=LONG_S), "cpu", starts=True)
    assert process.embed(spec, TEXTS) is None
    assert not [*folder.iterdir()]
    deep = load_settings(home=home / ("deep" * 30), search_idle_s=LONG_S)
    assert QueryProcess(deep, "cpu", starts=True).embed(spec, TEXTS) is None
    assert not processes(home)


def test_a_key_changes_with_whatever_can_change_a_vector(tmp_path: Path) -> None:
    opening = Opening("cpu", "auto", None, "/cache")
    keys = {
        opening.key({}),
        opening.key({"OMP_NUM_THREADS": "1"}),
        Opening("cuda:0", "auto", None, "/cache").key({}),
        Opening("cpu", "transformers", None, "/cache").key({}),
        Opening("cpu", "auto", "/models", "/cache").key({}),
        Opening("cpu", "auto", None, "/other").key({}),
    }
    assert len(keys) == 6
    assert opening.key({}) in keys
    file = tmp_path / "worker" / "module.py"
    file.parent.mkdir()
    file.write_text("one")
    before = code_in(tmp_path)
    os.utime(file, ns=(1, 1))
    assert code_in(tmp_path) != before


def test_answers_keep_their_order_and_their_numbers() -> None:
    vectors = [Vector(np.array(values, "<f4")) for values in ([0.1, -2.0], [float("inf"), 1e-40])]
    outputs: list[Vector | Failure] = [vectors[0], Failure("It is blank.", Reason.DOCUMENT), vectors[1]]
    head, raw = packed(outputs)
    found = unpacked(json.loads(json.dumps(head)), raw)
    assert alike(found, outputs)
    assert found[1] == outputs[1]
    assert unpacked(*packed([])) == []
    with pytest.raises(ValueError, match="reshape"):
        unpacked(head, raw[:8])
