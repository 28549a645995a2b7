"""Bound runs: on a machine double that checks CUDA's rules, and in the real ONNX Runtime, bound to host memory."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from headrace_protos import Code
from headrace_server.backends.gpu.cuda import Device, PageLockedPool
from headrace_server.backends.onnx.binding import BoundSession, Slots
from headrace_server.errors import ServingError
from tests.gpu_doubles.host_device import HostDevice
from tests.gpu_doubles.installed import install_cuda
from tests.gpu_doubles.machine import Complaint, CudaError, Machine
from tests.gpu_doubles.onnxruntime_gpu import GpuSession
from tests.server.backends.real_gpu import REAL, skip_without_cuda
from tests.support import models

CPU = ["CPUExecutionProvider"]


class OnMachine:
    """Bound sessions on a `Machine`; at the end, the machine must have no memory in use and no complaints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine(devices=2, memory=1 << 20)
        install_cuda(monkeypatch, self.machine)
        self.device: Any = Device(1)
        self.pool = PageLockedPool(self.device)
        self.slots = Slots(self.device, 2)

    def bind(self, model: Path, **more: Any) -> BoundSession:
        return BoundSession(GpuSession(self.machine, model, 1, **more), self.slots, self.pool)

    def close(self) -> None:
        self.slots.close()
        self.pool.close()
        self.device.release()
        gc.collect()
        self.machine.check_nothing_left()
        assert self.machine.complaints == []


class OnHost:
    """Bound sessions of the real ONNX Runtime, on host memory that is declared as a device's."""

    def __init__(self) -> None:
        self.device = cast("Any", HostDevice())
        self.pool = PageLockedPool(self.device)
        self.slots = Slots(self.device, 2)

    def bind(self, model: Path) -> BoundSession:
        session = ort.InferenceSession(model, providers=CPU)
        return BoundSession(session, self.slots, self.pool, kind="cpu")

    def close(self) -> None:
        self.slots.close()
        self.pool.close()
        self.device.release()
        gc.collect()
        assert (self.device.live, self.device.users) == (0, 0)


class OnGpu:
    """Bound sessions on this machine's GPU."""

    def __init__(self) -> None:
        self.device: Any = Device(0)
        self.pool = PageLockedPool(self.device)
        self.slots = Slots(self.device, 2)

    def bind(self, model: Path) -> BoundSession:
        session = ort.InferenceSession(model, providers=["CUDAExecutionProvider"], enable_fallback=0)
        return BoundSession(session, self.slots, self.pool)

    def close(self) -> None:
        self.slots.close()
        self.pool.close()
        self.device.release()
        gc.collect()
        assert self.pool.held == 0


Place = OnMachine | OnHost | OnGpu


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnMachine]:
    place = OnMachine(monkeypatch)
    yield place
    place.close()


