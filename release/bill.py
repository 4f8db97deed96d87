"""The packages of an image as a bill of materials in CycloneDX's form (SBOM), out of the image's lock."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = "1.6"


class InvalidBill(Exception):
    """The bill of materials is not as CycloneDX's schema wants it."""


def write(target: Path, lock: Path, project: Path, wheel: Path, version: str, variables: Mapping[str, str]) -> None:
    """Write the bill of a lock, whose root is the wheel. Raises InvalidBill.

    `project` is the pyproject.toml. `variables` are added to the environment.
    """
    options = ["--pyproject", str(project), "--sv", SCHEMA, "--output-reproducible", "--no-validate"]
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", str(lock), *options]
    environment = {**os.environ, **variables}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        raise InvalidBill(f"{lock.name} gives no list of packages: {made.stderr.strip()}")
    text = json.dumps(with_root(json.loads(made.stdout), wheel, version), indent=1, sort_keys=True) + "\n"
    check(text)
    target.write_text(text)


def with_root(document: dict[str, Any], wheel: Path, version: str) -> dict[str, Any]:
    """Return the bill with docmill's version and wheel as its root, on which all packages follow.

    The lock lists what docmill needs at any depth, and not which package needs which.
    """
    root = document["metadata"]["component"]
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    root |= {"version": version, "purl": f"pkg:pypi/{root['name']}@{version}"}
    root["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    needed = sorted(component["bom-ref"] for component in document["components"])
    others = [one for one in document["dependencies"] if one["ref"] != root["bom-ref"]]
    return document | {"dependencies": [{"ref": root["bom-ref"], "dependsOn": needed}, *others]}


def check(text: str) -> None:
    """Raise InvalidBill unless a bill is as CycloneDX's schema, which its library brings, wants it."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if (error := JsonStrictValidator(SchemaVersion.from_version(SCHEMA)).validate_str(text)) is not None:
        raise InvalidBill(f"the list of packages is invalid: {error}")
