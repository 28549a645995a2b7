"""The version that tests of signatures sign."""

from pathlib import Path

import pytest


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version with a file and a folder."""
    version = tmp_path / "m" / "1"
    (version / "inner").mkdir(parents=True)
    (version / "model.onnx").write_bytes(bytes(range(32)))
    (version / "inner" / "weights.bin").write_bytes(b"weights")
    return version
