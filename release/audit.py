"""Check the images' packages for known vulnerabilities, with pip-audit.

    python -m release.audit [--service pypi|osv] [--osv-url URL] [LOCK...]

Asks first for a release that is known to be vulnerable: a service that does not know it would pass everything.
Exit codes: 0 none is known, 1 some are known, 2 a lock cannot be read, 3 the service is away or knows nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
KNOWN = "jinja2==2.10"  # CVE-2019-10906
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;+]+)(\+\S+)?(?:\s+--hash=\S+)*")


@dataclass(frozen=True)
class Vulnerable:
    """A pinned package with a known vulnerability, and the versions without it."""

    package: str
    number: str
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.package}: {self.number}, fixed in {', '.join(self.fixed_in) or 'no version'}"


class CannotAudit(Exception):
    """The service cannot be asked, or did not answer for every package."""


class BadLock(Exception):
    """A line of a lock pins no package."""


def pins(lock: str) -> list[str]:
    """Return the packages of a lock as NAME==VERSION. Raises BadLock.

    A build of torch for CPUs has a version of its own (2.13.0+cpu), under which no service knows it: the part after
    the + is left out.
    """
    found = []
    for number, line in enumerate(lock.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pinned = PINNED.fullmatch(line.strip())
        if pinned is None:
            raise BadLock(f"line {number} pins no package: {line.strip()[:80]}")
        found.append(f"{pinned[1]}=={pinned[2]}")
    return found


def audit(packages: Sequence[str], service: Sequence[str]) -> list[Vulnerable]:
    """Return the known vulnerabilities of pinned packages. Raises CannotAudit if the service lacks an answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("".join(f"{package}\n" for package in packages))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), *options, *service]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError as error:
        raise CannotAudit(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer") from error
    skipped = [one for one in answers if "skip_reason" in one]
    if skipped:
        raise CannotAudit(f"{len(skipped)} of {len(packages)} packages: {skipped[0]['skip_reason']}")
    if len(answers) < len({*packages}):
        raise CannotAudit(f"answers for {len(answers)} of {len(packages)} packages")
    return [
        Vulnerable(f"{one['name']} {one['version']}", found["id"], tuple(found["fix_versions"]))
        for one in answers
        for found in one["vulns"]
    ]


def check_service(service: Sequence[str]) -> None:
    """Raise CannotAudit unless the service knows a vulnerability that everybody knows."""
    if not audit([KNOWN], service):
        raise CannotAudit(f"it knows no vulnerability of {KNOWN}, which has some; it may be a mirror without them")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make check-security", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="the service that is asked")
    parser.add_argument("--osv-url", help="another address of the service osv")
    parser.add_argument("locks", nargs="*", type=Path, default=sorted((ROOT / "docker").glob("*.lock")))
    given = parser.parse_args(arguments)
    service = ["--vulnerability-service", given.service, *(["--osv-url", given.osv_url] if given.osv_url else [])]
    try:
        packages = {lock.name: pins(lock.read_text()) for lock in given.locks}
        check_service(service)
        found = {name: audit(pinned, service) for name, pinned in packages.items()}
    except (BadLock, OSError) as error:
        print(f"check-security: {error}", file=sys.stderr)
        return 2
    except CannotAudit as error:
        print(f"check-security: no result, since {given.service} gave no answer: {error}", file=sys.stderr)
        return 3
    for name, vulnerable in found.items():
        for one in vulnerable:
            print(f"{name}: {one}")
        print(f"{name}: {len(packages[name])} packages, {len(vulnerable)} known vulnerabilities", file=sys.stderr)
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
