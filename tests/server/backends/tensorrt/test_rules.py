"""The TensorRT double complains about every broken rule: each test breaks one on purpose."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest

from headrace_server.backends.gpu.cuda import Device, PageLockedPool
from headrace_server.backends.gpu.cuda_graph import Graph
from headrace_server.errors import ServingError
from tests.gpu_doubles.graphs import Libcuda
from tests.gpu_doubles.installed import install_tensorrt
from tests.gpu_doubles.machine import Complaint, Machine
from tests.gpu_doubles.plans import plan_of
from tests.support import models

FLOAT = np.dtype(np.float32)


@dataclass
class Scene:
    """An engine for `x` float [1 to 8, 4], a context of it, and everything that a run needs.

    Attributes:
        says: The messages that TensorRT has logged.
    """

    machine: Machine
    libcuda: Libcuda
    device: Device
    trt: Any
    context: Any
    stream: Any
    memory: dict[str, Any]
    says: list[str]

    def prepare(self) -> None:
        assert self.context.set_input_shape("x", (2, 4))
        for name, memory in self.memory.items():
            self.context.set_tensor_address(name, int(memory))


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scene]:
    machine = Machine(devices=2)
    libcuda = install_tensorrt(monkeypatch, machine)
    import tensorrt as trt

    says: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, msg: str) -> None:
            says.append(f"{severity.name}: {msg}")

    plan = plan_of(onnx.load(models.linear(tmp_path / "1")), {"x": ((1, 4), (8, 4), (8, 4))})
    device = Device(0)
    with device:
        runtime = trt.Runtime(Log())
        engine = runtime.deserialize_cuda_engine(plan)
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
        stream = device.stream()
        memory = {"x": device.allocate(32), "y": device.allocate(8)}
        scene = Scene(machine, libcuda, device, trt, context, stream, memory, says)
        del context, engine, runtime, stream
        yield scene
        scene.stream.synchronize()
        for allocation in memory.values():
            allocation.free()
        scene.context = scene.stream = None
    device.release()
    machine.check_nothing_left()


def complains(of: str) -> Any:
    return pytest.raises(Complaint, match=of)


def test_a_run_that_keeps_the_rules(scene: Scene) -> None:
    pool = PageLockedPool(scene.device)
    x, y = pool.page_locked(np.ones((2, 4), np.float32)), pool.empty((2, 1), FLOAT)
    scene.prepare()
    scene.device.copy_in(int(scene.memory["x"]), x, scene.stream)
    assert scene.context.execute_async_v3(scene.stream.handle)
    scene.device.copy_out(y, int(scene.memory["y"]), scene.stream)
    scene.stream.synchronize()

    assert y.tolist() == [[4], [4]]
    assert scene.machine.complaints == []
    pool.close()
    del x, y


@pytest.mark.parametrize("shape", [(9, 4), (0, 4), (2, 5), (2,)])
def test_a_shape_outside_the_profile(scene: Scene, shape: tuple[int, ...]) -> None:
    assert scene.context.set_input_shape("x", shape) is False
    assert scene.says[0].startswith("ERROR: IExecutionContext::setInputShape: Error Code 3")


def test_a_shape_that_was_never_set(scene: Scene) -> None:
    with complains("the shape of x was never set"):
        scene.context.execute_async_v3(scene.stream.handle)


@pytest.mark.parametrize("name", ["x", "y"])
def test_an_address_that_was_never_set(scene: Scene, name: str) -> None:
    scene.context.set_input_shape("x", (2, 4))
    other = "y" if name == "x" else "x"
    scene.context.set_tensor_address(other, int(scene.memory[other]))

    with complains(f"the address of {name} was never set"):
        scene.context.execute_async_v3(scene.stream.handle)


def test_memory_that_is_too_small(scene: Scene) -> None:
    scene.prepare()
    scene.context.set_input_shape("x", (3, 4))

    with complains("x: 48 bytes at .* are not in one allocation"):
        scene.context.execute_async_v3(scene.stream.handle)


def test_page_locked_memory_for_the_devices(scene: Scene) -> None:
    pool = PageLockedPool(scene.device)
    x = pool.empty((2, 4), FLOAT)
    scene.prepare()
    scene.context.set_tensor_address("x", x.ctypes.data)

    with complains("x is in memory of another kind, or of another GPU"):
        scene.context.execute_async_v3(scene.stream.handle)
    pool.close()


@pytest.mark.parametrize("handle", [0, 12345])
def test_no_stream(scene: Scene, handle: int) -> None:
    scene.prepare()

    with complains("default stream" if not handle else "there is no stream 12345"):
        scene.context.execute_async_v3(handle)


def test_memory_that_is_freed_before_the_run_has_ended(scene: Scene) -> None:
    scene.prepare()
    scene.context.execute_async_v3(scene.stream.handle)

    with complains("memory is freed before the work that uses it has ended"):
        scene.memory["x"].free()


def test_a_context_used_from_two_threads_at_once(scene: Scene) -> None:
    scene.prepare()
    scene.context.execute_async_v3(scene.stream.handle)

    def use() -> None:
        with scene.device:
            scene.context.set_input_shape("x", (1, 4))

    raised: list[BaseException] = []
    thread = Thread(target=lambda: raised.extend(_caught(use)))
    thread.start()
    thread.join()

    assert [str(error) for error in raised] == ["set_input_shape: a context is used from two threads at once"]
    raised.clear()


def _caught(act: Any) -> list[BaseException]:
    try:
        act()
    except Complaint as error:
        return [error]
    return []


def test_a_context_used_on_another_gpu(scene: Scene) -> None:
    other = Device(1)
    with other, complains("the context of another GPU is current"):
        scene.prepare()
    other.release()


def test_a_context_that_is_dropped_without_the_gpus_context(scene: Scene) -> None:
    trt = scene.trt
    engine = scene.context._engine
    extra = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
    scene.device.__exit__()
    number, own = extra._number, extra._own
    del extra
    scene.device.__enter__()

    assert scene.machine.complaints == ["an execution context is dropped on a thread without its context"]
    del scene.machine.live[number]
    scene.machine.free_memory(own)


def test_a_context_that_is_dropped_before_its_run_has_ended(scene: Scene) -> None:
    scene.prepare()
    engine, number, own = scene.context._engine, scene.context._number, scene.context._own
    scene.context.execute_async_v3(scene.stream.handle)
    scene.context = None

    assert scene.machine.complaints == ["memory is freed before the work that uses it has ended"]
    scene.stream.synchronize()
    scene.machine.free_memory(own)
    del scene.machine.live[number], engine


def test_a_missing_profile(scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="Error in set optimization profile async"):
        scene.context.set_optimization_profile_async(1, scene.stream.handle)


def test_an_address_that_is_not_aligned(scene: Scene) -> None:
    with complains("x at 0x.* is not aligned to 256 bytes"):
        scene.context.set_tensor_address("x", int(scene.memory["x"]) + 4)


def test_an_allocator_that_is_set_again(scene: Scene) -> None:
    allocator = scene.trt.IOutputAllocator()
    scene.context.set_output_allocator("y", allocator)

    with complains("set again for y, which leaks a reference"):
        scene.context.set_output_allocator("y", allocator)


def test_a_second_logger(scene: Scene) -> None:
    class Log(scene.trt.ILogger):  # type: ignore[misc, name-defined]
        pass

    for make in (scene.trt.Runtime, scene.trt.Builder):
        with complains("a second logger, which is ignored"):
            make(Log())


@pytest.mark.parametrize("made", ["create_network", "create_builder_config"])
def test_build_objects_dropped_without_the_gpus_context(scene: Scene, made: str) -> None:
    builder = scene.trt.Builder(scene.machine.logger)
    part = getattr(builder, made)(*([2] if made == "create_network" else []))
    number, own = part._number, part._own
    scene.device.__exit__()
    del part
    scene.device.__enter__()

    assert [line.partition(" is dropped on a thread without its context")[1] for line in scene.machine.complaints] == [
        " is dropped on a thread without its context"
    ]
    scene.machine.free_memory(own)
    del scene.machine.live[number], builder


def test_an_interface_that_was_not_initialized(scene: Scene) -> None:
    class Log(scene.trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

    with pytest.raises(AssertionError):
        scene.trt.Runtime(Log())


class TestGraphs:
    def capture(self, scene: Scene) -> Graph:
        return Graph(scene.stream.handle, lambda: scene.context.execute_async_v3(scene.stream.handle))

    def test_a_capture_that_keeps_the_rules(self, scene: Scene) -> None:
        scene.prepare()
        graph = self.capture(scene)
        graph.launch(scene.stream.handle)
        scene.stream.synchronize()
        graph.close()

        assert scene.libcuda.launches == 1

    def test_a_context_that_is_changed_after_its_capture(self, scene: Scene) -> None:
        scene.prepare()
        graph = self.capture(scene)
        with complains("a graph was captured from this context, and would change with it"):
            scene.context.set_input_shape("x", (1, 4))
        graph.close()

    def test_memory_that_was_freed_after_the_capture(self, scene: Scene) -> None:
        scene.prepare()
        graph = self.capture(scene)
        scene.memory["x"].free()
        with complains("graph_launch: memory that the graph uses has been freed"):
            graph.launch(scene.stream.handle)
        graph.close()
        scene.memory["x"] = scene.device.allocate(32)

    def test_a_stream_that_is_waited_for_while_it_is_captured(self, scene: Scene) -> None:
        with complains("a stream that is being captured is waited for"):
            Graph(scene.stream.handle, scene.stream.synchronize)

    def test_a_stream_that_is_not_idle(self, scene: Scene) -> None:
        scene.prepare()
        scene.context.execute_async_v3(scene.stream.handle)

        with pytest.raises(ServingError, match="cuStreamBeginCapture_v2 failed: CUDA error 1"):
            self.capture(scene)

    @pytest.mark.parametrize("call", ["mem_alloc", "mem_free", "pagelocked_empty"])
    def test_memory_that_comes_or_goes_while_its_thread_captures(self, scene: Scene, call: str) -> None:
        memory = scene.device.allocate(8)
        act = {
            "mem_alloc": lambda: scene.device.allocate(8),
            "mem_free": memory.free,
            "pagelocked_empty": lambda: scene.device.page_locked(8),
        }[call]
        with complains(f"{call}: this thread captures a stream"):
            Graph(scene.stream.handle, act)
        memory.free()

    def test_a_graph_that_is_not_closed(self, scene: Scene) -> None:
        scene.prepare()
        graph = self.capture(scene)
        with complains("not freed: a graph, a graph"):
            scene.machine.check_nothing_left()
        graph.close()


class TestBuilding:
    @pytest.mark.parametrize(
        ("version", "flags", "complaint"),
        [
            ("11.4.0", 2, "flags that TensorRT 11 deprecates"),
            ("10.9.0", 0, "it is weakly typed"),
        ],
    )
    def test_networks_are_strongly_typed(
        self, monkeypatch: pytest.MonkeyPatch, version: str, flags: int, complaint: str
    ) -> None:
        machine = Machine()
        install_tensorrt(monkeypatch, machine, version)
        import tensorrt as trt

        from headrace_server.backends.tensorrt.engine import Log

        device = Device(0)
        with device, complains(complaint):
            trt.Builder(Log()).create_network(flags)
        device.release()
