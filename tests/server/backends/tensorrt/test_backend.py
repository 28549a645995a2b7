"""TensorRT engines: answers equal to ONNX Runtime's, overlapping batches, graphs, and helpful errors."""

import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as Onnx

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends import auto
from headrace_server.backends.base import Backend, BackendOptions, BatchMemory, FitsBatching, OnDevices
from headrace_server.backends.independence import Finding
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.config.model_toml import SignatureOptions
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.errors import LoadError, ServingError
from headrace_server.models.rows import Loaded, decide
from headrace_server.security.models.private_files import PrivateFolder, copy_of
from tests.gpu_doubles.installed import forget_importers, install_tensorrt
from tests.gpu_doubles.machine import CudaError
from tests.gpu_doubles.plans import Plan, plan_of
from tests.support import models
from tests.support.gpu import BATCHING, REAL, Gpu

ON_CPU = BackendOptions(onnxruntime=OnnxruntimeOptions(providers=(CPU,)))
SOON = 20.0  # seconds after which a test gives up

Make = Callable[[Path], Path]


def rows(count: int, width: int = 4, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return values


def run(backend: Backend, inputs: Arrays, outputs: tuple[str, ...] | None = None) -> Arrays:
    declared = backend.signatures[DEFAULT_SIGNATURE]
    return backend.run(DEFAULT_SIGNATURE, inputs, outputs or declared.every_output)


def by_onnx_runtime(model: Path, inputs: Arrays) -> Arrays:
    backend = load_onnx(model, ON_CPU)
    try:
        return run(backend, inputs)
    finally:
        backend.close()


def assert_equal(got: Arrays, expected: Mapping[str, Array]) -> None:
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert (got[name].shape, got[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(got[name].astype(np.float64), array.astype(np.float64), rtol=1e-3, atol=1e-5)


def identity(element: int) -> Make:
    return partial(models.identity, dtype=element)


class TestAnswers:
    @pytest.mark.parametrize(
        ("make", "inputs", "dimensions"),
        [
            (models.linear, {"x": rows(3)}, {}),
            (models.two_inputs, {"a": rows(5, 2), "b": rows(5, 2, seed=1)}, {}),
            (models.wide, {"x": rows(8, 64)}, {}),
            (models.scalar_output, {"x": rows(4, 2)}, {}),
            (models.row_sums, {"x": rows(2, 7)}, {"W": (1, 4, 9)}),
            (models.positions, {"x": np.array([[0, 1, 0], [2, 0, 3]], np.float32)}, {}),
            (models.positions, {"x": np.zeros((2, 3), np.float32)}, {}),
            (models.lookup, {"index": np.array([3, 0, 9])}, {}),
            (identity(Onnx.FLOAT16), {"x": rows(2, 2).astype(np.float16)}, {}),
            (identity(Onnx.INT8), {"x": np.array([[-5, 7]], np.int8)}, {}),
            (identity(Onnx.UINT8), {"x": np.array([[5, 250]], np.uint8)}, {}),
            (identity(Onnx.INT32), {"x": np.array([[-5, 1 << 30]], np.int32)}, {}),
            (identity(Onnx.INT64), {"x": np.array([[-5, 1 << 40]])}, {}),
            (identity(Onnx.BOOL), {"x": np.array([[True, False], [False, False]])}, {}),
        ],
    )
    def test_are_those_of_onnx_runtime(
        self,
        gpu: Gpu,
        tmp_path: Path,
        make: Make,
        inputs: dict[str, Array],
        dimensions: dict[str, tuple[int, int, int]],
    ) -> None:
        expected = by_onnx_runtime(make(tmp_path / "1"), inputs)
        backend = gpu.load(tmp_path / "1", dimensions=dimensions)

        assert_equal(run(backend, inputs), expected)
        assert_equal(run(backend, inputs, (next(iter(expected)),)), dict([next(iter(expected.items()))]))
        backend.close()

    @pytest.mark.parametrize("file", ["model.plan", "model.engine"])
    def test_a_plan_runs_as_it_is(self, gpu: Gpu, tmp_path: Path, file: str) -> None:
        models.linear(tmp_path / "1")
        gpu.plan(tmp_path / "1").rename(tmp_path / "1" / file)
        backend = gpu.load(tmp_path / "1", enabled=False)

        assert backend.signatures[DEFAULT_SIGNATURE].batched
        assert_equal(run(backend, {"x": np.ones((2, 4), np.float32)}), {"y": np.full((2, 1), 4, np.float32)})
        backend.close()

    @pytest.mark.parametrize("count", range(9))
    def test_of_every_number_of_rows(self, gpu: Gpu, tmp_path: Path, count: int) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", Options(max_batch_size=8, allowed_batch_sizes=(2, 5, 8)))
        x = rows(count)

        assert_equal(run(backend, {"x": x}), {"y": x.sum(axis=1, keepdims=True)})
        backend.close()

    def test_of_fewer_rows_than_the_engine_takes(self, gpu: Gpu, tmp_path: Path) -> None:
        assert gpu.machine.devices
        model = models.linear(tmp_path / "1")
        plan = plan_of(onnx.load(model), {"x": ((4, 4), (4, 4), (8, 4))})
        (tmp_path / "1" / "model.plan").write_bytes(plan)
        backend = gpu.load(tmp_path / "1")
        for count in (0, 1, 3, 4, 7):
            x = rows(count)
            assert_equal(run(backend, {"x": x}), {"y": x.sum(axis=1, keepdims=True)})
        backend.close()

    def test_a_model_without_a_batch_axis_is_never_padded(self, gpu: Gpu, tmp_path: Path) -> None:
        assert gpu.machine.devices
        plan = plan_of(onnx.load(models.scalar_output(tmp_path / "1")), {"x": ((2, 2), (4, 2), (8, 2))})
        (tmp_path / "1" / "model.plan").write_bytes(plan)
        backend = gpu.load(tmp_path / "1")
        decide(Loaded("m", tmp_path / "1", backend, 0.0))

        assert run(backend, {"x": np.ones((2, 2), np.float32)})["total"] == 4
        error = refusal(lambda: run(backend, {"x": np.ones((1, 2), np.float32)}))
        assert error.message == "input x: dimension 0 is 1, and the engine was built for 2 to 8"
        backend.close()

    def test_an_operators_signature_renames_and_chooses(self, gpu: Gpu, tmp_path: Path) -> None:
        models.two_inputs(tmp_path / "1")
        signature = SignatureOptions(inputs={"left": "a", "right": "b"}, outputs={"less": "difference"})
        backend = auto.load(tmp_path / "1", replace(gpu.options(), signatures={"minus": signature}))
        a, b = rows(2, 2), rows(2, 2, seed=1)

        assert_equal(backend.run("minus", {"left": a, "right": b}, ("less",)), {"less": a - b})
        assert list(backend.signatures) == [DEFAULT_SIGNATURE, "minus"]
        backend.close()

    def test_inputs_of_strange_layouts(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1")
        square = rows(4)
        for x in (square.T, square[::2], np.frombuffer(square.tobytes(), np.float32).reshape(4, 4)):
            assert_equal(run(backend, {"x": x}), {"y": x.sum(axis=1, keepdims=True)})
        backend.close()

    def test_names_of_dimensions_are_the_onnx_files(self, gpu: Gpu, tmp_path: Path) -> None:
        models.row_sums(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", dimensions={"W": (1, 4, 9)})

        assert backend.signatures[DEFAULT_SIGNATURE].inputs["x"].dims == ("N", "W")
        backend.close()

    @pytest.mark.parametrize("plan", [False, True])
    @pytest.mark.parametrize("in_rows", [False, True])
    def test_a_model_whose_rows_do_not_stay_rows_is_not_batched_nor_padded(
        self, gpu: Gpu, tmp_path: Path, plan: bool, in_rows: bool
    ) -> None:
        models.positions(tmp_path / "1", in_rows=in_rows)
        if plan:
            gpu.plan(tmp_path / "1")
        backend = gpu.load(tmp_path / "1")

        verdicts = decide(Loaded("m", tmp_path / "1", backend, 0.0))
        assert verdicts[DEFAULT_SIGNATURE].finding is Finding.DEPENDENT
        assert not backend.signatures[DEFAULT_SIGNATURE].batched
        assert run(backend, {"x": np.array([[0, 0, 5]], np.float32)})["where"].ravel().tolist() == [0, 2]
        backend.close()


class TestMemory:
    def test_a_batch_in_its_own_memory_is_not_copied_again(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1")
        assert isinstance(backend, BatchMemory)
        run(backend, {"x": backend.empty((3, 4), np.dtype(np.float32))})
        before = gpu.machine.calls["pagelocked_empty"]
        for number in range(5):
            x = backend.empty((3, 4), np.dtype(np.float32))
            x[...] = number
            assert run(backend, {"x": x})["y"].tolist() == [[4 * number]] * 3
            del x

        assert gpu.machine.calls["pagelocked_empty"] == before
        backend.close()

    def test_answers_stay_as_long_as_somebody_holds_them(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", instances=1)
        answers = [run(backend, {"x": np.full((2, 4), number, np.float32)})["y"] for number in range(6)]

        assert [answer.tolist() for answer in answers] == [[[4 * number]] * 2 for number in range(6)]
        backend.close()
        assert answers[3].tolist() == [[12], [12]]
        answers.clear()

    def test_the_memory_of_a_model_is_reported_for_each_gpu(self, gpu: Gpu, tmp_path: Path) -> None:
        assert gpu.machine.devices == 2
        size = models.linear(tmp_path / "1").stat().st_size
        backend = gpu.load(tmp_path / "1", instances=3, devices=(0, 1))
        assert isinstance(backend, OnDevices)

        taken = backend.device_memory()

        # The engine, about as large as its weights, a runtime, and three contexts.
        assert {device: abs(used - size - 3 * 1024 - 1) < 64 for device, used in taken.items()} == {0: True, 1: True}
        backend.close()

    def test_device_memory_grows_as_it_must(self, gpu: Gpu, tmp_path: Path) -> None:
        models.row_sums(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", dimensions={"W": (1, 10, 100)}, instances=1)
        for width in (1, 100, 10, 50):
            x = rows(2, width)
            assert_equal(run(backend, {"x": x}), {"y": x.sum(axis=1)})
        backend.close()


class TestInstances:
    def test_many_threads_share_few_instances(self, gpu: Gpu, tmp_path: Path) -> None:
        models.wide(tmp_path / "1")
        inputs = [rows(1 + number % 8, 64, seed=number) for number in range(120)]
        reference = load_onnx(tmp_path / "1" / "model.onnx", ON_CPU)
        expected = [run(reference, {"x": x}) for x in inputs]
        backend = gpu.load(tmp_path / "1", instances=3)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda x: run(backend, {"x": x}), inputs))

        for answer, wanted in zip(answers, expected, strict=True):
            assert_equal(answer, wanted)
        del answers, answer
        backend.close()

    def test_no_more_batches_form_than_there_are_instances(self, gpu: Gpu, tmp_path: Path) -> None:
        assert gpu.machine.devices == 2
        for make in (models.linear, models.positions):
            make(tmp_path / "1")
            backend = gpu.load(tmp_path / "1", instances=3, devices=(0, 1))
            assert isinstance(backend, FitsBatching)

            assert backend.fit_batching(BATCHING).max_running_batches == 6
            backend.close()

    def test_the_batches_of_two_instances_overlap(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", instances=2)
        together = Barrier(2, timeout=SOON)  # passes only if two threads wait for streams at the same time
        gpu.machine.before_work = together.wait

        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda n: run(backend, {"x": np.full((1, 4), n, np.float32)})["y"], (1, 2)))

        assert [answer.tolist() for answer in answers] == [[[4]], [[8]]]
        gpu.machine.before_work = lambda: None
        backend.close()

    def test_every_gpu_that_is_named_runs_batches(self, gpu: Gpu, tmp_path: Path) -> None:
        together = Barrier(2, timeout=SOON)
        used: set[int] = set()
        assert gpu.machine.devices == 2
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", instances=1, devices=(0, 1))

        def note() -> None:
            used.add(gpu.machine.stack[-1].device)
            together.wait()

        gpu.machine.before_work = note
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda n: run(backend, {"x": rows(n)}), (1, 2)))

        assert used == {0, 1}
        gpu.machine.before_work = lambda: None
        backend.close()


def test_a_thread_may_stay_awake_while_the_gpu_runs_its_batch(gpu: Gpu, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    if not REAL:
        gpu.machine.may_spin = True
    backend = gpu.load(tmp_path / "1", spin=True)

    assert_equal(run(backend, {"x": rows(3)}), {"y": rows(3).sum(axis=1, keepdims=True)})
    backend.close()


class TestGraphs:
    OPTIONS = Options(max_batch_size=8, allowed_batch_sizes=(2, 4, 8))

    def test_batches_of_the_fixed_sizes_are_launched_whole(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", self.OPTIONS, cuda_graphs=True, instances=1)
        for number, count in enumerate((8, 4, 2, 8, 4, 2, 8, 4, 2, 3)):
            x = rows(count, seed=number)
            assert_equal(run(backend, {"x": x}), {"y": x.sum(axis=1, keepdims=True)})

        assert gpu.libcuda.launches == 9
        backend.close()

    def test_without_sizes_of_the_operators_there_are_powers_of_two(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", cuda_graphs=True)
        assert isinstance(backend, FitsBatching)

        assert backend.fit_batching(BATCHING).allowed_batch_sizes == (1, 2, 4, 8)
        backend.close()

    def test_memory_that_grows_makes_new_graphs(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", self.OPTIONS, cuda_graphs=True, instances=1)
        for number, count in enumerate((2, 4, 8, 2, 4, 8)):
            x = rows(count, seed=number)
            assert_equal(run(backend, {"x": x}), {"y": x.sum(axis=1, keepdims=True)})
        backend.close()

    def test_batches_that_cannot_be_captured_run_without_a_graph(
        self, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        models.positions(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", self.OPTIONS, cuda_graphs=True, instances=1)
        for _ in range(3):
            assert run(backend, {"x": np.eye(2, 3, dtype=np.float32)})["where"].tolist() == [[0, 1], [0, 1]]

        said = [line for line in caplog.messages if "CUDA graph" in line and "x [2, 3]" in line]
        assert said == ["batches like x [2, 3] run without a CUDA graph: its shapes depend on data"]
        backend.close()


def refusal(act: Callable[[], Any]) -> ServingError:
    with pytest.raises(ServingError) as raised:
        act()
    return raised.value


class TestRefusals:
    def test_more_rows_than_the_engine_takes(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1")

        error = refusal(lambda: run(backend, {"x": rows(9)}))

        assert (error.code, error.message) == (
            Code.INVALID_ARGUMENT,
            "input x: dimension 0 is 9, and the engine was built for 1 to 8",
        )
        backend.close()

    def test_batches_are_made_to_fit(self, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        models.linear(tmp_path / "1")
        gpu.plan(tmp_path / "1")
        backend = gpu.load(tmp_path / "1")
        assert isinstance(backend, FitsBatching)

        assert backend.fit_batching(Options(max_batch_size=100)).max_batch_size == 8
        assert "batches have at most 8 rows, not 100: the engine was built for no more" in caplog.messages
        backend.close()

    def test_a_dimension_outside_its_range(self, gpu: Gpu, tmp_path: Path) -> None:
        models.row_sums(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", dimensions={"W": (2, 4, 8)})

        error = refusal(lambda: run(backend, {"x": rows(1, 9)}))

        assert error.message == "input x: dimension 1 is 9, and the engine was built for 2 to 8"
        backend.close()

    def test_a_failed_copy_harms_no_other_batch(self, gpu: Gpu, tmp_path: Path) -> None:
        models.two_inputs(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", instances=1)
        for call in ("memcpy_dtoh_async", "memcpy_htod_async", "event_record", "execute_async_v3"):
            gpu.machine.failures[call] = CudaError(f"{call} failed: unspecified launch failure")
            with pytest.raises((ServingError, CudaError), match="unspecified launch failure"):
                run(backend, {"a": rows(2, 2), "b": rows(2, 2)})
            assert_equal(run(backend, {"a": rows(2, 2), "b": rows(2, 2)}, ("sum",)), {"sum": 2 * rows(2, 2)})
        backend.close()

    def test_no_memory_for_a_batch(self, gpu: Gpu, tmp_path: Path) -> None:
        models.row_sums(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", dimensions={"W": (1, 10, 1 << 20)}, instances=1)
        gpu.machine.memory = 1 << 20

        error = refusal(lambda: run(backend, {"x": np.zeros((4, 1 << 19), np.float32)}))

        assert error.code == Code.RESOURCE_EXHAUSTED
        assert "GPU 0 has no room for 8,388,608 bytes" in error.message
        assert_equal(run(backend, {"x": rows(2, 10)}), {"y": rows(2, 10).sum(axis=1)})
        backend.close()

    def test_no_memory_for_an_output_that_the_data_decide(self, gpu: Gpu, tmp_path: Path) -> None:
        models.positions(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", instances=1, dimensions={})
        run(backend, {"x": np.zeros((1, 3), np.float32)})
        gpu.machine.memory = 0

        error = refusal(lambda: run(backend, {"x": np.ones((1, 3), np.float32)}))

        assert error.code == Code.RESOURCE_EXHAUSTED
        assert "out of memory (fewer instances or a smaller max_batch_size would need less memory)" in error.message
        backend.close()

    def test_after_the_unload(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        backend = gpu.load(tmp_path / "1")
        backend.close()

        assert refusal(lambda: run(backend, {"x": rows(1)})).code == Code.UNAVAILABLE


class TestLoading:
    @pytest.mark.parametrize(
        ("changed", "code", "said"),
        [
            ({"version": "8.6.1"}, Code.FAILED_PRECONDITION, "not compatible with this version of TensorRT"),
            ({"gpu": "8.6"}, Code.FAILED_PRECONDITION, "generated on an incompatible device"),
            ({"context_bytes": 1 << 40}, Code.RESOURCE_EXHAUSTED, "no context for profile 0 on GPU 0"),
        ],
    )
    def test_a_plan_that_does_not_fit(
        self, gpu: Gpu, tmp_path: Path, changed: dict[str, Any], code: Code, said: str
    ) -> None:
        assert gpu.machine.devices
        models.linear(tmp_path / "1")
        file = gpu.plan(tmp_path / "1")
        file.write_bytes(replace(Plan.parse(file.read_bytes()), **changed).serialize())

        error = refusal(lambda: gpu.load(tmp_path / "1"))

        assert isinstance(error, LoadError)
        assert error.code == code
        assert error.message.startswith(f"{file}: ")
        assert said in error.message
        hint = "fewer instances" if code == Code.RESOURCE_EXHAUSTED else "build the plan here from its ONNX file, with"
        assert hint in error.message

    def test_a_plan_with_a_plugin_of_tensorrts_own(
        self, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert gpu.machine.devices
        models.linear(tmp_path / "1")
        file = gpu.plan(tmp_path / "1")
        install_tensorrt(monkeypatch, gpu.machine)  # a fresh TensorRT, without registered plugins
        file.write_bytes(replace(Plan.parse(file.read_bytes()), plugin="EfficientNMS_TRT").serialize())

        backend = gpu.load(tmp_path / "1")

        assert run(backend, {"x": np.ones((2, 4), np.float32)})["y"].tolist() == [[4], [4]]
        backend.close()

    def test_an_invalid_plan(self, gpu: Gpu, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "model.plan").write_bytes(b"no plan")

        assert refusal(lambda: gpu.load(tmp_path / "1")).code == Code.FAILED_PRECONDITION

    def test_a_missing_gpu(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")

        error = refusal(lambda: gpu.load(tmp_path / "1", devices=(0, 99)))

        assert error.code == Code.FAILED_PRECONDITION
        assert f"{tmp_path / '1' / 'model.onnx'}: there is no GPU 99: CUDA sees" in error.message

    def test_a_device_that_is_full(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        gpu.plan(tmp_path / "1")
        with gpu.full():
            error = refusal(lambda: gpu.load(tmp_path / "1"))

        assert error.code == Code.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("package", ["tensorrt", "pycuda"])
    @pytest.mark.parametrize("file", ["model.plan", "model.onnx"])
    def test_missing_packages(
        self, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, file: str
    ) -> None:
        model = models.linear(tmp_path / "1").rename(tmp_path / "1" / file)
        for name in [package, *(["pycuda.driver"] if package == "pycuda" else [])]:
            monkeypatch.setitem(sys.modules, name, None)
        forget_importers(monkeypatch)
        missing = ModuleNotFoundError(f"No module named {package!r}", name=package)
        monkeypatch.setattr("builtins.__import__", _importing(package, missing))

        error = refusal(lambda: gpu.load(tmp_path / "1"))

        shown = "TensorRT" if package == "tensorrt" else "pycuda"
        assert error.code == Code.FAILED_PRECONDITION
        assert error.message == f"{model} needs {shown}, which is not installed: pip install 'headrace[gpu]'"

    @pytest.mark.parametrize("package", ["tensorrt", "pycuda"])
    def test_broken_packages(self, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
        assert gpu.machine.devices
        model = models.linear(tmp_path / "1")
        for name in [package, *(["pycuda.driver"] if package == "pycuda" else [])]:
            monkeypatch.setitem(sys.modules, name, None)
        broken = ImportError("libnvinfer.so.10: cannot open shared object file", name=f"{package}_bindings.{package}")
        monkeypatch.setattr("builtins.__import__", _importing(package, broken))

        error = refusal(lambda: gpu.load(tmp_path / "1"))

        assert error.code == Code.FAILED_PRECONDITION
        assert "libnvinfer.so.10: cannot open shared object file" in error.message
        if package == "tensorrt":
            assert error.message.startswith(f"{model} needs TensorRT, which is installed but does not work: ")


def _importing(package: str, error: Exception) -> Callable[..., Any]:
    real = __import__

    def fake(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == package:
            raise error
        return real(name, *arguments, **more)

    return fake


class TestFolders:
    def test_a_plan_goes_before_the_onnx_file_unless_tensorrt_is_off(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1", bias=1)
        gpu.plan(tmp_path / "1")
        models.linear(tmp_path / "1", bias=2)
        x = np.zeros((1, 4), np.float32)

        for enabled, bias in ((True, 1), (False, 2)):
            backend = gpu.load(tmp_path / "1", enabled=enabled)
            assert run(backend, {"x": x})["y"].tolist() == [[bias]]
            backend.close()

    def test_the_second_load_finds_the_engine_built(
        self, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headrace_server")
        models.linear(tmp_path / "1")
        for _ in range(2):
            gpu.load(tmp_path / "1").close()
        gpu.load(tmp_path / "1", optimization_level=1).close()
        gpu.load(tmp_path / "1", Options(max_batch_size=4)).close()
        models.linear(tmp_path / "2", bias=1)
        gpu.load(tmp_path / "2").close()

        built = [line for line in caplog.messages if line.startswith("building an engine of")]
        assert len(built) == 4

    def test_no_engine_of_a_sealed_model_is_written(
        self, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headrace_server")
        with PrivateFolder("m", "1", is_sealed=True) as folder:
            folder.add({"model.onnx": copy_of(models.linear(tmp_path / "1"))})
            before = list(Path(gpu.options().tensorrt.cache_folder).glob("*.plan"))
            for _ in range(2):
                gpu.load(folder.version).close()
            assert list(Path(gpu.options().tensorrt.cache_folder).glob("*.plan")) == before
            folder.close()
        assert len([line for line in caplog.messages if line.startswith("building an engine of")]) == 2

    def test_an_engine_that_is_damaged_is_built_again(
        self, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        models.linear(tmp_path / "1")
        gpu.load(tmp_path / "1").close()
        (file,) = Path(gpu.options().tensorrt.cache_folder).glob("*.plan")
        whole = file.read_bytes()
        file.write_bytes(b"damaged")

        gpu.load(tmp_path / "1").close()

        assert any("is damaged and will be built again" in line for line in caplog.messages)
        assert len(file.read_bytes()) >= len(whole) // 2
