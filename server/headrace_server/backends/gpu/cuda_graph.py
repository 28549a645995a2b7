"""CUDA graphs through the driver's own interface, since pycuda has no calls for them."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from headrace_protos import Code
from headrace_server.errors import ServingError

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not affect the capture


class Graph:
    """The work of one stream. Its addresses and shapes are those of the capture, and must not change.

    Args:
        stream: The handle of an idle stream, whose device's context is current.
        work: Puts the work into the stream.

    Raises:
        ServingError: INTERNAL if the work or the driver does not support capture. The stream is unchanged.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        self._library = library = _library()
        self._graph, self._launchable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call(library.cuStreamBeginCapture_v2, ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            with suppress(ServingError):
                self._call(library.cuStreamEndCapture, ctypes.c_void_p(stream), ctypes.byref(self._graph))
            self.close()
            raise
        self._call(library.cuStreamEndCapture, ctypes.c_void_p(stream), ctypes.byref(self._graph))
        try:
            made = ctypes.byref(self._launchable), self._graph, ctypes.c_ulonglong(0)
            self._call(library.cuGraphInstantiateWithFlags, *made)
        except ServingError:
            self.close()
            raise

    def launch(self, stream: int) -> None:
        """Enqueues the whole graph on a CUDA stream."""
        self._call(self._library.cuGraphLaunch, self._launchable, ctypes.c_void_p(stream))

    def close(self) -> None:
        """Frees the graph; none of it may be running."""
        if self._launchable.value:
            self._call(self._library.cuGraphExecDestroy, self._launchable)
            self._launchable = ctypes.c_void_p()
        if self._graph.value:
            self._call(self._library.cuGraphDestroy, self._graph)
            self._graph = ctypes.c_void_p()

    def _call(self, function: Any, *arguments: object) -> None:
        status = function(*arguments)
        if status:
            raise ServingError(Code.INTERNAL, f"{function.__name__} failed: CUDA error {status}")


def _library() -> Any:
    """The driver's library, which pycuda has loaded already."""
    return ctypes.CDLL("libcuda.so.1")
