"""Base paths whose bytes are not UTF-8: every kind of model below them, warm-up, the metrics page, and errors."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from headrace_protos import Code
from headrace_server import Config
from headrace_server.errors import ServingError
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, MODEL, arrays, floats, predict_request
from tests.support.ports import free_port
from tests.support.running import LoopThread, RunningServer

X = floats([1, 2, 3, 4])


def python(folder: Path) -> Path:
    folder.mkdir(parents=True)
    code = "INPUTS = {'x': ('float32', [None, 4])}\nOUTPUTS = {'y': ('float32', [None, 1])}\n"
    code += "def predict(inputs):\n    return {'y': inputs['x'].sum(axis=1, keepdims=True)}\n"
    (folder / "model.py").write_text(code)
    return folder / "model.py"


def weights(folder: Path) -> Path:
    return models.external_data(folder, columns=4)


@pytest.mark.parametrize("make", [models.linear, weights, python])
def test_models_below_such_a_path_are_served(
    tmp_path: Path, transport: str, loop_thread: LoopThread, make: Callable[[Path], Path]
) -> None:
    make(tmp_path / "plain" / "1")
    base_path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le \xff"))
    (tmp_path / "plain").rename(base_path)
    rest_port = free_port()
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true path: '/metrics' }")
    server = RunningServer(loop_thread, config(base_path, transport, rest_port, tmp_path / "monitoring"))
    try:
        assert arrays(server.caller.call(predict_request({"x": X})))["y"].tolist() == [[10]]
        with urlopen(f"http://127.0.0.1:{rest_port}/metrics", timeout=ANSWER_WITHIN) as page:
            assert b'model_name="model"' in page.read()
    finally:
        server.close()


def test_an_error_shows_the_bytes(tmp_path: Path, transport: str, loop_thread: LoopThread) -> None:
    base_path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le"))
    (base_path / "1").mkdir(parents=True)
    with pytest.raises(ServingError) as raised:
        RunningServer(loop_thread, config(base_path, transport, 0, None))

    assert raised.value.code == Code.UNKNOWN
    assert f"{tmp_path}/mod\\udce8le/1" in raised.value.message


def config(base_path: Path, transport: str, rest_port: int, monitoring: Path | None) -> Config:
    return Config(
        port=0,
        rest_api_port=rest_port,
        transport=transport,
        model_name=MODEL,
        model_base_path=str(base_path),
        monitoring_config_file="" if monitoring is None else str(monitoring),
        max_num_load_retries=0,
    )
