"""Checks 6, 19 to 21 and 23: what is published, served and refused."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from scripts.toolkit_acceptance.scene import COMMAND, Scene, Skipped, at_most
from tests.support.running import ServerProcess


def served(scene: Scene) -> str:
    """6: converted models are served in batches, and answer as ONNX Runtime does."""
    folder, base = scene.models["cnn"], scene.folder / "served"
    assert scene.headrace("convert", folder / "model.onnx", base, f"--data={folder / 'test.npz'}").status == 0
    held = dict(np.load(folder / "test.npz"))
    (name,) = set(held) - {"y"}
    session = ort.InferenceSession(str(base / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    parts = [held[name][start : start + rows] for start, rows in ((0, 1), (1, 2), (3, 3), (6, 7))] * 8
    server = ServerProcess(base)
    try:
        caller = server.started()
        with ThreadPoolExecutor(len(parts)) as threads:
            answers = list(threads.map(lambda part: caller.predict({name: part})[output], parts))
        caller.close()
        server.terminate()
        server.ended()
    finally:
        server.close()
    for part, answer in zip(parts, answers, strict=True):
        np.testing.assert_allclose(answer, session.run(None, {name: part})[0], atol=1e-4)
    batched = [line for line in server.log if "requests share batches" in line]
    assert batched, server.log
    return f"{len(parts)} concurrent calls of 1, 2, 3 and 7 rows"


def bad_inputs(scene: Scene) -> str:
    """19: each bad input fails with one line, before anything is written; no file runs code."""
    if scene.given is None:
        raise Skipped("needs --models; tests/toolkit contains the same cases")
    folder = scene.folder / "bad"
    subprocess.run([sys.executable, scene.given / "bad_inputs.py", folder], check=True, capture_output=True)
    cases = json.loads((folder / "cases.json").read_text())
    for case in cases:
        base = scene.folder / "bad_base"
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        _one_bad(scene, folder, case, base)
    assert not (folder / "was_run").exists()
    return f"{len(cases)} cases"


def _one_bad(scene: Scene, folder: Path, case: dict[str, str], base: Path) -> None:
    assert scene.given is not None
    file = folder / case["file"]
    if "model" in case:
        flags = ["--labels=y", f"--data={file}", *([f"--calibration={file}"] if case["must"] == "warn" else [])]
        run = scene.headrace("optimize", scene.given / case["model"], base, *flags)
    elif "step" in case:
        recipe = folder / "recipe.toml"
        recipe.write_text(f'[model]\nsource = "{file}"\n[output]\nbase = "{base}"\n[[step]]\nkind = "{case["step"]}"\n')
        run = scene.headrace("optimize", recipe)
    else:
        run = scene.headrace("convert", file, base)
    what = f"{case['file']}: {run.error or run.out}"
    assert "Traceback" not in run.error, what
    if case["must"] == "refuse":
        assert run.status == 1, what
        assert run.error.startswith("headrace: "), what
        assert len(run.error.splitlines()) == 1, what
        assert os.listdir(base) == [], what
    else:
        assert run.status == 0, what
        assert "warning: " in run.out or "corrected" in run.out, what


def watched_and_killed(scene: Scene) -> str:
    """20: no reader sees a version without a model that loads, even if publishers are killed."""
    base, done = scene.folder / "watched", threading.Event()
    base.mkdir()
    failures: list[str] = []
    loads = 0

    def watch() -> None:
        nonlocal loads
        while not done.is_set():
            for name in filter(str.isdigit, os.listdir(base)):
                try:
                    ort.InferenceSession(str(base / name / "model.onnx"), providers=["CPUExecutionProvider"])
                    loads += 1
                except Exception as error:
                    failures.append(f"{name}: {error}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    draws, killed = random.Random(0), 0
    command = [COMMAND, "convert", str(scene.models["mlp"] / "model.onnx"), str(base)]
    try:
        while len(list(filter(str.isdigit, os.listdir(base)))) < 10:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            if draws.random() < 0.5:
                time.sleep(draws.uniform(0.3, 2.0))  # the moment is random on purpose
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.wait()
    finally:
        done.set()
        watcher.join()
    assert not failures, failures[0]
    left = [name for name in os.listdir(base) if name.startswith(".new-")]
    return f"10 versions, {killed} runs killed, {loads} loads; {len(left)} abandoned folders"


def nothing_private(scene: Scene) -> str:
    """21: published files contain no absolute path, and no name of a user or a host."""
    folder, base = scene.models["mlp"], scene.folder / "private"
    assert scene.headrace("convert", folder / "model.onnx", base, f"--data={folder / 'test.npz'}").status == 0
    paths = {str(Path.home()), str(scene.folder), tempfile.gettempdir()}
    names = {os.uname().nodename, os.environ.get("USER") or os.uname().nodename}
    for file in (base / "1").iterdir():
        content = file.read_bytes()
        found = [path for path in paths if path.encode() in content]
        if file.suffix == ".json":  # any short name may appear in a model's weights by chance
            found += [name for name in names if re.search(rf"\b{re.escape(name)}\b", content.decode())]
        assert not found, f"{file.name} holds {found[0]}"
    return ", ".join(sorted(file.name for file in (base / "1").iterdir()))


_IMPORTS = "import sys, json; {}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"


_TIMED = """
import sys, time
import headrace_server.commands.command_line
for name in [name for name in sys.modules if name.startswith("headrace_toolkit")]:
    del sys.modules[name]
began = time.process_time()
import headrace_toolkit.command
print((time.process_time() - began) * 1e3)
"""
"""The milliseconds that the toolkit alone adds to a start: modules shared with other commands are already imported."""


def start_up(scene: Scene) -> str:
    """23: no framework is imported before it is needed, and the command starts as fast as without the toolkit."""
    del scene
    code = _IMPORTS.format("import headrace_toolkit, headrace_server.commands.command_line")
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "tensorflow", "sklearn", "onnx", "onnxruntime", "keras"} & set(loaded), loaded
    taken = float(subprocess.run([sys.executable, "-c", _TIMED], capture_output=True, text=True, check=True).stdout)
    at_most(taken, 50, "milliseconds of imports")
    return f"the toolkit's own imports take {taken:.1f} ms of CPU time"
