"""The commands as a user types them: tables, exit statuses, and one line for each mistake."""

import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from tests.support.running import COMMAND, START_WITHIN, ServerProcess
from tests.toolkit import models

WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (
        ("convert", "nothing.onnx", "base"),
        1,
        "headrace: nothing.onnx: there is no such file or folder",
    ),
    (
        ("convert", "empty.onnx", "base"),
        1,
        "headrace: empty.onnx: the file is empty",
    ),
    (
        ("convert", "short.onnx", "base"),
        1,
        "headrace: short.onnx: not an ONNX model, or cut short",
    ),
    (
        ("convert", "lfs.onnx", "base"),
        1,
        "headrace: lfs.onnx: this is a Git LFS pointer, not the model itself: run git lfs pull",
    ),
    (
        ("convert", "model.bin", "base"),
        1,
        "headrace: model.bin: '.bin' is not the suffix of a known kind of model, and its bytes look like an ONNX "
        "model. Known: .onnx",
    ),
    (
        ("convert", "model.tflite", "base"),
        1,
        "headrace: model.tflite: the suffix is .tflite, but its bytes look like an ONNX model",
    ),
    (
        ("convert", "folder", "base"),
        1,
        "headrace: folder: this folder contains no saved_model.pb",
    ),
    (
        ("convert", "none.py:net", "base"),
        1,
        "headrace: none.py:net: there is no file none.py",
    ),
    (
        ("convert", "cnn.onnx", "empty.onnx"),
        1,
        "headrace: empty.onnx cannot be created: empty.onnx is not a folder",
    ),
    (
        ("convert", "cnn.onnx", "base", "--labels=y"),
        1,
        "headrace: --labels names an array in a file of rows: give the file with --data",
    ),
    (
        ("convert", "cnn.onnx", "base", "--outputs=a"),
        1,
        "headrace: cnn.onnx: --outputs is only for sources without names of their own",
    ),
    (
        ("convert", "cnn.onnx", "base", "--signature=x"),
        1,
        "headrace: --signature must be like image=float32[N,1,8,8]; was 'x'",
    ),
    (
        ("optimize", "cnn.onnx"),
        1,
        "headrace: cnn.onnx: name the model's folder of numbered versions, as in /models/digits",
    ),
    (
        ("optimize", "recipe.toml"),
        1,
        'headrace: recipe.toml: names no model: write source = "..." under [model]',
    ),
    (
        ("optimize", "cnn.onnx", "base", "--max_drop=-1"),
        2,
        "headrace optimize: --max_drop must be a finite number of at least 0; was -1",
    ),
    (
        ("optimize", "cnn.onnx", "base", "--calibration=0"),
        2,
        "headrace optimize: --calibration must be a whole number of at least 1; was 0",
    ),
    (
        ("optimize", "cnn.onnx", "base", "--dry_run=maybe"),
        2,
        "headrace optimize: --dry_run must be true or false; was 'maybe'",
    ),
    (
        ("optimize", "cnn.onnx", "base", "--datas=x"),
        2,
        "headrace optimize: unknown flag --datas; did you mean --data?",
    ),
    (
        ("report", "folder"),
        1,
        "headrace: folder contains neither model.onnx nor model.tflite: name the folder of one version",
    ),
]


