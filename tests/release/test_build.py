"""`make release`: what it refuses, what it writes, and what it says it skipped."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from release import bill, build, chart
from release.build import Allowed, Tree, image_command, problems
from tests.deploy.chart import HAS_HELM, URLS, render
from tests.deploy.test_chart import needs_helm
from tests.release.test_version import BUILT_OF, committed, git
from tests.worker.harness import ROOT

TORCH = "0" * 64


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small docmill: packages of one module each, and images of two packages."""
    folder = tmp_path / "tree"
    (folder / "docker").mkdir(parents=True)
    for name in BUILT_OF:
        shutil.copy(ROOT / name, folder)
    (folder / "docmill").mkdir()
    (folder / "docmill" / "__init__.py").touch()
    (folder / ".gitignore").write_text("dist/\n")
    (folder / "examples").mkdir()
    (folder / "examples" / "models").symlink_to(ROOT / "examples" / "models")
    shutil.copytree(ROOT / chart.FOLDER, folder / chart.FOLDER)
    for variant, torch in (("cpu", "2.13.0+cpu"), ("cuda", "2.15.0")):
        lock = f"# Locked.\nclick==8.5.1 --hash=sha256:{'1' * 64}\ntorch=={torch} --hash=sha256:{TORCH}\n"
        (folder / "docker" / f"requirements-{variant}.lock").write_text(lock)
    committed(folder)
    return folder


def test_changed_files_and_a_missing_tag_are_refused_unless_told() -> None:
    assert problems(Tree("v1.2.0"), Allowed()) == []
    [changed] = problems(Tree("v1.2.0", changed=("a.py", "b.py")), Allowed())
    assert "2 files differ from the commit (a.py, b.py)" in changed
    [untagged] = problems(Tree(None), Allowed())
    assert "git tag v1.2.0" in untagged
    assert problems(Tree(None, ("a.py",)), Allowed(dirty=True, untagged=True)) == []


@pytest.mark.slow
def test_a_release_has_packages_lists_and_checksums_and_says_which_images_it_skipped(
    tree: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)  # no docker here
    assert build.main([], tree) == 2
    assert "the commit has no tag" in capfd.readouterr().err
    git(tree, "tag", "v1.2.0")
    assert build.main([], tree) == 0
    out, err = capfd.readouterr()
    folder = tree / "dist" / "1.2.0"
    wheel = "docmill-1.2.0-py3-none-any.whl"
    names = {wheel, "docmill-1.2.0.tar.gz", "docmill-1.2.0-cpu.cdx.json", "docmill-1.2.0-cuda.cdx.json"}
    names.add("docmill-1.2.0-quickstart.zip")
    names |= {"docmill-1.2.0.tgz"} if HAS_HELM else set()
    assert {file.name for file in folder.iterdir()} == names | {"SHA256SUMS"}
    assert [*(tree / "dist").iterdir()] == [folder]
    assert f"dist/1.2.0/{wheel}" in out.splitlines()
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: sha256 for sha256, name in (line.split("  ") for line in lines)}
    assert sums == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert err.count("SKIPPED image") == 2
    assert "docker build --build-arg VARIANT=cuda --build-arg VERSION=1.2.0 --tag docmill:1.2.0-cuda ." in err

    listed = json.loads((folder / "docmill-1.2.0-cpu.cdx.json").read_text())
    bill.check(json.dumps(listed))
    root = listed["metadata"]["component"]
    assert (root["name"], root["version"], root["hashes"][0]["content"]) == ("docmill", "1.2.0", sums[wheel])
    assert {(component["name"], component["version"]) for component in listed["components"]} == {
        ("click", "8.5.1"),
        ("torch", "2.13.0+cpu"),
    }
    [torch] = [component for component in listed["components"] if component["name"] == "torch"]
    assert torch["externalReferences"][0]["hashes"] == [{"alg": "SHA-256", "content": TORCH}]
    assert {
        "ref": root["bom-ref"],
        "dependsOn": sorted(component["bom-ref"] for component in listed["components"]),
    } in listed["dependencies"]


def test_an_image_is_built_with_its_version_and_the_index_of_torch_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CPU_INDEX", "https://index.example/cpu")
    cpu, cuda = (image_command(variant, "1.2.1.dev3+gabc") for variant in ("cpu", "cuda"))
    assert "PIP_EXTRA_INDEX_URL=https://index.example/cpu" in cpu
    assert "PIP_EXTRA_INDEX_URL=https://index.example/cpu" not in cuda
    assert "VERSION=1.2.1.dev3+gabc" in cpu
    assert cpu[-2] == "docmill:1.2.1.dev3-gabc"  # a tag of an image has no +


@needs_helm
def test_the_packaged_chart_has_the_version_of_the_release_and_its_images(tree: Path, tmp_path: Path) -> None:
    made = {"SOURCE_DATE_EPOCH": "1800000000"}
    assert chart.write(tree, tmp_path, "1.2.0", made) is None
    package = tmp_path / "docmill-1.2.0.tgz"
    groups = {"workers": {"gpu": {"imageSuffix": "-cuda"}, "old": {"imageTag": "1.1.0"}}}
    [rendered] = render({**URLS, **groups}, chart=package)
    assert rendered.error is None
    images = {
        name: rendered.named("Deployment", f"docmill-{name}")["spec"]["template"]["spec"]["containers"][0]["image"]
        for name in ("worker-cpu", "worker-gpu", "worker-old", "exporter")
    }
    assert images == {
        "worker-cpu": "docmill:1.2.0",
        "worker-gpu": "docmill:1.2.0-cuda",
        "worker-old": "docmill:1.1.0",
        "exporter": "docmill:1.2.0",
    }
    labels = rendered.named("Deployment", "docmill-exporter")["metadata"]["labels"]
    assert (labels["helm.sh/chart"], labels["app.kubernetes.io/version"]) == ("docmill-1.2.0", "1.2.0")
    before = package.read_bytes()
    (tree / chart.FOLDER / "values.yaml").touch()
    assert chart.write(tree, tmp_path, "1.2.0", made) is None
    assert package.read_bytes() == before, "two packages of a commit are equal"


@pytest.mark.parametrize(
    ("version", "chart_version"),
    [
        ("1.2.0", "1.2.0"),
        ("1.2", "1.2.0"),
        ("1.2.0rc1", "1.2.0-rc.1"),
        ("1.2.0b2.dev3", "1.2.0-beta.2.dev.3"),
        ("1.2.1.dev3+gabc.d20260102", "1.2.1-dev.3+gabc.d20260102"),
        ("1.2.0.post1", "1.2.0+post.1"),
    ],
)
def test_a_version_is_written_as_helm_has_it(version: str, chart_version: str) -> None:
    assert chart.chart_version(version) == chart_version
