"""A hub of data sets for tests, which serves one folder under one name and at one commit."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from pathlib import Path

from tests.tasks.hub_server import COMMIT, Handler, Hub, entry, oid, serving

NAME = "me/books"


class DataSets(Handler):
    protocol_version = "HTTP/1.1"

    def serve(self, path: str, model: str, folder: Path) -> None:
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        if re.fullmatch(f"/api/datasets/{model}(/revision/.+)?", path):
            self.json({"id": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        elif tree := re.fullmatch(f"/api/datasets/{model}/tree/[^/]+/?(.*)", path):
            self.json([entry(folder, name) for name in names if name.startswith(tree[1])])
        elif (file := re.fullmatch(f"/datasets/{model}/resolve/[^/]+/(.*)", path)) and file[1] in names:
            self.file(folder / file[1], file[1])
        else:
            code = "EntryNotFound" if path.startswith(f"/datasets/{model}/") else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": code})

    def do_POST(self) -> None:  # noqa: N802
        paths = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        folder = self.hub.models[NAME]
        self.json([entry(folder, name) for name in paths if (folder / name).is_file()])

    def file(self, file: Path, name: str) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            super().file(file, name)
            return
        raw = file.read_bytes()
        headers = {"ETag": f'"{oid(file)}"', "X-Repo-Commit": COMMIT}
        first, last = int(part[1]), min(int(part[2] or len(raw)), len(raw) - 1)
        self.answer(206, raw[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(raw)}"})


def hub(folder: Path) -> AbstractContextManager[Hub]:
    return serving(Hub({NAME: folder}), handler=DataSets)
