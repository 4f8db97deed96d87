"""Print specs.json: the specs of `matrix`, as the code beside this file makes them.

It was run at d5aa8a2. The file changes for new options and kinds only: a line that is there stays as it is, since
people's stores have results under its id.
"""

from __future__ import annotations

import json
from typing import Any

from docmill.tasks.errors import TaskError
from tests.frozen import adapter, matrix


def main() -> None:
    models = matrix.models()
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, model, options in matrix.asked():
        try:
            spec = adapter.planned(kind, model, options, models)
        except TaskError:  # these options do not go together
            continue
        params = json.loads(adapter.canonical(spec))["params"]
        row = _dumped([options, spec.quality, params, adapter.identity(spec)])
        if row not in groups.setdefault((kind, model), []):
            groups[kind, model].append(row)
    print('{"models": {')
    print(",\n".join(f"{_dumped(name)}: {_dumped(model)}" for name, model in models.items()))
    print('},\n"specs": [')
    print(
        ",\n".join(
            f'{{"kind": {_dumped(kind)}, "model": {_dumped(model)}, "cases": [\n' + ",\n".join(rows) + "\n]}"
            for (kind, model), rows in groups.items()
        )
    )
    print("]}")


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
