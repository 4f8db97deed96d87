"""Write docker/requirements-VARIANT.lock: every package of an image, by its version and the hash of its file.

Asks pip what it would install into an empty environment, which downloads what has no metadata of its own: torch, too.

    python docker/lock.py build cpu cuda
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
EXTRAS = (
    "checks,ctranslate2,dedup,excel,formats,language,local,metrics,opentelemetry,parquet,remote,report,review,served,"
    "server,web"
)
HEAD = """\
# What is in the image ({variant}), for Python {python} on linux/amd64. Written by `make lock`.
"""


def main(variants: list[str]) -> int:
    python = ".".join(platform.python_version_tuple()[:2])
    if (sys.platform, platform.machine(), python) != ("linux", "x86_64", "3.11"):
        print("a lock is made with the image's Python: 3.11 on linux/amd64", file=sys.stderr)
        return 2
    for variant in variants:
        entries = [entry(found) for found in resolve(variant)]
        head = HEAD.format(variant=variant, python=python)
        (ROOT / "docker" / f"requirements-{variant}.lock").write_text(head + "".join(sorted(entries)))
        print(f"requirements-{variant}.lock: {len(entries)} packages")
    return 0


def resolve(variant: str) -> list[dict[str, Any]]:
    """The packages that pip would install for a variant, as its report has them, without our own."""
    environment = dict(os.environ)
    if variant == "cuda":  # the public index alone, whose torch is for GPUs
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    # fast-deps reads metadata out of a wheel by ranges, instead of downloading all of it.
    options = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--use-feature=fast-deps", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--report=-", *wanted(variant)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    found: list[dict[str, Any]] = json.loads(said)["install"]
    return [one for one in found if one["metadata"]["name"] != "docmill"]


def wanted(variant: str) -> list[str]:
    """The requirements of a variant. The image for CPUs has developers' torch: later ones have no builds for CPUs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if variant == "build":
        return list(project["build-system"]["requires"])
    bounds = project["project"]["optional-dependencies"]["dev"] if variant == "cpu" else []
    return [f"{ROOT}[{EXTRAS}]", *(one for one in bounds if one.startswith("torch<"))]


def entry(found: dict[str, Any]) -> str:
    metadata = found["metadata"]
    sha256 = found["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{metadata['name'].lower()}=={metadata['version']} --hash=sha256:{sha256}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
