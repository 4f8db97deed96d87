"""GGUF files as models: the outputs of transformers' own reading of the file, in float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from docmill.tasks.backends import loading
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsuitable
from docmill.tasks.specs import pinning
from tests.tasks import gguf_files
from tests.tasks.conftest import Bench
from tests.tasks.deciding import require_equal

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, descriptions: list[str]) -> Path:
    return gguf_files.llama(tmp_path_factory.mktemp("gguf") / "small.gguf", descriptions[:40])


def pin(model: Path | str, cache_dir: Path, models_dir: Path | None = None) -> pinning.Pinned:
    return pinning.pin(str(model), models_dir=models_dir, cache_dir=cache_dir)


def locate(pinned: pinning.Pinned, cache_dir: Path, models_dir: Path | None = None) -> Path:
    return pinning.locate(pinned, models_dir=models_dir, cache_dir=cache_dir)


def test_texts_are_those_that_transformers_writes_from_the_file(
    bench: Bench, file: Path, descriptions: list[str]
) -> None:
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    texts = [" ".join(text.split()[: 5 + 3 * n]) for n, text in enumerate(descriptions[:5])]

    def written() -> list[str]:
        answers = []
        for text in texts:
            asked = [{"role": "user", "content": f"Say: {text}"}]
            encoded = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode(), quiet():
                ids = model.generate(**encoded, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
            answers.append(tokenizer.decode(ids[encoded["input_ids"].shape[1] :], skip_special_tokens=True))
        return answers

    spec = bench.spec("generate", str(file), prompt="Say: {text}", max_new_tokens=NEW_TOKENS)
    expected = require_equal([outcome.text for outcome in bench.run(spec, texts)], written)
    assert len(set(expected)) == len(texts)


def test_a_file_is_pinned_by_its_hash_and_converted_once_by_several_at_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted, own = [], loading._write_gguf

    def convert(file: Path, target: Path) -> None:
        converted.append(file)
        own(file, target)

    monkeypatch.setattr(loading, "_write_gguf", convert)
    alone = tmp_path / "models" / "alone"
    alone.mkdir(parents=True)
    shutil.copyfile(file, alone / "q4.gguf")
    shutil.copyfile(file, alone.parent / "other-name.gguf")
    pinned = [
        pin(file, tmp_path),
        pin("alone", tmp_path, alone.parent),
        pin("other-name.gguf", tmp_path, alone.parent),
    ]
    assert [one.model for one in pinned] == [str(file), "alone/q4.gguf", "other-name.gguf"]
    assert len({one.revision for one in pinned}) == 1
    assert pinning.to_convert(str(file), models_dir=None, cache_dir=tmp_path)
    with ThreadPoolExecutor(3) as threads:
        folders = list(threads.map(lambda one: locate(one, tmp_path, alone.parent), pinned))
    assert len(set(folders)) == len(converted) == 1
    assert not pinning.to_convert(str(file), models_dir=None, cache_dir=tmp_path)
    (alone / "q4.gguf").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelCorrupt, match="not those that the job was made with"):
        locate(pinned[1], tmp_path, alone.parent)
    (alone / "q4.gguf").unlink()
    with pytest.raises(ModelNotFound, match="copy it to the same path"):
        locate(pinned[1], tmp_path, alone.parent)


def cut(path: Path, texts: list[str]) -> None:
    path.write_bytes(gguf_files.llama(path, texts).read_bytes()[:-40])


def no_header(path: Path, texts: list[str]) -> None:
    path.write_bytes(gguf_files.llama(path, texts).read_bytes()[:300])


def endless(path: Path, texts: list[str]) -> None:
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 64)


REFUSED: dict[str, tuple[Callable[[Path, list[str]], object], type[ModelError], str]] = {
    "cut short": (cut, ModelCorrupt, "bytes instead of"),
    "a part of its header": (no_header, ModelCorrupt, "is no whole GGUF file"),
    "numbers beyond the file": (endless, ModelCorrupt, "is no whole GGUF file"),
    "another file": (lambda path, _: path.write_bytes(b""), ModelCorrupt, "is no whole GGUF file"),
    "an encoder": (
        lambda path, texts: gguf_files.llama(path, texts, architecture="nomic-bert"),
        ModelUnsuitable,
        r"an encoder-only model \(nomic-bert\)",
    ),
    "an encoder-decoder": (
        lambda path, texts: gguf_files.llama(path, texts, architecture="t5"),
        ModelUnsuitable,
        r"an encoder-decoder model \(t5\)",
    ),
    "an unknown architecture": (
        lambda path, texts: gguf_files.llama(path, texts, architecture="starfish"),
        ModelUnsuitable,
        "transformers cannot read",
    ),
    "a missing weight": (
        lambda path, texts: gguf_files.llama(path, texts, without=["blk.1.ffn_up.weight"]),
        ModelCorrupt,
        "lacks 1 weights.*up_proj",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_damaged_or_no_decoder_is_refused_and_nothing_is_kept(
    case: str, descriptions: list[str], tmp_path: Path
) -> None:
    write, error, reason = REFUSED[case]
    file = tmp_path / "model.gguf"
    write(file, descriptions[:40])
    with pytest.raises(error, match=reason):
        locate(pin(file, tmp_path), tmp_path)
    assert not [path for path in tmp_path.glob("gguf/*") if path.is_dir()]


def test_a_folder_with_several_files_wants_one_of_them_named(file: Path, tmp_path: Path) -> None:
    for name in ("q4.gguf", "q8.gguf"):
        shutil.copyfile(file, tmp_path / name)
    with pytest.raises(ModelNotFound, match=r"name one of them with --model \(q4\.gguf, q8\.gguf\)"):
        pin(tmp_path, tmp_path)
