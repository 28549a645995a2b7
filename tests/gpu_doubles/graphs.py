"""The calls of `libcuda.so.1` that capture and launch graphs, on a `Machine`."""

import ctypes
from threading import get_ident
from typing import Any

from .machine import Machine, Work

INVALID = 1  # CUDA_ERROR_INVALID_VALUE


class Libcuda:
    """The library that `ctypes.CDLL("libcuda.so.1")` returns: each call takes ctypes objects and returns a status.

    Attributes:
        launches: The number of launches.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._graphs: dict[int, list[Work]] = {}
        self._launchable: dict[int, list[Work]] = {}
        self.launches = 0

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: ctypes.c_int) -> int:  # noqa: N802
        assert mode.value == 1
        state = self._machine.stream(_value(stream), self._machine.enter("begin_capture"), "begin_capture")
        if state.work or state.captured is not None:
            return INVALID
        state.captured = []
        self._machine.captures[get_ident()] = state.handle
        return 0

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:  # noqa: N802
        state = self._machine.stream(_value(stream), self._machine.enter("end_capture"), "end_capture")
        if state.captured is None:
            return INVALID
        self._new(graph, self._graphs, state.captured)
        state.captured = None
        del self._machine.captures[get_ident()]
        return 0

    def cuGraphInstantiateWithFlags(self, made: Any, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong) -> int:  # noqa: N802
        assert not flags.value
        self._machine.enter("graph_instantiate")
        self._new(made, self._launchable, self._graphs[_value(graph)])
        return 0

    def cuGraphLaunch(self, made: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:  # noqa: N802
        state = self._machine.stream(_value(stream), self._machine.enter("graph_launch"), "graph_launch")
        for work in self._launchable[_value(made)]:
            if not all(memory.live for memory in work.uses):
                raise self._machine.complain("graph_launch: memory that the graph uses has been freed")
            self._machine.put(state, Work(work.run, work.uses))
        self.launches += 1
        return 0

    def cuGraphExecDestroy(self, made: ctypes.c_void_p) -> int:  # noqa: N802
        return self._destroy(self._launchable, made)

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:  # noqa: N802
        return self._destroy(self._graphs, graph)

    def _new(self, handle: Any, where: dict[int, list[Work]], works: list[Work]) -> None:
        with self._machine.alive("a graph") as number:
            handle._obj.value = number
            where[number] = works

    def _destroy(self, where: dict[int, list[Work]], handle: ctypes.c_void_p) -> int:
        self._machine.enter("graph_destroy")
        del where[_value(handle)], self._machine.live[_value(handle)]
        return 0


def _value(handle: ctypes.c_void_p) -> int:
    return handle.value or 0
