"""Publishing: a version appears whole or not at all, even if the publisher fails or is killed."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from headrace_toolkit import ToolkitError
from headrace_toolkit.publish import Contents, check_base, check_key, publish, versions_of
from tests.support.running import COMMAND
from tests.support.signing import key_pair


def contents(made: Path, **more: Any) -> Contents:
    return Contents(files={"model.onnx": made / "mlp.onnx"}, documents={"card.json": {"model": "m"}}, **more)


def test_versions_follow_each_other(tmp_path: Path, made: Path) -> None:
    base = tmp_path / "models" / "m"
    assert publish(base, contents(made)) == base / "1"
    assert publish(base, contents(made), version=7) == base / "7"
    assert publish(base, contents(made)) == base / "8"
    assert versions_of(base) == [1, 7, 8]
    assert sorted(os.listdir(base / "8")) == ["card.json", "model.onnx"]
    assert (base / "8" / "model.onnx").stat().st_mode & 0o777 == 0o644


def test_a_version_is_never_changed(tmp_path: Path, made: Path) -> None:
    publish(tmp_path, contents(made))
    for act in (lambda: publish(tmp_path, contents(made), version=1), lambda: check_base(tmp_path, 1)):
        with pytest.raises(ToolkitError, match="1 already exists; a published version is never changed"):
            act()
    assert os.listdir(tmp_path) == ["1"]


def test_model_options_are_written_once(tmp_path: Path, made: Path) -> None:
    publish(tmp_path, contents(made, model_options="[batching]\nenabled = false\n"))
    publish(tmp_path, contents(made, model_options="other"))
    assert (tmp_path / "model.toml").read_text() == "[batching]\nenabled = false\n"
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "model.toml"]


def test_a_signed_version_loads_where_signatures_are_required(tmp_path: Path, made: Path) -> None:
    ours, other = key_pair(tmp_path), key_pair(tmp_path, "other")
    flags = [f"--signature_keys={ours.public}", "--require_signatures"]
    for key, good in ((ours, True), (other, False)):
        base = publish(tmp_path / "m", contents(made, key=key.private)).parent
        done = subprocess.run([COMMAND, "serve", "--check", base, *flags], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is good, done.stderr


def test_a_key_that_cannot_sign_is_refused_and_leaves_nothing(tmp_path: Path, made: Path) -> None:
    (tmp_path / "no.key").write_text("nothing")
    for name, text in (("no.key", "no.key cannot be used as a private key"), ("missing.key", "missing.key")):
        with pytest.raises(ToolkitError, match=text):
            check_key(tmp_path / name)
        with pytest.raises(ToolkitError, match=text):
            publish(tmp_path / "m", contents(made, key=tmp_path / name))
        assert os.listdir(tmp_path) == ["no.key"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    missing = Contents(files={"model.onnx": tmp_path / "nowhere.onnx"}, model_options="text")
    with pytest.raises(ToolkitError, match="cannot be written"):
        publish(tmp_path / "a" / "b", missing)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolkitError, match=r"file is not a folder"):
        check_base(tmp_path / "file" / "m")


KILLED = """
import os, signal, sys
from pathlib import Path
from headrace_toolkit import publish
publish._rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
publish.publish(Path(sys.argv[1]), publish.Contents(files={"model.onnx": Path(sys.argv[2])}))
"""


def test_the_next_run_removes_the_files_of_a_killed_one(tmp_path: Path, made: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, made / "mlp.onnx"], check=False)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".new-")
    publish(tmp_path, contents(made))
    assert os.listdir(tmp_path) == ["1"]


def test_a_watcher_sees_only_whole_versions(tmp_path: Path, made: Path) -> None:
    done, seen = threading.Event(), set[str]()
    failures: list[str] = []

    def watch() -> None:
        is_last = False
        while not is_last:
            is_last = done.is_set()
            for name in filter(str.isdigit, os.listdir(tmp_path)):
                seen.add(name)
                try:
                    ort.InferenceSession(str(tmp_path / name / "model.onnx"), providers=["CPUExecutionProvider"])
                except Exception as error:
                    failures.append(f"{name}: {error}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    writers = [threading.Thread(target=lambda: [publish(tmp_path, contents(made)) for _ in range(5)]) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    watcher.join()
    assert failures == []
    assert versions_of(tmp_path) == list(range(1, 11))
    assert seen
