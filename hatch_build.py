"""Add the project's addresses to the package, and make the links of its README absolute.

Both follow from the remote `origin` of the clone that is built, so the packages of a fork name the fork. Without such
an address the README has no links to files. A wheel that is built of a source distribution has what that has.
"""

from __future__ import annotations

import re
import subprocess
from email import message_from_bytes
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = {"Homepage": "", "Documentation": "/blob/{}/docs/index.md", "Changelog": "/blob/{}/CHANGELOG.md"}
# git@HOST:PATH, and URLs of ssh and https, without user, port and .git.
_REMOTE = re.compile(
    r"(?:https?://|ssh://|git://|(?=[^/]+@))(?:[^@/]*@)?([^@/:]+\.[^@/:]+)(?::\d+(?=/))?[:/]/?(.+?)(?:\.git)?/?"
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Sets `urls` and `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        if (root / "PKG-INFO").is_file():
            built = message_from_bytes((root / "PKG-INFO").read_bytes())
            metadata["urls"] = dict(url.split(", ", 1) for url in built.get_all("Project-URL", []))
            readme = built.get_payload(decode=True).decode()
        else:
            address = web_address(_git(root, "remote", "get-url", "origin"))
            commit = _git(root, "rev-parse", "HEAD")
            urls = {name: address + page.format(commit) for name, page in PAGES.items()} if address else {}
            metadata["urls"] = urls
            readme = with_absolute_links((root / "README.md").read_text(), address, commit)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}


def web_address(remote: str) -> str:
    """Return the address of a remote's pages; an empty one for a remote on this machine."""
    match = _REMOTE.fullmatch(remote)
    return f"https://{match[1]}/{match[2]}" if match else ""


def with_absolute_links(readme: str, address: str, commit: str) -> str:
    """Return the README with links to the files of a commit, or with the texts of links where there is no address."""
    if not address:
        return _LINK.sub(r"\2", readme)
    return _LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({address}/{'raw' if link[1] else 'blob'}/{commit}/{link[3]})", readme
    )


def _git(root: Path, *arguments: str) -> str:
    """Return what git says of this clone; nothing where there is none."""
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip()
