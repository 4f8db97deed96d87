"""The compose file's services as processes of this machine: their own commands, environments, health checks and
signals; names are resolved to loopback, and the containers' paths to folders.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.faults.servers import HOST, PostgresCluster, free_port, redis_binary
from tests.worker.harness import DOCMILL, ROOT, until

FILE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PORTS = {"redis": 6379, "postgres": 5432}
INTERRUPT = {"postgres": signal.SIGINT}  # what its image is stopped with; the others' with SIGTERM
DEFAULT_GRACE_S = 10.0
INNERMOST = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^${}]*))?\}")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Return a text of a compose file with its variables replaced, the inner ones first. Raises KeyError."""
    while match := INNERMOST.search(text):
        name, operator, otherwise = match.groups()
        if not (value := variables.get(name)) and operator == "?":
            raise KeyError(f"{name}: {otherwise}")
        text = text[: match.start()] + (value or otherwise or "") + text[match.end() :]
    return text.replace("$$", "$")


def read_services(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the compose file's services, with these variables."""

    def fill(node: Any) -> Any:
        if isinstance(node, str):
            return interpolate(node, variables)
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        return [fill(value) for value in node] if isinstance(node, list) else node

    services: dict[str, Any] = fill(yaml.safe_load(FILE.read_text()))["services"]
    return services


def image_health_check() -> list[str]:
    """Return the command of our image's own health check."""
    match = re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert match is not None
    command: list[str] = json.loads(match[1])
    return command


def parse_seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


class Host:
    """Runs services in a folder, which has a folder for each volume."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.services = read_services(variables)
        self.queue: subprocess.Popen[bytes]
        self.ports = {name: free_port() for name in PORTS}
        self.postgres = PostgresCluster(folder / "postgres")
        self.ports["postgres"] = self.postgres.port
        self._programs = folder / "bin"
        self._programs.mkdir()
        port = self.ports["redis"]
        self._program("docker-entrypoint.sh", 'exec "$@"')
        queue = self.volume("queue")
        self._program("valkey-server", f'exec {redis_binary()} "$@" --port {port} --bind {HOST} --dir {queue}')
        self._program("valkey-cli", f'exec {_redis_cli()} -p {port} "$@"')
        self._program("docmill", f'exec {DOCMILL} "$@"')
        self._program("pg_isready", f'exec {self.postgres.programs / "pg_isready"} "$@" --port={self.postgres.port}')

    def _program(self, name: str, line: str) -> None:
        """Write a program that a service's container has."""
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def volume(self, name: str) -> Path:
        """Return the folder of a named volume, or the folder of the project that is mounted."""
        if name.startswith("./"):
            return (ROOT / name).resolve()
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def place(self, service: str, path: str) -> str:
        """Return the path on this machine of a path in a service's container."""
        for volume in self.services[service].get("volumes", ()):
            source, target, *_ = volume.split(":")
            if path == target or path.startswith(f"{target}/"):
                return str(self.volume(source)) + path.removeprefix(target)
        return path

    def _workdir(self, service: str) -> str:
        place = self.place(service, "/corpus")
        return place if Path(place).is_dir() else str(self.folder)

    def environment(self, service: str) -> dict[str, str]:
        """Return a service's environment: the file's variables, and those that every process has."""
        environment = self.services[service].get("environment", {})
        values = {name: str(value) for name, value in environment.items() if value is not None}
        for name_of_host, port in PORTS.items():
            reached = f"@{HOST}:{self.ports[name_of_host]}"
            values = {name: value.replace(f"@{name_of_host}:{port}", reached) for name, value in values.items()}
        values |= {name: self.place(service, value) for name, value in values.items() if value.startswith("/")}
        path = os.pathsep.join([str(self._programs), os.environ["PATH"]])
        return {"PATH": path, "HOME": str(self.folder), "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **values}

    def start_postgres(self) -> None:
        """Make the database and its owner, as the image does at its first start, from the service's environment."""
        self.postgres.start()
        values = self.services["postgres"]["environment"]
        self.postgres.make(values["POSTGRES_DB"], values["POSTGRES_USER"], values["POSTGRES_PASSWORD"])

    def command(self, service: str, *arguments: str) -> list[str]:
        """Return the command of a service's container: `docmill` with the arguments, or the service's own."""
        own = [*arguments] or self.services[service].get("command", [])
        return [*(["docmill"] if "docmill" in self.services[service]["image"] else []), *own]

    def start(self, service: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a service in a process group of its own, with its log in `<folder>/<service>.log`."""
        # As in a container, where nothing of the caller's is inherited; a suite in the background ignores SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with (self.folder / f"{service}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(service, *arguments),
                cwd=self._workdir(service),
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, service: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose run --rm SERVICE ARGUMENTS` does."""
        return subprocess.run(
            self.command(service, *arguments),
            cwd=self._workdir(service),
            env=self.environment(service),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def is_healthy(self, service: str, *more: str) -> bool:
        """Return True if the health check of a service or of its image passes, with `more` options."""
        kind, *command = self.services[service].get("healthcheck", {}).get("test") or ["CMD", *image_health_check()]
        command = ["sh", "-c", *command] if kind == "CMD-SHELL" else [*command, *more]
        return subprocess.run(command, env=self.environment(service), capture_output=True).returncode == 0

    def wait_healthy(self, service: str, within_s: float = 90.0) -> None:
        until(lambda: self.is_healthy(service), f"{service} is healthy: {self.log(service)}", within_s)

    def stop(self, service: str, process: subprocess.Popen[bytes]) -> int:
        """Stop a service as docker does, with its signal and grace. Return its exit code."""
        process.send_signal(INTERRUPT.get(service, signal.SIGTERM))
        return process.wait(parse_seconds(self.services[service].get("stop_grace_period", f"{DEFAULT_GRACE_S}s")))

    def log(self, service: str) -> str:
        path = self.folder / f"{service}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def _redis_cli() -> str:
    """Return a command that works as redis-cli does, which machines with only the library lack."""
    script = (
        "import os, sys, redis; port = int(sys.argv[2]); "
        "client = redis.Redis(port=port, password=os.environ.get('REDISCLI_AUTH')); "
        "print('PONG' if client.execute_command(*sys.argv[3:]) else '')"
    )
    return f"{sys.executable} -c {shlex.quote(script)}"
