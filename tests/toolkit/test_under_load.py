"""Models behind headrace's own batcher: measurements under load, and the batching that serves a model best."""

import itertools
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from headrace_batching.task import Arrays
from headrace_server.config.files import read_batching_parameters
from headrace_toolkit import ToolkitError
from headrace_toolkit.under_load import Load, Setting, best_setting, serve, serve_in_turns, settings
from tests.support.running import COMMAND, ServerProcess
from tests.toolkit import models


class Doubler:
    """A model that records the rows of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        self.batches.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}


def load(calls: int, seconds: float = 0.2) -> Load:
    """A load on a clock that advances by a millisecond with each reading."""
    readings = itertools.count()
    rows = [{"x": np.full((1, 2), number, np.float32)} for number in range(5)]
    return Load(calls=calls, rows=rows, seconds=seconds, clock=lambda: next(readings) / 1000,
                cpu=itertools.count(step=0.5).__next__)  # fmt: skip


@pytest.mark.parametrize(("calls", "size"), [(1, 1), (8, 4), (8, 8), (16, 1)])
def test_calls_are_always_under_way(calls: int, size: int) -> None:
    model = Doubler()
    setting = Setting(threads=2, size=size)
    served = serve(model, load(calls), setting, 0.2)
    assert served.setting == setting
    assert max(model.batches) <= size
    assert sum(model.batches) >= max(calls, 50)  # two readings per call, and a few more
    assert served.rows == pytest.approx(sum(model.batches) / (0.001 * (2 * sum(model.batches) + 2)), rel=0.2)
    assert served.p99_ms > 0
    assert served.cpu_us == pytest.approx(1e6 * 0.5 / sum(model.batches))


def test_a_run_that_fails() -> None:
    def fails(inputs: Arrays) -> Arrays:
        raise RuntimeError(f"no memory for {len(inputs)} inputs")

    with pytest.raises(ToolkitError, match="a run under load failed: no memory for 1 inputs"):
        serve(fails, load(4), Setting(threads=1, size=4), 0.1)


def test_variants_take_turns() -> None:
    models = {"a": Doubler(), "b": Doubler()}
    served = serve_in_turns(models, load(4), Setting(threads=1, size=4))
    assert set(served) == {"a", "b"}
    assert all(model.batches for model in models.values())


def test_the_best_setting_is_one_that_was_tried() -> None:
    model = Doubler()
    assert best_setting(model, load(6)).setting in settings(6)
    assert {setting.size for setting in settings(6)} == {4, 6}
    assert {setting.size for setting in settings(1)} == {1}


def test_a_search_by_load(made: Path, tmp_path: Path) -> None:
    words = ["optimize", str(made / "cnn.onnx"), "base", f"--data={made / 'cnn' / 'test.npz'}", "--labels=y"]
    words += ["--load=16", "--timing_seconds=0.1", "--batching_file=batching.pbtxt", "--json=report.json"]
    done = subprocess.run([COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    assert re.search(r"32 rows +CPU/row +rows/s +p99$", done.stdout.splitlines()[0])
    line = r"^16 calls of one row in flight: [\d,]+ rows/s at a p99 of [\d.e+]+ ms with num_batch_threads \d+"
    assert re.search(line, done.stdout, re.MULTILINE)
    report = json.loads((tmp_path / "report.json").read_text())
    served = [step["served"] for step in report["steps"] if step["served"]]
    assert len(served) >= 3  # the converted model and the candidates
    options = read_batching_parameters(str(tmp_path / "batching.pbtxt"))
    assert options.max_batch_size == report["suggested"]["max_batch_size"]
    assert options.num_batch_threads == report["suggested"]["num_batch_threads"]
    check_served(tmp_path / "base", tmp_path / "batching.pbtxt", options.max_batch_size)


def check_served(base: Path, parameters: Path, size: int) -> None:
    """Calls a server with the suggested parameters, from as many concurrent callers as in the measurement."""
    x = models.pictures(models.digits().test_x, (1, 8, 8))
    session = ort.InferenceSession(str(base / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    server = ServerProcess(base, "--enable_batching=true", f"--batching_parameters_file={parameters}")
    try:
        caller = server.started()
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda row: caller.predict({"x": x[row : row + 1]})["logits"], range(128)))
        caller.close()
        server.terminate()
        served = server.wait_for(re.compile(r"128 requests, 128 rows in (\d+) batches"))
    finally:
        server.close()
    assert 128 / size <= int(served[1]) < 128
    np.testing.assert_allclose(np.concatenate(answers), session.run(None, {"x": x[:128]})[0], atol=1e-4)


def test_a_batching_file_needs_a_load(made: Path) -> None:
    words = ["optimize", "cnn.onnx", "base", "--batching_file=batching.pbtxt"]
    done = subprocess.run([COMMAND, *words], cwd=made, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("headrace: --batching_file writes the parameters that --load finds")
