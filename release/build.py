"""Build a release: wheel, source distribution, models, Helm chart, images, lists of their packages, checksums.

    python -m release.build [--allow-dirty] [--allow-untagged]

Writes dist/VERSION. Exit codes: 0 built, 1 a program failed, 2 this tree cannot be released.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from hatch_build import web_address
from release import bill, chart, models

ROOT = Path(__file__).parent.parent
VARIANTS = ("cpu", "cuda")
TAG = "v[0-9]*"


@dataclass(frozen=True)
class Tree:
    """The state of a source tree: the release tag of its commit and changed files."""

    tag: str | None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Allowed:
    """Permissions of the user: to build changed files, and an untagged commit."""

    dirty: bool = False
    untagged: bool = False


class CannotRelease(Exception):
    """This tree cannot be released; the message says why."""


def look_at(root: Path) -> Tree:
    """Return the state of a tree. Raises CannotRelease where git knows no commit."""
    if _git(root, "rev-parse", "--verify", "HEAD") is None:
        raise CannotRelease(f"{root} is no clone of a git repository with a commit; clone one, and release from it")
    changed = (_git(root, "status", "--porcelain") or "").splitlines()
    tag = _git(root, "describe", "--exact-match", "--tags", "--match", TAG, "HEAD")
    return Tree(tag, tuple(line[3:] for line in changed))


def problems(tree: Tree, allowed: Allowed) -> list[str]:
    """Return the reasons why a tree cannot be released, each with the remedy."""
    found = []
    if tree.changed and not allowed.dirty:
        some = ", ".join(tree.changed[:3]) + (" …" if len(tree.changed) > 3 else "")
        found.append(f"{len(tree.changed)} files differ from the commit ({some}): commit them, or use --allow-dirty")
    if tree.tag is None and not allowed.untagged:
        found.append("the commit has no tag: `git tag v1.2.0` names the release, or use --allow-untagged")
    if tree.tag is not None and (named := _normal(tree.tag)) != tree.tag:
        found.append(f"the tag {tree.tag} is no version as packages write it: name it {named}")
    if tree.tag is not None and _numbers(tree.tag) > chart.NUMBERS:
        found.append(f"the tag {tree.tag} has more than {chart.NUMBERS} numbers, which Helm takes for no version")
    return found


def _normal(tag: str) -> str:
    """Return the tag that names the same version as packages write it."""
    try:
        return f"v{Version(tag[1:])}"
    except InvalidVersion:
        return "v1.2.0, or the like"


def _numbers(tag: str) -> int:
    """Return how many numbers a tag's version has, as in 1.2.0; 0 if it is none."""
    try:
        return len(Version(tag[1:]).release)
    except InvalidVersion:
        return 0


def image_command(variant: str, version: str) -> list[str]:
    """Return the command for an image.

    The variable TORCH_CPU_INDEX is the index of torch's builds for CPUs, as with compose.
    """
    tag = f"docmill:{chart.image_tag(version)}" + ("" if variant == "cpu" else f"-{variant}")
    options = ["--build-arg", f"VARIANT={variant}", "--build-arg", f"VERSION={version}"]
    if variant == "cpu" and (index := os.environ.get("TORCH_CPU_INDEX")):
        options += ["--build-arg", f"PIP_EXTRA_INDEX_URL={index}"]
    return ["docker", "build", *options, "--tag", tag, "."]


def build(root: Path) -> Path:
    """Write the files of a release, and return their folder.

    Raises CalledProcessError, InvalidBill and InvalidChart.
    """
    (root / "dist").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / "dist", prefix=".release-") as name:
        folder = Path(name) / "files"
        folder.mkdir()
        _say("wheel and source distribution")
        made = _time_of_commit(root)
        _run(root, [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)], made)
        [wheel] = folder.glob("*.whl")
        if not web_address(_git(root, "remote", "get-url", "origin") or ""):
            _say("SKIPPED project addresses and links of the README: the remote origin has no address of pages")
        version = wheel.name.split("-")[1]
        for variant in VARIANTS:
            target = folder / f"docmill-{version}-{variant}.cdx.json"
            _say(f"packages of the image ({variant})")
            lock = root / "docker" / f"requirements-{variant}.lock"
            bill.write(target, lock, root / "pyproject.toml", wheel, version, made)
        _say("models of the quick start")
        models.write(root, folder, version)
        _say("Helm chart")
        if (lacking := chart.write(root, folder, version, made)) is not None:
            _say(f"SKIPPED Helm chart: {lacking}")
        (folder / "SHA256SUMS").write_text(checksums(folder))
        _images(root, version)
        final = root / "dist" / version
        if final.exists():
            shutil.rmtree(final)
        return folder.rename(final)


def checksums(folder: Path) -> str:
    """Return the checksums of the files in a folder, as `sha256sum --check` reads them."""
    files = sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)


def _images(root: Path, version: str) -> None:
    has_docker = shutil.which("docker") is not None
    for variant in VARIANTS:
        command = image_command(variant, version)
        if has_docker:
            _say(f"image ({variant})")
            _run(root, command, {})
        else:
            _say(f"SKIPPED image ({variant}): docker is not on this machine. Where it is: {shlex.join(command)}")


def _time_of_commit(root: Path) -> dict[str, str]:
    """Return the variable that makes two builds of a commit equal."""
    return {"SOURCE_DATE_EPOCH": _git(root, "log", "-1", "--format=%ct") or "0"}


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def _run(root: Path, command: Sequence[str], variables: dict[str, str]) -> None:
    subprocess.run(command, cwd=root, env=dict(os.environ) | variables, stdout=sys.stderr, check=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        prog="make release", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--allow-dirty", action="store_true", help="build files that differ from the commit")
    parser.add_argument("--allow-untagged", action="store_true", help="build a commit without a tag")
    given = parser.parse_args(arguments)
    allowed = Allowed(given.allow_dirty, given.allow_untagged)
    try:
        if found := problems(look_at(root), allowed):
            raise CannotRelease("; ".join(found))
        folder = build(root)
    except CannotRelease as error:
        _say(f"release: {error}")
        return 2
    except (subprocess.CalledProcessError, bill.InvalidBill, chart.InvalidChart) as error:
        _say(f"release: {error}")
        return 1
    for file in sorted(folder.iterdir()):
        print(file.relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
