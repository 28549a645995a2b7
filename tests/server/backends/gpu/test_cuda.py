"""The CUDA calls that headrace makes, on the double: they work, and the double complains about every broken rule."""

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.backends.gpu.cuda import Device, PageLockedPool
from headrace_server.errors import LoadError, ServingError
from tests.gpu_doubles.installed import install_cuda
from tests.gpu_doubles.machine import Complaint, CudaError, CudaMemoryError, Machine

FLOAT = np.dtype(np.float32)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(devices=2, memory=1 << 20)
    install_cuda(monkeypatch, machine)
    return machine


@pytest.fixture
def device(machine: Machine) -> Iterator[Device]:
    assert machine.devices
    device = Device(0)
    yield device
    device.release()


@pytest.fixture
def pool(device: Device) -> Iterator[PageLockedPool]:
    pool = PageLockedPool(device)
    yield pool
    pool.close()


def in_thread(act: Callable[[], Any]) -> None:
    """Calls a function on another thread, and raises its exception on this one."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def complains(of: str) -> Any:
    return pytest.raises(Complaint, match=of)


def page_locked(pool: PageLockedPool, *values: float) -> Array:
    array = pool.empty((len(values),), FLOAT)
    array[:] = values
    return array


class TestDevice:
    @pytest.mark.parametrize("dtype", [np.float32, np.bool_, ml_dtypes.bfloat16])
    def test_a_batch_there_and_back(self, machine: Machine, dtype: type) -> None:
        device = Device(0)
        pool = PageLockedPool(device)
        values: Array = np.array([1, 0, 1], dtype)
        source, target = pool.page_locked(values), pool.empty((3,), np.dtype(dtype))
        with device:
            stream, event, memory = device.stream(), device.event(), device.allocate(source.nbytes)
            device.copy_in(int(memory), source, stream)
            device.copy_out(target, int(memory), stream)
            assert target.tobytes() != values.tobytes()  # nothing has been executed yet
            device.record(event, stream)
            device.wait(event)
            memory.free()
            del stream, event

        assert target.tobytes() == values.tobytes()
        del source, target
        pool.close()
        device.release()
        machine.check_nothing_left()

    @pytest.mark.usefixtures("machine")
    def test_a_missing_device(self) -> None:
        with pytest.raises(LoadError, match="there is no GPU 2: CUDA sees 2") as raised:
            Device(2)
        assert raised.value.code == Code.FAILED_PRECONDITION

    def test_no_gpu_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install_cuda(monkeypatch, Machine(devices=0))

        with pytest.raises(LoadError, match="there is no GPU here: cuInit failed") as raised:
            Device(0)
        assert raised.value.code == Code.FAILED_PRECONDITION

    def test_the_context_is_given_back_whichever_thread_is_the_last(self, machine: Machine) -> None:
        device = Device(1)
        device.retain()
        in_thread(device.release)
        assert machine.retained == [0, 1]
        in_thread(device.release)

        machine.check_nothing_left()

    def test_contexts_nest(self, machine: Machine, device: Device) -> None:
        other = Device(1)
        with device, other:
            assert [context.device for context in machine.stack] == [0, 1]
        assert machine.stack == []
        other.release()

    def test_no_memory_left(self, device: Device) -> None:
        with device, pytest.raises(ServingError, match="GPU 0 has no room for 2,097,152 bytes") as raised:
            device.allocate(2 << 20)
        assert raised.value.code == Code.RESOURCE_EXHAUSTED

    def test_other_failures(self, machine: Machine, device: Device, pool: PageLockedPool) -> None:
        machine.failures["memcpy_htod_async"] = CudaError("cuMemcpyHtoDAsync failed: an illegal memory access")
        array = page_locked(pool, 1)
        with device:
            stream, memory = device.stream(), device.allocate(4)
            with pytest.raises(ServingError, match="GPU 0: cuMemcpyHtoDAsync failed: an illegal") as raised:
                device.copy_in(int(memory), array, stream)
            memory.free()
            del stream
        assert raised.value.code == Code.INTERNAL


class TestPageLocked:
    def test_only_arrays_that_are_not_page_locked_are_copied(self, pool: PageLockedPool) -> None:
        own, foreign = page_locked(pool, 1, 2), np.array([[1, 2], [3, 4]], np.float32).T

        assert pool.page_locked(own) is own
        copy = pool.page_locked(foreign)
        assert pool.owns(copy)
        assert copy.flags.c_contiguous
        assert copy.tolist() == foreign.tolist()

    def test_answers_that_outlive_the_model_keep_its_context(self, machine: Machine) -> None:
        device = Device(0)
        pool = PageLockedPool(device)
        answer = page_locked(pool, 1, 2, 3)
        pool.close()
        device.release()
        assert machine.retained == [1, 0]
        assert answer.tolist() == [1, 2, 3]

        def drop() -> None:
            nonlocal answer
            del answer

        in_thread(drop)

        machine.check_nothing_left()

    def test_no_memory_left(self, machine: Machine, pool: PageLockedPool) -> None:
        machine.failures["pagelocked_empty"] = CudaMemoryError("cuMemHostAlloc failed: out of memory")

        with pytest.raises(ServingError, match="no room for 4,096 bytes of page-locked memory") as raised:
            pool.empty((8,), FLOAT)
        assert raised.value.code == Code.RESOURCE_EXHAUSTED


class TestRules:
    """Breaks each rule on purpose."""

    def test_a_call_from_a_thread_without_the_context(self, device: Device) -> None:
        with complains("mem_alloc: this thread has no context"):
            device.allocate(8)

    def test_a_call_from_a_thread_other_than_the_contexts(self, device: Device) -> None:
        with device, complains("Stream: this thread has no context"):
            in_thread(device.stream)

    def test_popping_too_often(self, device: Device) -> None:
        with complains("pop: this thread has no context"):
            device.__exit__()

    def test_a_context_that_is_given_back_twice(self, device: Device) -> None:
        context = device._context
        with complains("detach: twice"):
            context.push()
            try:
                context.detach()
                context.detach()
            finally:
                context.pop()
                context.valid = True
                device._driver.machine.retained[0] += 1

    @pytest.mark.usefixtures("machine")
    def test_a_call_in_a_context_that_has_been_given_back(self) -> None:
        device = Device(1)
        with device, complains("mem_alloc: the context of this thread has been given back"):
            device.release()
            device.allocate(8)

    @pytest.mark.parametrize("way", ["in", "out"])
    def test_memory_that_is_not_page_locked(self, device: Device, way: str) -> None:
        with device:
            stream, memory, array = device.stream(), device.allocate(8), np.zeros(2, np.float32)
            with complains("the array is not in page-locked memory"):
                if way == "in":
                    device.copy_in(int(memory), array, stream)
                else:
                    device.copy_out(array, int(memory), stream)
            memory.free()
            del stream

    def test_page_locked_memory_that_is_reused_before_its_event(self, device: Device, pool: PageLockedPool) -> None:
        array = page_locked(pool, 1, 2)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            device.copy_in(int(memory), array, stream)
            del array
            again = page_locked(pool, 3, 4)
            with complains("memcpy_htod_async: the memory was used for something else before its event"):
                stream.synchronize()
            memory.free()
            del stream
        assert again.tolist() == [3, 4]

    def test_an_answers_memory_that_is_reused_before_its_event(self, device: Device, pool: PageLockedPool) -> None:
        with device:
            stream, memory = device.stream(), device.allocate(8)
            device.copy_out(pool.empty((2,), FLOAT), int(memory), stream)
            again = page_locked(pool, 3, 4)
            with complains("memcpy_dtoh_async: the memory was used for something else before its event"):
                stream.synchronize()
            memory.free()
            del stream
        assert again.tolist() == [3, 4]

    def test_page_locked_memory_that_is_freed_before_its_event(self, device: Device, pool: PageLockedPool) -> None:
        array = page_locked(pool, 1, 2)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            device.copy_in(int(memory), array, stream)
            del array
            with complains("memory is freed before the work that uses it has ended"):
                pool.trim()
            stream.synchronize()
            memory.free()
            del stream

    def test_device_memory_that_is_freed_before_its_event(self, device: Device, pool: PageLockedPool) -> None:
        array = page_locked(pool, 1, 2)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            device.copy_in(int(memory), array, stream)
            with complains("memory is freed before the work that uses it has ended"):
                memory.free()
            stream.synchronize()
            memory.free()
            del stream

    @pytest.mark.parametrize("ordinal", [0, 1])
    @pytest.mark.parametrize("kind", ["device", "page-locked"])
    def test_memory_that_is_freed_in_another_context(self, device: Device, ordinal: int, kind: str) -> None:
        other = Device(ordinal)
        with device:
            memory: Any = device.allocate(8) if kind == "device" else device.page_locked(8).base
            with other, complains("the current context is not the one in which it was made"):
                memory.free()
            memory.free()
        other.release()

    @pytest.mark.parametrize("make", ["stream", "event"])
    def test_a_stream_or_event_that_is_dropped_in_another_context(
        self, machine: Machine, device: Device, make: str
    ) -> None:
        other = Device(1)
        with device:
            made = getattr(device, make)()
        with other:
            del made
        other.release()

        assert "is dropped in another context than its own" in machine.complaints[0]

    def test_an_event_of_another_context(self, device: Device) -> None:
        other = Device(1)
        with device:
            event = device.event()
            with other:
                stream = other.stream()
                with complains("event_record: the current context is not the one in which it was made"):
                    other.record(event, stream)
                del stream
            del event
        other.release()

    def test_the_defaults_of_pycuda_that_headrace_must_not_use(self, device: Device) -> None:
        import pycuda.driver as driver

        with device:
            with complains("other devices would take it for ordinary memory"):
                driver.pagelocked_empty((8,), np.uint8)
            with complains("the default stream would wait for it"):
                driver.Stream()
            with complains("waiting for it would keep a core busy"):
                driver.Event()

    def test_an_array_that_is_not_contiguous(self, device: Device, pool: PageLockedPool) -> None:
        import pycuda.driver as driver

        array = page_locked(pool, 1, 2, 3, 4)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            with complains("the array is not contiguous"):
                driver.memcpy_htod_async(int(memory), array[::2], stream)
            memory.free()
            del stream

    @pytest.mark.usefixtures("machine")
    def test_a_context_over_one_that_has_been_given_back(self, device: Device) -> None:
        other: Any = Device(1)

        def act() -> None:
            other._context.push()
            other._context.detach()
            with complains("push: a context that has been given back is current on this thread"):
                device.__enter__()

        in_thread(act)

    def test_memory_that_is_freed_twice(self, device: Device) -> None:
        with device:
            memory = device.allocate(8)
            memory.free()
            with complains("memory is freed twice"):
                memory.free()

    @pytest.mark.parametrize("offset", [-4, 4])
    def test_a_copy_beyond_the_devices_memory(self, device: Device, pool: PageLockedPool, offset: int) -> None:
        array = page_locked(pool, 1, 2)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            with complains("are not in one allocation"):
                device.copy_in(int(memory) + offset, array, stream)
            memory.free()
            del stream

    def test_a_copy_without_a_stream(self, device: Device, pool: PageLockedPool) -> None:
        array = page_locked(pool, 1, 2)
        with device:
            memory = device.allocate(8)
            with complains("on the default stream, for which all others wait"):
                device.copy_in(int(memory), array, None)
            memory.free()

    def test_a_stream_of_another_device(self, device: Device, pool: PageLockedPool) -> None:
        array, other = page_locked(pool, 1, 2), Device(1)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            with other, complains("the stream belongs to GPU 0, and the context to GPU 1"):
                device.copy_in(int(memory), array, stream)
            memory.free()
            del stream
        other.release()

    def test_an_event_that_was_never_recorded(self, device: Device) -> None:
        with device:
            event = device.event()
            with complains("it was never recorded"):
                device.wait(event)
            del event

    @pytest.mark.parametrize("make", ["stream", "event"])
    def test_a_stream_or_event_that_is_dropped_without_the_context(
        self, machine: Machine, device: Device, make: str
    ) -> None:
        with device:
            made = getattr(device, make)()
        del made

        assert "is dropped on a thread without a context" in machine.complaints[0]

    def test_a_stream_that_is_dropped_before_its_work_has_ended(
        self, machine: Machine, device: Device, pool: PageLockedPool
    ) -> None:
        array = page_locked(pool, 1, 2)
        with device:
            stream, memory = device.stream(), device.allocate(8)
            device.copy_in(int(memory), array, stream)
            del stream
            assert machine.complaints == ["a stream is dropped before its work has ended"]
            machine.streams.clear()
            memory.free()

    @pytest.mark.parametrize("what", ["a stream", "an event", "8 bytes of device", "4096 bytes of page-locked"])
    def test_a_leak(self, machine: Machine, device: Device, pool: PageLockedPool, what: str) -> None:
        make: dict[str, Callable[[], Any]] = {
            "a stream": device.stream,
            "an event": device.event,
            "8 bytes of device": lambda: device.allocate(8),
            "4096 bytes of page-locked": lambda: pool.empty((8,), FLOAT),
        }
        with device:
            made = make[what]()
            with complains(f"not freed: .*{what}"):
                machine.check_nothing_left()
            if what == "8 bytes of device":
                made.free()
            del made

    @pytest.mark.usefixtures("device")
    def test_a_context_that_is_not_given_back(self, machine: Machine) -> None:
        with complains("1 references to the context of GPU 0"):
            machine.check_nothing_left()
