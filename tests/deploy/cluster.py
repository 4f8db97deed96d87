"""The chart's pods as processes of this machine: their own commands, environments, probes, signals and grace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.chart import Manifest, Rendered
from tests.test_compose import DOCKERFILE
from tests.worker.harness import DOCMILL, kill_group


def image_environment() -> dict[str, str]:
    """Return what the image's last stage sets, without the path of its programs."""
    [block] = re.findall(r"^ENV (PATH=.*?[^\\])$", DOCKERFILE, re.DOTALL | re.MULTILINE)
    given = dict(re.findall(r"(\w+)=(\S+)", block))
    del given["PATH"]
    return given


@dataclass
class Pod:
    """A container of a pod: its manifest, its environment here, and its process once it runs."""

    spec: Manifest
    environment: Mapping[str, str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def container(self) -> Manifest:
        [container] = self.spec["containers"]
        found: Manifest = container
        return found

    def command(self) -> list[str]:
        """Return the container's command: the image's entry point with the manifest's arguments."""
        return ["docmill", *map(str, self.container["args"])]

    def start(self) -> None:
        """Start it in a process group of its own, as in a container where SIGINT is not ignored."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def probe(self, kind: str, **environment: str) -> int:
        """Return the exit code of a probe."""
        command: list[str] = self.container[kind]["exec"]["command"]
        limit_s = self.container[kind]["timeoutSeconds"]
        told = subprocess.run(
            command,
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            timeout=limit_s * 4,
        )
        return told.returncode

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of docmill in the container, as `kubectl exec` does."""
        return subprocess.run(
            ["docmill", *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True
        )

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Return the exit code of a pod that was told to end. It has to end within its grace."""
        assert self.process is not None
        return self.process.wait(self.spec["terminationGracePeriodSeconds"])

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            kill_group(self.process)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""


class Cluster:
    """Makes pods of the rendered manifests, each with a folder of its own for each of its volumes."""

    def __init__(self, rendered: Rendered, folder: Path) -> None:
        self.rendered = rendered
        self.pods: list[Pod] = []
        self._folder = folder
        programs = folder / "bin"
        programs.mkdir()
        (programs / "docmill").write_text(f'#!/bin/sh\nexec {DOCMILL} "$@"\n')
        (programs / "docmill").chmod(0o755)
        self._path = os.pathsep.join([str(programs), os.environ["PATH"]])

    def pod(self, kind: str, name: str) -> Pod:
        """Return a new pod of a Deployment or a Job, which does not run yet."""
        spec = self.rendered.named(kind, name)["spec"]["template"]["spec"]
        folder = self._folder / f"{name}-{len(self.pods)}"
        folder.mkdir()
        found = Pod(spec, self._environment(spec, folder), folder)
        self.pods.append(found)
        return found

    def start(self, kind: str, name: str) -> Pod:
        found = self.pod(kind, name)
        found.start()
        return found

    def kill(self) -> None:
        for one in self.pods:
            one.kill()

    def _environment(self, spec: Manifest, folder: Path) -> dict[str, str]:
        [container] = spec["containers"]
        given = image_environment() | {one["name"]: self._value(one) for one in container["env"]}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]} | {"/models"}  # which the image has
        for name, value in given.items():
            if value in mounts or any(value.startswith(f"{mount}/") for mount in mounts):
                place = folder / value.lstrip("/")
                place.mkdir(parents=True, exist_ok=True)
                given[name] = str(place)
        return {"PATH": self._path, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **given}

    def _value(self, variable: Mapping[str, Any]) -> str:
        if "value" in variable:
            value: str = variable["value"]
            return value
        key = variable["valueFrom"]["secretKeyRef"]
        found: str = self.rendered.named("Secret", key["name"])["stringData"][key["key"]]
        return found
