"""ONNX models on the real ONNX Runtime: dtypes, batch axis, bad files, failing runs, threads."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from headrace_batching.task import Array
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_of
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.signature import Signature
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.errors import LoadError, ServingError
from tests.support import models
from tests.support.models import Dims

DEFAULT = "serving_default"
BFLOAT16 = dtype_of(DataType.DT_BFLOAT16)

VALUES: dict[str, tuple[DataType, Array]] = {
    "FLOAT": (DataType.DT_FLOAT, np.array([[1.5, -0.0], [np.inf, 3e38]], np.float32)),
    "DOUBLE": (DataType.DT_DOUBLE, np.array([[1e300, -1.5], [np.nan, 5e-324]], np.float64)),
    "FLOAT16": (DataType.DT_HALF, np.array([[1.5, -65504], [6e-8, np.inf]], np.float16)),
    "BFLOAT16": (DataType.DT_BFLOAT16, np.array([[1.5, -3e38], [np.nan, 0]], np.float32).astype(BFLOAT16)),
    "INT8": (DataType.DT_INT8, np.array([[-128, 127], [0, 1]], np.int8)),
    "INT16": (DataType.DT_INT16, np.array([[-(2**15), 2**15 - 1], [0, 1]], np.int16)),
    "INT32": (DataType.DT_INT32, np.array([[-(2**31), 2**31 - 1], [0, 1]], np.int32)),
    "INT64": (DataType.DT_INT64, np.array([[-(2**63), 2**63 - 1], [0, 1]], np.int64)),
    "UINT8": (DataType.DT_UINT8, np.array([[255, 0], [1, 2]], np.uint8)),
    "UINT16": (DataType.DT_UINT16, np.array([[2**16 - 1, 0], [1, 2]], np.uint16)),
    "UINT32": (DataType.DT_UINT32, np.array([[2**32 - 1, 0], [1, 2]], np.uint32)),
    "UINT64": (DataType.DT_UINT64, np.array([[2**64 - 1, 0], [1, 2]], np.uint64)),
    "BOOL": (DataType.DT_BOOL, np.array([[True, False], [False, False]], np.bool_)),
}


def load(file: Path, *, threads: int = 0, **onnxruntime: Any) -> OnnxBackend:
    backend_options = BackendOptions(
        intra_op_threads=threads, inter_op_threads=threads, onnxruntime=OnnxruntimeOptions(**onnxruntime)
    )
    return load_onnx(file, backend_options)


def signature_of(file: Path) -> Signature:
    return load(file).signatures[DEFAULT]


def run(backend: OnnxBackend, x: Array) -> Array:
    return backend.run(DEFAULT, {"x": x}, ["y"])["y"]


def refusal(call: Callable[[], object]) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        call()
    return raised.value.code, raised.value.message


class TestDtypes:
    @pytest.mark.parametrize("name", VALUES)
    def test_values_come_back_bit_by_bit(self, tmp_path: Path, name: str) -> None:
        data_type, x = VALUES[name]
        backend = load(models.identity(tmp_path, TensorProto.DataType.Value(name)))
        spec = backend.signatures[DEFAULT].inputs["x"]

        y = run(backend, x)

        assert (spec.dtype, spec.array_dtype) == (data_type, x.dtype)
        assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes())

    @pytest.mark.parametrize("name", VALUES)
    def test_no_rows_in_no_rows_out(self, tmp_path: Path, name: str) -> None:
        x = VALUES[name][1][:0]
        y = run(load(models.identity(tmp_path, TensorProto.DataType.Value(name))), x)

        assert (y.dtype, y.shape) == (x.dtype, (0, 2))

    @pytest.mark.parametrize("name", ["FLOAT", "BFLOAT16"])
    def test_an_array_that_is_not_contiguous(self, tmp_path: Path, name: str) -> None:
        x = VALUES[name][1].T
        y = run(load(models.identity(tmp_path, TensorProto.DataType.Value(name))), x)

        assert y.tobytes() == x.tobytes()

    def test_strings(self, tmp_path: Path) -> None:
        backend = load(models.identity(tmp_path, TensorProto.STRING))
        x = np.array([[b"", b"a\0b"], ["h\u00e9 \U0001f30a".encode(), b"b'x'"]], object)

        assert backend.signatures[DEFAULT].inputs["x"].dtype == DataType.DT_STRING
        assert run(backend, x).tolist() == [["", "a\0b"], ["h\u00e9 \U0001f30a", "b'x'"]]
        assert run(backend, x[:0]).shape == (0, 2)

    def test_a_string_that_is_not_utf_8_is_refused_with_the_inputs_name(self, tmp_path: Path) -> None:
        backend = load(models.identity(tmp_path, TensorProto.STRING))
        code, text = refusal(lambda: run(backend, np.array([[b"good", b"\xff\x00"]], object)))

        assert code == Code.INVALID_ARGUMENT
        assert text.startswith("input x holds a string that is not UTF-8: ")

    def test_the_callers_arrays_stay_as_they_are(self, tmp_path: Path) -> None:
        x = np.array([[b"one", b"two"]], object)
        run(load(models.identity(tmp_path, TensorProto.STRING)), x)

        assert x.tolist() == [[b"one", b"two"]]

    def test_a_model_without_tensor_outputs_is_not_loaded(self, tmp_path: Path) -> None:
        file = models.sequence_output(tmp_path)

        assert refusal(lambda: load(file)) == (
            Code.INVALID_ARGUMENT,
            f"{file}: 'y' is a seq(tensor(float)), which a tensor cannot contain",
        )


class TestSignature:
    @pytest.mark.parametrize(
        ("dims", "batched"),
        [(("N", 2), True), ((None, 2), True), (("N",), True), ((3, 2), False), ((1, "N"), False), ((), False)],
    )
    def test_a_model_may_be_batched_if_the_first_dimension_varies(
        self, tmp_path: Path, dims: Dims, batched: bool
    ) -> None:
        assert signature_of(models.identity(tmp_path, dims=dims)).batched is batched

    @pytest.mark.parametrize(("right", "batched"), [(("N", 2), True), (("M", 2), True), ((1, 2), False), ((), False)])
    def test_a_model_may_be_batched_if_the_first_dimensions_of_all_inputs_vary(
        self, tmp_path: Path, right: Dims, batched: bool
    ) -> None:
        assert signature_of(models.two_inputs(tmp_path, ("N", 2), right)).batched is batched

    def test_a_model_without_inputs_has_nothing_to_batch(self, tmp_path: Path) -> None:
        backend = load(models.no_inputs(tmp_path))

        assert not backend.signatures[DEFAULT].batched
        assert backend.run(DEFAULT, {}, ["y"])["y"].tolist() == [0, 1, 2]

    def test_names_sizes_and_names_of_dimensions_are_the_models(self, tmp_path: Path) -> None:
        signature = signature_of(models.two_inputs(tmp_path, ("N", 2, None), ("N", 2, "W")))

        assert list(signature.inputs) == ["a", "b"]
        assert list(signature.outputs) == ["sum", "difference"]
        assert signature.inputs["b"].name == "b"
        assert signature.inputs["b"].shape == (None, 2, None)
        assert signature.inputs["b"].dims == ("N", "", "W")

    def test_a_rank_that_is_not_declared_is_left_to_the_runtime(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path)
        model = onnx.load(file)
        model.graph.input[0].type.tensor_type.ClearField("shape")
        onnx.save_model(model, file)
        backend, x = load(file), np.ones((2, 4), np.float32)

        backend.signatures[DEFAULT].check_arrays({"x": x})

        assert run(backend, x).tolist() == [[4], [4]]

    def test_onnx_runtime_refuses_inputs_that_do_not_fit_with_the_same_text(self, tmp_path: Path) -> None:
        backend = load(models.identity(tmp_path, dims=("N", 2, 3)))
        check = backend.signatures[DEFAULT].check_arrays
        for shape in ((2,), (1, 2), (1, 2, 3, 4), (1, 5, 3), (1, 5, 6)):
            x = np.zeros(shape, np.float32)
            misfit = check({"x": x})
            code, text = refusal(lambda x=x: run(backend, x))  # type: ignore[misc]

            assert code == Code.INVALID_ARGUMENT
            assert misfit
            assert misfit.replace("; ", " ") in " ".join(text.split())


class TestRun:
    def test_only_the_requested_outputs_under_their_names(self, tmp_path: Path) -> None:
        backend = load(models.two_inputs(tmp_path))
        inputs = {"b": np.full((1, 2), 2, np.float32), "a": np.full((1, 2), 5, np.float32)}

        assert backend.run(DEFAULT, inputs, ["difference"]).keys() == {"difference"}
        both = backend.run(DEFAULT, inputs, ["difference", "sum"])
        assert {alias: array.tolist() for alias, array in both.items()} == {"difference": [[3, 3]], "sum": [[7, 7]]}

    def test_outputs_are_the_runtimes_memory_and_not_a_copy(self, tmp_path: Path) -> None:
        y = run(load(models.identity(tmp_path)), np.ones((3, 2), np.float32))

        assert not y.flags.owndata
        assert type(y.base).__name__ in {"PyCapsule", "memoryview"}  # of onnxruntime, and of headrace_native
        assert y.flags.c_contiguous

    @pytest.mark.parametrize("name", ["FLOAT", "BFLOAT16"])
    def test_outputs_outlive_the_next_run_and_the_model(self, tmp_path: Path, name: str) -> None:
        x = VALUES[name][1]
        backend = load(models.identity(tmp_path, TensorProto.DataType.Value(name)))
        y = run(backend, x)
        other = run(backend, np.zeros_like(x))
        backend.close()
        del backend
        gc.collect()

        assert y.tobytes() == x.tobytes()
        assert other.tobytes() == bytes(x.nbytes)

    def test_a_failure_carries_the_runtimes_code_and_text(self, tmp_path: Path) -> None:
        backend = load(models.lookup(tmp_path))

        assert refusal(lambda: backend.run(DEFAULT, {"index": np.array([3, 11])}, ["y"])) == (
            Code.INVALID_ARGUMENT,
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather node. "
            "Name:'lookup' Status Message: indices element out of data bounds, idx=11 must be within the inclusive "
            "range [-10,9]",
        )
        assert backend.run(DEFAULT, {"index": np.array([3, 9])}, ["y"])["y"].tolist() == [30, 90]

    def test_a_failure_without_a_code_is_internal(self, tmp_path: Path) -> None:
        backend = load(models.linear(tmp_path))
        code, text = refusal(lambda: backend.run(DEFAULT, {}, ["y"]))

        assert code == Code.INTERNAL
        assert "x" in text

    def test_several_threads_at_once(self, tmp_path: Path) -> None:
        backend = load(models.linear(tmp_path, columns=8))

        def sums(number: int) -> bool:
            x = np.full((number % 5 + 1, 8), number, np.float32)
            return np.array_equal(run(backend, x), np.full((len(x), 1), 8 * number))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(sums, range(400)))

    def test_a_closed_model_is_unavailable(self, tmp_path: Path) -> None:
        backend = load(models.identity(tmp_path))
        backend.close()

        assert refusal(lambda: run(backend, np.ones((1, 2), np.float32))) == (
            Code.UNAVAILABLE,
            "the model has been unloaded",
        )


def test_a_lack_of_memory_is_reported_as_such(tmp_path: Path) -> None:
    backend = load(models.filled(tmp_path))
    code, text = refusal(lambda: run(backend, np.array([1 << 45], np.int64)))

    assert (code, "Failed to allocate memory" in text) == (Code.RESOURCE_EXHAUSTED, True)
    assert run(backend, np.array([2], np.int64)).tolist() == [0, 0]


class TestLoad:
    def test_weights_in_a_file_of_their_own(self, tmp_path: Path) -> None:
        backend = load(models.external_data(tmp_path, columns=512))

        assert run(backend, np.ones((1, 512), np.float32)).tolist() == [[512]]

    def test_missing_weights(self, tmp_path: Path) -> None:
        file = models.external_data(tmp_path)
        (tmp_path / models.WEIGHTS_FILE).unlink()

        assert models.WEIGHTS_FILE in failure_of(file)

    def test_weights_that_are_too_short(self, tmp_path: Path) -> None:
        file = models.external_data(tmp_path)
        (tmp_path / models.WEIGHTS_FILE).write_bytes(b"\0" * 5)

        assert "out of bounds" in failure_of(file)

    @pytest.mark.parametrize("content", [b"", b"no model at all", b"\0" * 4096])
    def test_a_file_that_is_not_a_model(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / models.FILE
        file.write_bytes(content)

        assert failure_of(file, Code.INVALID_ARGUMENT)

    def test_a_file_cut_anywhere(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path)
        whole = file.read_bytes()
        for length in range(1, len(whole), 7):
            file.write_bytes(whole[:length])
            failure_of(file, Code.INVALID_ARGUMENT)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        failure_of(tmp_path / models.FILE, Code.NOT_FOUND)

    def test_a_folder(self, tmp_path: Path) -> None:
        failure_of(tmp_path)

    def test_a_provider_that_this_runtime_lacks(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path)
        with pytest.raises(LoadError) as raised:
            load(file, providers=("QuantumExecutionProvider", "CPUExecutionProvider"))

        assert (raised.value.code, raised.value.message) == (
            Code.FAILED_PRECONDITION,
            f"{file}: onnxruntime_providers: this ONNX Runtime has no QuantumExecutionProvider; it has "
            + ", ".join(ort.get_available_providers()),
        )

    @pytest.mark.parametrize("options", [{"threads": 1}, {"cpu_memory_arena": False}])
    def test_options_of_the_runtime(self, tmp_path: Path, options: dict[str, Any]) -> None:
        assert run(load(models.linear(tmp_path), **options), np.ones((1, 4), np.float32)).tolist() == [[4]]


def failure_of(file: Path, code: Code | None = None) -> str:
    """The text of a LoadError, which must name the file."""
    with pytest.raises(LoadError) as raised:
        load(file)
    assert raised.value.message.startswith((f"{file} cannot be loaded: ", f"{file}: "))
    assert code is None or raised.value.code == code
    return raised.value.message
