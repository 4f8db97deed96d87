"""Package the Helm chart with the version of a release.

    python -m release.chart FOLDER DESTINATION CHART_VERSION APP_VERSION

A process of its own, since Helm's engine is a library in Go, which brings threads and signal handlers along.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent
FOLDER = Path("deploy") / "helm" / "docmill"
NUMBERS = 3  # of a version, as Helm has it
_STAGES = {"a": "alpha", "b": "beta", "rc": "rc"}


class InvalidChart(Exception):
    """Helm cannot package the chart; the message is Helm's."""


def image_tag(version: str) -> str:
    """Return the tag of the CPU image of a version: a tag of an image has no +."""
    return version.replace("+", "-")


def chart_version(version: str) -> str:
    """Return a version of packages (PEP 440) as Helm has it (semver.org): 1.2.0rc1 is 1.2.0-rc.1.

    Helm has no versions that come after a release, so `.postN` stands beside the local part, which has no order.
    """
    read = Version(version)
    before = [f"{_STAGES[read.pre[0]]}.{read.pre[1]}"] if read.pre else []
    before += [f"dev.{read.dev}"] if read.dev is not None else []
    beside = [f"post.{read.post}"] if read.post is not None else []
    beside += [read.local] if read.local else []
    numbers = f"{read.major}.{read.minor}.{read.micro}"
    return numbers + ("-" + ".".join(before) if before else "") + ("+" + ".".join(beside) if beside else "")


def command(version: str) -> list[str]:
    """Return Helm's own command for the package of a version."""
    options = ["--version", chart_version(version), "--app-version", image_tag(version)]
    return ["helm", "package", str(FOLDER), *options]


def write(root: Path, folder: Path, version: str, variables: Mapping[str, str]) -> str | None:
    """Write the chart's package into a folder. Return a sentence if this machine cannot. Raises InvalidChart.

    The files in it are as old as `SOURCE_DATE_EPOCH` of `variables` says, so that two packages of a commit are equal.
    """
    if find_spec("helm_python") is None:
        return f"helm-python-sdk is not on this machine. With Helm: {shlex.join(command(version))}"
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / root.joinpath(FOLDER).name
        shutil.copytree(root / FOLDER, copy)
        made_s = int(variables["SOURCE_DATE_EPOCH"])
        for file in copy.rglob("*"):
            os.utime(file, (made_s, made_s))
        arguments = [str(copy), str(folder), chart_version(version), image_tag(version)]
        module = [sys.executable, "-m", "release.chart", *arguments]
        made = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        raise InvalidChart(f"the chart cannot be packaged: {made.stderr.strip()}")
    return None


def main() -> int:
    """Package a chart as the arguments say."""
    import helm_python as helm

    folder, destination, version, app_version = sys.argv[1:]
    try:
        helm.package(folder, destination=destination, version=version, app_version=app_version)
    except helm.HelmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
