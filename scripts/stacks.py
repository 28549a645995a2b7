"""Reads the stacks that perf samples, and finds which part of a request's path each belongs to."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

OTHER = "other"


class Frame(NamedTuple):
    """A function and the file that it is in."""

    name: str
    file: str


Stack = list[Frame]

_FRAME = re.compile(r"^\s+[0-9a-f]+ (.+) \((.+)\)$")

# Parts of the path by substrings of a function's name: the first match in the innermost frame that has one is used.
_KERNEL = (
    ("kernel: TCP, sending", ("sendmsg", "sys_send", "sys_write", "sock_write")),
    ("kernel: TCP, receiving", ("recvmsg", "sys_recv", "sys_read", "sock_read")),
    ("kernel: waiting for sockets", ("epoll",)),
    ("kernel: threads waking and waiting", ("futex",)),
)
_NATIVE = (
    ("joining a batch", ("batch::Batch::join", "Batch::join", "Values::copy_to", "Rope::copy_to")),
    ("encoding answers", ("Task::answer", "Rows", "batch::answer")),
    ("handing answers over", ("Answer::send", "Answers", "Answer::try_send")),
    ("decoding a Predict", ("predict::", "rope::", "wire::", "tensor::")),
    ("queue", ("queue::", "tasks::", "parking_lot")),
    ("gRPC's framing and headers", ("headrace_native::grpc", "headrace_native::connection", "headrace_native::stream")),
    ("HTTP/2", ("h2::", "http::", "indexmap", "slab")),
    ("tokio", ("tokio::", "mio::")),
    ("interpreter", ("pyo3",)),
)
# The callers of the C library's allocator are unknown, since it keeps no frame pointers.
_LIBC = (("allocator", ("malloc", "free", "calloc", "realloc", "unlink_chunk")),)
_FILES = (
    ("ONNX Runtime", ("onnxruntime",)),
    ("interpreter", ("python", "_multiarray_umath", "uvloop", "_asyncio")),
)


def stacks(lines: Iterable[str]) -> Iterator[Stack]:
    """Yields each sample's stack, the innermost frame first, from the output of `perf script`."""
    stack: Stack = []
    for line in lines:
        if match := _FRAME.match(line):
            stack.append(Frame(match[1].partition("+0x")[0], match[2]))
        elif not line.strip() and stack:
            yield stack
            stack = []
    if stack:
        yield stack


def group_of(stack: Stack) -> str:
    """The part of the path that a sample belongs to."""
    if _in_kernel(stack[0]):
        names = [frame.name for frame in stack if _in_kernel(frame)]
        return next((group for name in names if (group := _named(name, _KERNEL))), "kernel: other")
    return next((group for frame in stack if (group := _of_frame(frame))), OTHER)


def _in_kernel(frame: Frame) -> bool:
    return frame.file.startswith("[kernel")


def _of_frame(frame: Frame) -> str | None:
    if "headrace_native" in frame.file:
        return _named(frame.name, _NATIVE)
    if "libc" in frame.file:
        return _named(frame.name, _LIBC)
    return _named(frame.file, _FILES)


def _named(name: str, groups: Iterable[tuple[str, tuple[str, ...]]]) -> str | None:
    return next((group for group, parts in groups if any(part in name for part in parts)), None)
