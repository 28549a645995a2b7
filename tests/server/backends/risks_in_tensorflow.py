"""Prints the risky operators of each SavedModel `FOLDER/<name>/1`, by name, as `--workers=0` would load it."""

import json
import sys
from pathlib import Path

from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.models.containment import risks_of


def risky(folder: Path) -> list[tuple[str, ...]]:
    """The operators that can take any amount of memory, and those that can run for hours; empty if there are none."""
    backend = auto.load(folder, BackendOptions(saved_model_tags=("serve",)))
    risks = risks_of(backend)
    backend.close()
    return [] if risks is None else [risks.growing, risks.lasting]


if __name__ == "__main__":
    print(json.dumps({folder.name: risky(folder / "1") for folder in Path(sys.argv[1]).iterdir()}))
