"""Install packages into this environment, with the build of torch for this machine.

    python -m release.install REQUIREMENT ...

Tries uv first: it takes a quarter of pip's CPU time, and finds the builds of torch for machines without a GPU.
uv does not read pip's settings, so it is given their indexes and folders. If uv fails, pip installs.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UV = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--system-certs")
PLACES = ("index-url", "extra-index-url", "find-links")  # both have options of these names
BRIEFLY = {"UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}


def main(requirements: Sequence[str]) -> int:
    """Install the requirements. Returns 0, or the exit code of pip, which says what is wrong."""
    if subprocess.call([*PIP, "install", "--quiet", "uv"]) == 0:
        for command, environment in uv_commands(read_pip_settings()):
            if (
                subprocess.call([*command, *requirements], env=os.environ | environment, stderr=subprocess.DEVNULL)
                == 0
            ):
                return 0
    return subprocess.call([*PIP, "install", "--quiet", "--no-compile", *requirements])


def read_pip_settings() -> dict[str, str]:
    """Return pip's settings by name, whatever their section."""
    listed = subprocess.check_output([*PIP, "config", "list"], text=True)
    pairs = (line.partition("=") for line in listed.splitlines())
    return {key.rpartition(".")[2]: str(ast.literal_eval(value)) for key, _, value in pairs}


def uv_commands(settings: Mapping[str, str]) -> list[tuple[list[str], dict[str, str]]]:
    """Return the commands to try in turn, each with additions to the environment.

    uv chooses the index of torch, unless pip's settings add an index or folder, which may be there for torch.
    """
    places = [f"--{name}={place}" for name in PLACES for place in settings.get(name, "").split()]
    command = [*UV, *places, "--index-strategy=unsafe-best-match"]  # the newest of all indexes, as pip takes
    certificate = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
    if "extra-index-url" in settings or "find-links" in settings:
        return [(command, certificate)]
    return [([*command, "--torch-backend=auto"], certificate | BRIEFLY), (command, certificate)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
