"""A damaged model file is refused in one line, whatever its framework prints."""

from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_server.commands.headrace import main
from tests.toolkit import models
from tests.toolkit.test_sklearn import lightgbm_file, xgboost_file


def onnx_file(folder: Path) -> Path:
    models.mlp(folder / "model.onnx", width=16)
    return folder / "model.onnx"


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new)


CASES = [
    (onnx_file, changed(b"logits", b"\x97ogits"), "not UTF-8"),
    (onnx_file, half, "half"),
    (xgboost_file, changed(b"learner", b"learned"), "other name"),
    (xgboost_file, half, "half"),
    (xgboost_file, changed(b"0", b"z"), "letters"),
    (lightgbm_file, changed(b"max_feature_idx=29", b"max_feature_idx=28"), "other number"),
]


@pytest.mark.parametrize(("make", "damage", "what"), CASES, ids=[f"{make.__name__} {what}" for make, _, what in CASES])
def test_damaged_models_are_refused_in_one_line(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path], Path],
    damage: Callable[[bytes], bytes],
    what: str,
) -> None:
    file = make(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    capfd.readouterr()
    assert main(["convert", str(file), str(tmp_path / "base")]) == 1, what
    told = capfd.readouterr()
    assert told.err.startswith("headrace: ")
    assert told.err.count("\n") == 1
    assert "did not expect" not in told.err
    assert told.out == ""
    assert not (tmp_path / "base").exists()
