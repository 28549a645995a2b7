"""A damaged model file is refused in one line, whatever its framework prints."""

import re
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


def replaced(pattern: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: re.sub(pattern, new, content)


def garbage(content: bytes) -> bytes:
    """Replaces the end of a line and the start of the next one by bytes that are neither text nor numbers."""
    middle = content.index(b"\n", len(content) // 2)
    return content[: middle - 9] + bytes(range(128, 192)) + content[middle + 9 :]


CASES = [
    (onnx_file, changed(b"logits", b"\x97ogits"), "not UTF-8"),
    (onnx_file, half, "half"),
    (xgboost_file, changed(b"learner", b"learned"), "other name"),
    (xgboost_file, half, "half"),
    (xgboost_file, changed(b"0", b"z"), "letters"),
    (lightgbm_file, changed(b"max_feature_idx=29", b"max_feature_idx=28"), "other number"),
    # On these, LightGBM and XGBoost end the process that loads or runs them.
    (lightgbm_file, half, "half"),
    (lightgbm_file, replaced(rb"num_leaves=\d+", b"num_leaves=4000"), "wrong counts"),
    (lightgbm_file, garbage, "garbage"),
    (lightgbm_file, replaced(rb"left_child=-?\d+", b"left_child=0"), "cycle"),
    (lightgbm_file, replaced(rb"split_feature=\d+", b"split_feature=31"), "column that does not exist"),
    (xgboost_file, replaced(rb'"left_children":\[\d+', b'"left_children":[9999999'), "child that does not exist"),
    (xgboost_file, replaced(rb'"split_indices":\[\d+', b'"split_indices":[31'), "column that does not exist"),
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
    printed = capfd.readouterr()
    assert printed.err.startswith("headrace: ")
    assert file.name in printed.err
    assert printed.err.count("\n") == 1
    assert "did not expect" not in printed.err
    assert printed.out == ""
    assert not (tmp_path / "base").exists()