def headrace(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    model = (made / "cnn.onnx").read_bytes()
    (folder / "folder").mkdir()
    for name, content in {
        "cnn.onnx": model,
        "empty.onnx": b"",
        "short.onnx": model[:-1000],
        "lfs.onnx": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "model.bin": model,
        "model.tflite": model,
        "recipe.toml": b"",
        "test.npz": (made / "cnn" / "test.npz").read_bytes(),
        "train.npz": (made / "cnn" / "train.npz").read_bytes(),
    }.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(("arguments", "status", "words"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str], status: int, words: str,
) -> None:  # fmt: skip
    from headrace_server.commands.headrace import main

    monkeypatch.chdir(folder)
    try:
        got = main(arguments)
    except SystemExit as ended:
        got = int(ended.code or 0)
    written = capsys.readouterr()
    assert got == status
    assert written.err.startswith(words)
    assert written.out == ""
    assert not (folder / "base").exists()


@pytest.fixture(scope="module")
def run(folder: Path) -> "subprocess.CompletedProcess[str]":
    (folder / "recipe2.toml").write_text(
        'timing_seconds = 0.2\n[model]\nsource = "cnn.onnx"\n[data]\nrows = "test.npz"\nlabels = "y"\n'
        'calibration = "train.npz"\n[output]\nbase = "models/digits"\n'
    )
    assert headrace(folder, "convert", "cnn.onnx", "models/digits", "--data=test.npz", "--labels=y").returncode == 0
    return headrace(folder, "optimize", "recipe2.toml", "--json=r.json", "--png=r.png", "--html=r.html")


def test_the_table(run: "subprocess.CompletedProcess[str]") -> None:
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert re.match(r"step +accuracy +agree +differs by +bytes +gzip +1 row +32 rows$", lines[0])
    assert re.match(r"source: cnn\.onnx \(ONNX Runtime [\d.]+\) +9\d\.\d\d%$", lines[1])
    assert re.match(r"static int8, per channel, 7 bit +9\d\.\d\d% .* kept$", lines[3])
    assert "accuracy over 540 rows: the source's" in run.stdout
    assert re.fullmatch(
        r".*models/digits/2/model\.onnx: 0\.\d\d of the converted model's bytes, 0\.\d\d of its time for 32 rows, "
        r"accuracy \d\.\d\d points (lower|higher) \(allowed: 0\.5\)", lines[-1],
    )  # fmt: skip


@pytest.mark.usefixtures("run")
def test_the_files(folder: Path) -> None:
    document = json.loads((folder / "r.json").read_text())
    assert document["source"]["kind"] == "onnx"
    assert document["rows"] == 540
    assert [step["kept"] for step in document["steps"][:3]] == [True, True, True]
    assert set(document["steps"][2]["time"]) == {"1", "32"}
    png = (folder / "r.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    page = (folder / "r.html").read_text()
    assert base64.b64encode(png[:60]).decode() in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    card = json.loads((folder / "models" / "digits" / "2" / "card.json").read_text())
    assert card["recipe"] == (folder / "recipe2.toml").read_text()


@pytest.mark.usefixtures("run")
def test_the_published_version_is_served_in_batches(folder: Path) -> None:
    base = folder / "models" / "digits"
    session = ort.InferenceSession(str(base / "2" / "model.onnx"), providers=["CPUExecutionProvider"])
    x = models.pictures(models.digits().test_x, (1, 8, 8))
    parts = [x[start : start + rows] for start, rows in ((0, 1), (1, 2), (3, 3), (6, 7))] * 4
    server = ServerProcess(base, "--enable_batching=true")
    try:
        caller = server.started()
        with ThreadPoolExecutor(len(parts)) as threads:
            answers = list(threads.map(lambda part: caller.predict({"x": part})["logits"], parts))
        for part, answer in zip(parts, answers, strict=True):
            np.testing.assert_allclose(answer, session.run(None, {"x": part})[0], atol=1e-4)
        caller.close()
    finally:
        server.close()
    proved = "requests share batches: no row depends on the others (card.json records a trial of exactly these files)"
    assert any(proved in line for line in server.log), server.log


@pytest.mark.usefixtures("run")
def test_versions_side_by_side(folder: Path) -> None:
    versions = ["models/digits/1", "models/digits/2"]
    beside = headrace(folder, "report", *versions, "--data=test.npz", "--labels=y", "--timing_seconds=0.1")
    assert beside.returncode == 0, beside.stderr
    assert re.search(r"^digits/1 +9\d\.\d\d% +100\.0%.* 1\.00x$", beside.stdout, re.MULTILINE)
    assert re.search(r"^digits/2 ", beside.stdout, re.MULTILINE)
    changed = folder / "models" / "digits" / "2" / "model.onnx"
    whole = changed.read_bytes()
    try:
        changed.write_bytes((folder / "models" / "digits" / "1" / "model.onnx").read_bytes())
        beside = headrace(folder, "report", *versions, "--timing_seconds=0.1")
    finally:
        changed.write_bytes(whole)
    assert beside.returncode == 1
    assert "is no longer the file that its card names: it has another SHA-256" in beside.stdout


def test_a_dry_run_publishes_nothing(folder: Path) -> None:
    done = headrace(folder, "convert", "cnn.onnx", "dry", "--dry_run")
    assert done.returncode == 0
    assert not (folder / "dry").exists()


SLOW = """
import signal, sys, time
from headrace_toolkit import publish
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
def publish_slowly(*_): print("now", flush=True); time.sleep(600)
publish._rename = publish_slowly
from headrace_server.commands.headrace import main
sys.exit(main(["convert", "cnn.onnx", "ended"]))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing(folder: Path, how: signal.Signals) -> None:
    started = subprocess.Popen([sys.executable, "-c", SLOW], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdout is not None
    try:
        assert started.stdout.readline() == b"now\n"
        started.send_signal(how)
        _, errors = started.communicate(timeout=START_WITHIN)
    finally:
        started.kill()  # if it has not ended
        started.communicate()
    assert started.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[how]
    assert b"Traceback" not in errors
    assert not (folder / "ended").exists()
