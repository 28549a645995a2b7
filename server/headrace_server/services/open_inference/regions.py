"""Regions of system shared memory, registered by name, that requests read and write.

A region is read and written through its file, not through a mapping: if another process shrinks the object, the kernel
then returns fewer bytes, while access to a mapping beyond the end would crash this process with SIGBUS. The
codes and texts are those of Triton's shared_memory_manager.cc.
"""

import errno
import mmap
import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace_protos import Code
from headrace_server.errors import ServingError, invalid, not_found
from headrace_server.services.open_inference.cuda_regions import CudaRegions

FOLDER = Path("/dev/shm")  # where Linux keeps the objects that shm_open opens

_RESERVED = "triton_python_backend_shm"


class Region(Protocol):
    """Memory that a request may name."""

    name: str
    byte_size: int

    def read(self, offset: int, size: int) -> bytearray:
        """A copy of some of the memory's bytes.

        Raises:
            ServingError: The bytes no longer exist.
        """

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Writes bytes into the memory.

        Raises:
            ServingError: There is no longer room for them.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a region.

    Attributes:
        region: The region, registered when the request came and usable until the last request that names it has ended.
        offset: The beginning of the part, in bytes from the region's start.
        size: The size of the part in bytes.
    """

    region: Region
    offset: int
    size: int

    def read(self) -> bytearray:
        """A copy of the part's bytes."""
        return self.region.read(self.offset, self.size)

    def write(self, data: bytes | memoryview) -> None:
        """Writes to the beginning of the part."""
        self.region.write(self.offset, data)


class SystemRegion:
    """A part of a POSIX shared memory object, open as long as this object lives.

    Args:
        name: The region's name in requests.
        key: The name of the shared memory object.
        offset: Where the region begins in the object, in bytes.
        byte_size: The region's size in bytes.

    Raises:
        ServingError: INTERNAL if there is no object with this key, or if it cannot be opened; INVALID_ARGUMENT if the
            region reaches beyond the end of the object, is empty, or does not begin at the start of a page.
    """

    def __init__(self, name: str, key: str, offset: int, byte_size: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._file = _open(key)
        weakref.finalize(self, os.close, self._file)
        if offset + byte_size > os.fstat(self._file).st_size:
            raise invalid(f"failed to register shared memory region '{name}': invalid args")
        if not byte_size or offset % mmap.PAGESIZE:
            reason = f"unable to process address space{os.strerror(errno.EINVAL)}"
            raise invalid(f"failed to register shared memory region '{name}': {reason}")

    def read(self, offset: int, size: int) -> bytearray:
        """A copy of some of the region's bytes; the kernel copies up to 2 GiB at a time.

        Raises:
            ServingError: INVALID_ARGUMENT if the object no longer has all of these bytes.
        """
        data = bytearray(size)
        left, start = memoryview(data), self.offset + offset
        while left:
            count = os.preadv(self._file, [left], start)
            if not count:
                raise self._shrunk()
            left, start = left[count:], start + count
        return data

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Writes bytes into the region.

        Raises:
            ServingError: INVALID_ARGUMENT if the object no longer has room for them; RESOURCE_EXHAUSTED if the system
                has no memory for them: an object has none for parts that nobody has written to.
        """
        left, start = memoryview(data), self.offset + offset
        if start + left.nbytes > os.fstat(self._file).st_size:
            raise self._shrunk()
        try:
            while left:
                count = os.pwrite(self._file, left, start)  # fewer bytes than asked if memory ends, and up to 2 GiB
                left, start = left[count:], start + count
        except OSError as error:
            text = f"shared memory region '{self.name}' cannot be written: {error.strerror}"
            raise ServingError(Code.RESOURCE_EXHAUSTED, text) from error

    def show(self, mirror: "Mirror") -> None:
        """Announces the region to a listener.

        Raises:
            ServingError: INTERNAL if the object cannot be opened again.
        """
        try:
            mirror.put(self.name, self._file, self.offset, self.byte_size)
        except OSError as error:
            raise ServingError(Code.INTERNAL, f"Unable to open shared memory region: '{self.key}'") from error

    def _shrunk(self) -> ServingError:
        return invalid(f"shared memory region '{self.name}' is smaller than when it was registered")


class Mirror(Protocol):
    """A listener that is told of every region: a transport that reads regions itself."""

    def put(self, name: str, descriptor: int, offset: int, size: int) -> None:
        """Adds a region: its name, its object's descriptor, and its position in the object, in bytes.

        Raises:
            OSError: The object cannot be opened again.
        """

    def remove(self, name: str) -> None:
        """Removes a region, if it exists."""

    def clear(self) -> None:
        """Removes all regions."""


class Regions:
    """The regions of system shared memory that callers have registered. In one event loop.

    Args:
        cuda: The regions of GPU memory, whose names must differ from these regions' names.
    """

    def __init__(self, cuda: CudaRegions | None = None) -> None:
        self.cuda = cuda or CudaRegions()
        self._regions: dict[str, SystemRegion] = {}
        self._mirrors: list[Mirror] = []

    def mirror(self, mirror: Mirror) -> None:
        """From now on, tells a listener of each region that is registered or removed."""
        self._mirrors.append(mirror)

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens a region under a name.

        Raises:
            ServingError: ALREADY_EXISTS if the name is taken; INTERNAL if the object cannot be opened, or a
                listener cannot open it again; INVALID_ARGUMENT if the region is not a part of the object, as for
                `SystemRegion`.
        """
        if name in self._regions:
            raise ServingError(Code.ALREADY_EXISTS, f"shared memory region '{name}' already in manager")
        region = SystemRegion(name, key, offset, byte_size)
        for mirror in self._mirrors:
            region.show(mirror)
        self._regions[name] = region

    def unregister(self, name: str) -> None:
        """Removes a region, or all of them if the name is empty; an unknown name is ignored."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()
        for mirror in self._mirrors:
            mirror.remove(name) if name else mirror.clear()

    def status(self, name: str) -> list[SystemRegion]:
        """One region, or all of them if the name is empty.

        Raises:
            ServingError: NOT_FOUND if there is no region with that name.
        """
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise not_found(f"Unable to find system shared memory region: '{name}'")
        return [self._regions[name]]

    def place(self, name: str, offset: int, size: int) -> Place:
        """A part of a region.

        Raises:
            ServingError: NOT_FOUND if there is no such region; INVALID_ARGUMENT if the part lies outside it.
        """
        region: Region | None = self._regions.get(name) or self.cuda.find(name)
        if region is None:
            raise not_found(f"Unable to find shared memory region: '{name}'")
        if not 0 <= offset < region.byte_size:
            raise invalid(f"Invalid offset for shared memory region: '{name}'")
        if size < 0 or offset + size > region.byte_size:
            raise invalid(f"Invalid offset + byte size for shared memory region: '{name}'")
        return Place(region, offset, size)


def _open(key: str) -> int:
    """Opens an object as shm_open does, and returns its descriptor; the name may have a slash only at its beginning."""
    bare = key.lstrip("/")
    unusable = not bare or "/" in bare or "\0" in bare or bare in (".", "..")
    try:
        if unusable or bare.startswith(_RESERVED):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        file = os.open(FOLDER / bare, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ServingError(Code.INTERNAL, f"Unable to open shared memory region: '{key}'") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ServingError(Code.INTERNAL, f"Unable to open shared memory region: '{key}'")
    return file
