"""What the server under the soak serves, and how it is started."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .route import Route

SMALL, WIDE = "small", "wide"
"""A model of 16 floats to 10, and one whose answers are large: of 16 floats to `WIDTH`."""
WIDTH = 16_384
STREAMED = "streamed"
"""A Python model, in a worker process, that answers a request many times."""
LIMIT = 1 << 20
"""The size in bytes of the largest message that the server accepts."""

WEIGHTS = np.random.default_rng(7).standard_normal((16, 10), np.float32)

EXACT_HEAP = ("env", "GLIBC_TUNABLES=glibc.malloc.tcache_count=0")
"""Starts a program whose threads keep no freed blocks for themselves.

By default, glibc's malloc keeps up to seven freed blocks of each of 64 sizes for each thread, 0.24 MB in all, and
counts them as in use. Blocks of rare sizes are freed rarely, so this memory grew for hours.
"""

_STREAMED = """
import numpy as np

INPUTS = {"count": ("int64", [1])}
OUTPUTS = {"number": ("int64", [1])}


def stream(inputs):
    for number in range(int(inputs["count"][0])):
        yield {"number": np.array([number])}
"""


def save(folder: Path) -> None:
    """Writes the models, and the files that configure them."""
    _save(folder / SMALL, WEIGHTS)
    _save(folder / WIDE, np.ones((16, WIDTH), np.float32))
    code = folder / STREAMED / "1" / "model.py"
    code.parent.mkdir(parents=True)
    code.write_text(_STREAMED)
    configs = (
        f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}'
        for name in (SMALL, WIDE, STREAMED)
    )
    (folder / "models.config").write_text(f"model_config_list {{ {' '.join(configs)} }}")
    (folder / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')


def command(folder: Path, route: Route, port: int) -> Sequence[str]:
    """The server's command line."""
    return [
        *EXACT_HEAP,
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        f"--port={port}",
        "--transport=native",
        f"--rest_api_port={route.rest_port}",
        f"--model_config_file={folder / 'models.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        f"--grpc_channel_arguments=grpc.max_receive_message_length={LIMIT}",
        *route.flags,
    ]


def _save(base_path: Path, weights: np.ndarray) -> None:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in (("x", weights.shape[0]), ("y", weights.shape[1]))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "soak",
        values[:1],
        values[1:],
        [numpy_helper.from_array(weights, "w")],
    )
    path = base_path / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
