"""Write the archive of docmill's own models, which `docmill models get quickstart` reads.

python -m release.models FOLDER VERSION
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from docmill.tasks.specs.pinning import OWN, archive_name

ROOT = Path(__file__).parent.parent


def write(root: Path, folder: Path, version: str) -> Path:
    """Write the archive into a folder. Two archives of the same models are equal."""
    models, target = root / "examples" / "models", folder / archive_name(version)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for name in OWN for file in (models / name).iterdir()):
            member = zipfile.ZipInfo(file.relative_to(models).as_posix())
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, file.read_bytes())
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{write(ROOT, Path(sys.argv[1]), sys.argv[2])}\n")
