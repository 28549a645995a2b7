"""Sessions of headrace_native describe models, compute outputs and refuse inputs as sessions of `onnxruntime` do."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from headrace_batching.task import Arrays
from headrace_server.backends.onnx.native_session import NativeSession, open_native, run_options
from tests.support import models

pytest.importorskip("headrace_native")

DTYPES = {
    name: (getattr(TensorProto, name.upper()), dtype)
    for name, dtype in {
        "float": np.float32,
        "double": np.float64,
        "float16": np.float16,
        "int8": np.int8,
        "int16": np.int16,
        "int32": np.int32,
        "int64": np.int64,
        "uint8": np.uint8,
        "uint16": np.uint16,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "bool": np.bool_,
    }.items()
}

X = np.ones((2, 4), np.float32)


def both(file: Path) -> tuple[NativeSession, ort.InferenceSession]:
    native = open_native(str(file), ort.SessionOptions())
    assert native is not None
    return native, ort.InferenceSession(file)


def described(session: Any) -> list[list[tuple[str, str, list[object]]]]:
    sides = (session.get_inputs(), session.get_outputs(), session.get_overridable_initializers())
    return [[(each.name, each.type, list(each.shape)) for each in side] for side in sides]


@pytest.mark.parametrize(
    "make",
    [models.linear, models.two_inputs, models.scalar_output, models.positions, models.lookup, models.row_sums],
)
def test_declares_the_same_tensors(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    native, other = both(make(tmp_path))
    assert described(native) == described(other)
    assert native.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2), (0, 2)])
def test_every_dtype_keeps_its_bits(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    onnx_type, dtype = DTYPES[name]
    native, other = both(models.identity(tmp_path, onnx_type))
    x = np.frombuffer(np.random.default_rng(5).bytes(64), np.uint8)[: 6 * np.dtype(dtype).itemsize]
    x = (x & 1 if name == "bool" else x).view(dtype).reshape(3, 2)[: shape[0]]

    (mine,), (theirs,) = (session.run(["y"], {"x": x}) for session in (native, other))

    assert (mine.dtype, mine.shape, mine.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def test_scalars_and_arrays_that_are_not_contiguous(tmp_path: Path) -> None:
    native, other = both(models.scalar_output(tmp_path / "scalar"))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2]
    for mine, theirs in zip(native.run(None, {"x": x}), other.run(None, {"x": x}), strict=True):
        assert (mine.shape, mine.tolist()) == (theirs.shape, theirs.tolist())
    native, _ = both(models.identity(tmp_path / "of a scalar", dims=()))
    (y,) = native.run(["y"], {"x": np.array(3, np.float32)})
    assert (y.shape, y.item()) == ((), 3)


def test_outputs_may_be_changed_and_outlive_the_session(tmp_path: Path) -> None:
    native, _ = both(models.linear(tmp_path))
    (y,) = native.run(["y"], {"x": X})
    del native
    y += 1
    assert y.tolist() == [[5], [5]]


def test_a_model_may_be_given_as_bytes(tmp_path: Path) -> None:
    native = open_native(models.linear(tmp_path).read_bytes(), ort.SessionOptions())
    assert native is not None
    assert native.run(["y"], {"x": X})[0].tolist() == [[4], [4]]


def test_uses_the_options_and_their_initializers(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.add_initializer("weights", weights := ort.OrtValue.ortvalue_from_numpy(np.full((4, 1), 2, np.float32)))

    native = open_native(str(models.linear(tmp_path)), options)

    assert native is not None
    assert not native.get_session_options().enable_cpu_mem_arena
    assert native.run(["y"], {"x": X})[0].tolist() == [[8], [8]]
    del weights


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (models.linear, {"x": np.ones((2, 3), np.float32)}),
        (models.linear, {"x": np.ones(2, np.float32)}),
        (models.linear, {"x": np.ones((2, 4))}),
        (models.lookup, {"index": np.array([99])}),
    ],
)
def test_says_the_same_about_a_run_that_fails(tmp_path: Path, make: Callable[[Path], Path], inputs: Arrays) -> None:
    texts = []
    for session in both(make(tmp_path)):
        with pytest.raises(Exception, match="ONNXRuntimeError") as raised:
            session.run(["y"], inputs)
        texts.append(str(raised.value))
    assert texts[0] == texts[1]


def test_a_run_may_be_ended(tmp_path: Path) -> None:
    native, _ = both(models.linear(tmp_path))
    options = run_options(native)
    options.terminate, options.log_severity_level = True, 4
    with pytest.raises(RuntimeError, match="terminate flag"):
        native.run(["y"], {"x": X}, options)
    options.terminate = False
    assert native.run(["y"], {"x": X}, options)[0].tolist() == [[4], [4]]


@pytest.mark.parametrize(
    "make",
    [
        models.broken,
        partial(models.identity, dtype=TensorProto.STRING),
        partial(models.identity, dtype=TensorProto.BFLOAT16),
    ],
)
def test_leaves_other_models_to_onnxruntime(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert open_native(str(make(tmp_path / "1")), ort.SessionOptions()) is None


def test_initializers_that_a_request_may_replace(tmp_path: Path) -> None:
    file = models.linear(tmp_path)
    model = onnx.load(file)
    model.graph.input.append(onnx.helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1]))
    onnx.save_model(model, file)
    native, other = both(file)
    assert described(native) == described(other)
    replaced = {"x": X, "bias": np.full(1, 2, np.float32)}
    assert native.run(["y"], replaced)[0].tolist() == other.run(["y"], replaced)[0].tolist() == [[6], [6]]


def test_leaves_a_model_whose_output_is_an_input_to_onnxruntime() -> None:
    """The output would be in the input's memory, which is freed or used again after the run."""
    x = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    graph = onnx.helper.make_graph([], "graph", [x], [x])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    assert open_native(model.SerializeToString(), ort.SessionOptions()) is None
