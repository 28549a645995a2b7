"""The cache of built engines: its keys, and how files are written."""

import os
from pathlib import Path
from threading import Thread

import pytest

from headrace_server.backends.tensorrt.cache import model_key, read, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    version = tmp_path / "1"
    version.mkdir()
    (version / "model.onnx").write_bytes(b"model")
    (version / "weights.bin").write_bytes(b"weights")
    (version / "assets.extra").mkdir()
    return version


def test_the_same_files_and_parts_have_the_same_key_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    key = model_key(folder, ["11.4", (9, 0)])
    other = folder.rename(tmp_path / "2")
    os.utime(other / "model.onnx", (1, 1))

    assert model_key(other, ["11.4", (9, 0)]) == key


def test_a_plan_next_to_the_model_changes_nothing(folder: Path) -> None:
    key = model_key(folder, [])
    (folder / "model.plan").write_bytes(b"plan")

    assert model_key(folder, []) == key


@pytest.mark.parametrize(
    ("file", "content"), [("model.onnx", b"Model"), ("weights.bin", b"weightS"), ("more.bin", b"")]
)
def test_other_bytes_have_another_key(folder: Path, file: str, content: bytes) -> None:
    key = model_key(folder, [])
    (folder / file).write_bytes(content)

    assert model_key(folder, []) != key


def test_bytes_moved_between_files_have_another_key(folder: Path) -> None:
    key = model_key(folder, [])
    (folder / "model.onnx").write_bytes(b"modelw")
    (folder / "weights.bin").write_bytes(b"eights")

    assert model_key(folder, []) != key


def test_other_parts_have_another_key(folder: Path) -> None:
    keys = {model_key(folder, parts) for parts in (["11.4"], ["11.5"], ["11", ".4"], [("11.4", 9)], [])}

    assert len(keys) == 5


def write_often(path: Path, content: bytes) -> None:
    for _ in range(10):
        write(path, content)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "k.plan"
    assert read(path) is None
    contents = [bytes([n]) * 200_000 for n in range(4)]
    seen: set[bytes | None] = set()
    done: list[bool] = []

    def look() -> None:
        while not done:
            seen.add(read(path))

    reader = Thread(target=look)
    reader.start()
    writers = [Thread(target=write_often, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.append(True)
    reader.join()

    assert seen <= {None, *contents}
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k.plan"
    write(path, b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write(path, b"new")

    assert read(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]