@pytest.fixture(params=["gpu" if REAL else "machine", "host"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Each place in turn; if HEADRACE_TEST_GPU is set, this machine's GPU replaces the double."""
    place = _place(request.param, monkeypatch)
    yield place
    place.close()


def _place(name: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    match name:
        case "machine":
            return OnMachine(monkeypatch)
        case "host":
            return OnHost()
    skip_without_cuda()
    return OnGpu()


class TestAnswers:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
    @pytest.mark.parametrize("rows", [0, 3])
    def test_of_every_type(self, place: Place, tmp_path: Path, dtype: str, rows: int) -> None:
        numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        kind = {"float32": "FLOAT"}.get(dtype, dtype.upper())
        x = np.array([[1, 0], [0, 1], [1, 1]], numpy_dtype)[:rows]
        (y,) = place.bind(models.identity(tmp_path, TensorProto.DataType.Value(kind))).run(["y"], {"x": x})

        assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes())
        assert place.pool.owns(y) or not rows

    def test_of_several_inputs_and_only_the_requested_outputs(self, place: Place, tmp_path: Path) -> None:
        a, b = np.ones((2, 2), np.float32), np.full((2, 2), 3, np.float32)
        bound = place.bind(models.two_inputs(tmp_path))
        difference, total = bound.run(["difference", "sum"], {"b": b, "a": a})

        assert (difference.tolist(), total.tolist()) == ([[-2, -2]] * 2, [[4, 4]] * 2)
        assert [y.tolist() for y in bound.run(["sum"], {"a": a, "b": a})] == [[[2, 2]] * 2]

    def test_whose_shape_the_data_decides(self, place: Place, tmp_path: Path) -> None:
        bound = place.bind(models.kept(tmp_path))
        x = np.array([[1, 2], [-1, 2], [3, 4]], np.float32)

        assert bound.run(["y"], {"x": x})[0].tolist() == [[1, 2], [3, 4]]
        assert bound.run(["y"], {"x": -np.abs(x)})[0].shape == (0, 2)

    def test_to_batches_that_grow_and_shrink(self, place: Place, tmp_path: Path) -> None:
        bound = place.bind(models.linear(tmp_path))
        for rows in (1, 7, 3, 64, 2):
            x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
            assert bound.run(["y"], {"x": x})[0].tolist() == x.sum(axis=1, keepdims=True).tolist()

    def test_of_an_array_that_is_not_contiguous(self, place: Place, tmp_path: Path) -> None:
        x = np.arange(8, dtype=np.float32).reshape(4, 2).T

        assert place.bind(models.linear(tmp_path)).run(["y"], {"x": x})[0].tolist() == [[12], [16]]

    def test_to_many_threads_at_once(self, place: Place, tmp_path: Path) -> None:
        bound = place.bind(models.linear(tmp_path))

        def ask(number: int) -> bool:
            x = np.full((1 + number % 5, 4), number, np.float32)
            return bool((bound.run(["y"], {"x": x})[0] == 4 * number).all())

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(ask, range(60)))

    def test_stay_as_they_are_while_others_are_computed(self, place: Place, tmp_path: Path) -> None:
        bound = place.bind(models.linear(tmp_path))
        first, second = (bound.run(["y"], {"x": np.full((1, 4), value, np.float32)})[0] for value in (1, 2))

        assert (first.tolist(), second.tolist()) == ([[4]], [[8]])


class TestCopies:
    def test_are_one_there_and_one_back_from_where_the_batch_was_joined(
        self, on_machine: OnMachine, tmp_path: Path
    ) -> None:
        bound = on_machine.bind(models.linear(tmp_path))
        x = on_machine.pool.empty((2, 4), np.dtype(np.float32))
        x[:] = 1
        before = on_machine.machine.calls.get("pagelocked_empty", 0)
        outputs = bound.run(["y"], {"x": x})

        calls = on_machine.machine.calls
        assert (calls["memcpy_htod_async"], calls["memcpy_dtoh_async"]) == (1, 1)
        assert calls["pagelocked_empty"] == before + len(outputs)

    def test_are_not_made_of_what_the_cpu_takes_and_gives(self, on_machine: OnMachine, tmp_path: Path) -> None:
        bound = on_machine.bind(models.two_inputs(tmp_path), on_cpu=["b", "sum"])
        ones = np.ones((1, 2), np.float32)
        total, difference = bound.run(["sum", "difference"], {"a": ones, "b": ones})

        assert (total.tolist(), difference.tolist()) == ([[2, 2]], [[0, 0]])
        calls = on_machine.machine.calls
        assert (calls["memcpy_htod_async"], calls["memcpy_dtoh_async"]) == (1, 1)

    def test_go_to_memory_that_is_kept(self, on_machine: OnMachine, tmp_path: Path) -> None:
        bound = on_machine.bind(models.linear(tmp_path))
        x = np.ones((8, 4), np.float32)
        bound.run(["y"], {"x": x})
        calls = dict(on_machine.machine.calls)
        for rows in (8, 3, 1):
            bound.run(["y"], {"x": x[:rows]})

        again = on_machine.machine.calls
        assert [again[call] - calls[call] for call in ("mem_alloc", "Stream", "Event")] == [0, 0, 0]


class TestFailures:
    def test_of_a_run_leave_the_next_one_alone(self, on_machine: OnMachine, tmp_path: Path) -> None:
        bound = on_machine.bind(models.lookup(tmp_path))
        with pytest.raises(Exception, match="indices element out of data bounds"):
            bound.run(["y"], {"index": np.array([99])})

        assert bound.run(["y"], {"index": np.array([3])})[0].tolist() == [30]

    def test_for_lack_of_memory_are_reported_as_such(self, on_machine: OnMachine, tmp_path: Path) -> None:
        bound = on_machine.bind(models.linear(tmp_path))
        with pytest.raises(ServingError) as raised:
            bound.run(["y"], {"x": np.ones((1 << 16, 4), np.float32)})

        assert raised.value.code == Code.RESOURCE_EXHAUSTED
        del raised
        assert bound.run(["y"], {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[4]]

    @pytest.mark.parametrize("call", ["memcpy_htod_async", "event_record", "event_synchronize", "memcpy_dtoh_async"])
    def test_of_every_call_leave_nothing_behind(self, on_machine: OnMachine, tmp_path: Path, call: str) -> None:
        bound = on_machine.bind(models.two_inputs(tmp_path))
        ones = np.ones((2, 2), np.float32)
        on_machine.machine.failures[call] = CudaError("an illegal memory access was encountered")
        with pytest.raises(ServingError, match="GPU 1: an illegal memory access") as raised:
            bound.run(["sum"], {"a": ones, "b": ones})

        assert raised.value.code == Code.INTERNAL
        del raised
        assert bound.run(["sum"], {"a": ones, "b": ones})[0].tolist() == [[2, 2]] * 2


class TestTheDoubleComplains:
    """Breaks each rule on purpose."""

    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> Machine:
        machine = Machine(devices=2)
        install_cuda(monkeypatch, machine)
        return machine

    def test_of_a_run_before_the_copy_has_ended(self, machine: Machine, tmp_path: Path) -> None:
        session = GpuSession(machine, models.linear(tmp_path))
        device = Device(0)
        pool = PageLockedPool(device)
        with device:
            stream, memory = device.stream(), device.allocate(16)
            device.copy_in(int(memory), pool.page_locked(np.ones((1, 4), np.float32)), stream)
            binding = self.bound(session, int(memory))
            with pytest.raises(Complaint, match="the copy of an input has not ended"):
                session.run_with_iobinding(binding)
            device.settle(stream)
            memory.free()
            with pytest.raises(Complaint, match="an input's memory has been freed"):
                session.run_with_iobinding(binding)
            del stream

    def test_of_memory_that_is_not_the_devices(self, machine: Machine, tmp_path: Path) -> None:
        session = GpuSession(machine, models.linear(tmp_path))
        x, other = np.ones((1, 4), np.float32), Device(1)
        with pytest.raises(Complaint, match="not in one allocation"):
            self.bound(session, x.ctypes.data)
        with other:
            memory = other.allocate(16)
        with pytest.raises(Complaint, match="the memory is of GPU 1"):
            self.bound(session, int(memory))
        with pytest.raises(Complaint, match="cpu 0 is not the session's device"):
            session.io_binding().bind_input("x", "cpu", 0, np.dtype(np.float32), (1, 4), int(memory))
        with pytest.raises(Complaint, match="bind_output: cuda 1 is not the session's device"):
            session.io_binding().bind_output("y", "cuda", 1)

    def test_of_names_and_types_that_are_not_the_models(self, machine: Machine, tmp_path: Path) -> None:
        session = GpuSession(machine, models.linear(tmp_path), on_cpu=["x"])
        with pytest.raises(Complaint, match="z is none of x"):
            session.io_binding().bind_input("z", "cuda", 0, np.dtype(np.float32), (1, 4), 0)
        with pytest.raises(Complaint, match="z is none of y"):
            session.io_binding().bind_output("z", "cuda", 0)
        with pytest.raises(Complaint, match="x is read on the CPU"):
            self.bound(session, 0)
        with pytest.raises(Complaint, match="x is not bound"):
            session.run_with_iobinding(session.io_binding())
        session.on_cpu = ()
        with pytest.raises(Complaint, match="x is float32, not float64"):
            session.io_binding().bind_input("x", "cuda", 0, np.dtype(np.float64), (1, 4), 0)

    def test_of_device_outputs_that_are_read_on_the_host(self, machine: Machine, tmp_path: Path) -> None:
        session = GpuSession(machine, models.linear(tmp_path), on_cpu=["x"])
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32)))
        binding.bind_output("y", "cuda", 0)
        session.run_with_iobinding(binding)
        with pytest.raises(Complaint, match="the memory is a device's"):
            binding.get_outputs()[0].numpy()

    def bound(self, session: GpuSession, address: int) -> Any:
        binding = session.io_binding()
        binding.bind_input("x", "cuda", 0, np.dtype(np.float32), (1, 4), address)
        binding.bind_output("y", "cuda", 0)
        return binding
