"""Finds the libraries that a shared library needs and the system cannot load, without loading that library itself."""

import ctypes
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_ELF64_LITTLE = b"\x7fELF\x02\x01"


def why_not_loadable(library: Path) -> str:
    """The error for the first needed library that cannot be loaded; empty if all can be loaded.

    Libraries that can be loaded are loaded, and stay loaded.
    """
    for name in needed(library):
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return str(error)
    return ""


def needed(library: Path) -> tuple[str, ...]:
    """The names of the libraries that a file was linked with, in order; empty if it is not a 64-bit ELF file."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
        return tuple(_needed(elf)) if elf[: len(_ELF64_LITTLE)] == _ELF64_LITTLE else ()


def _needed(elf: mmap.mmap) -> Iterator[str]:
    """Reads the names. In ELF, the dynamic segment lists their offsets in a table, whose location is an address."""
    (start,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    segments = [struct.unpack_from("<IIQQQQ", elf, start + index * size) for index in range(count)]
    entries = [entry for kind, _, offset, *_ in segments if kind == _PT_DYNAMIC for entry in _entries(elf, offset)]
    names = [_offset(segments, value) for tag, value in entries if tag == _DT_STRTAB]
    for tag, value in entries:
        if tag == _DT_NEEDED:
            at = names[0] + value
            yield elf[at : elf.find(b"\0", at)].decode()


def _entries(elf: mmap.mmap, offset: int) -> Iterator[tuple[int, int]]:
    while True:
        tag, value = struct.unpack_from("<QQ", elf, offset)
        if tag == _DT_NULL:
            return
        yield tag, value
        offset += 16


def _offset(segments: list[tuple[int, ...]], address: int) -> int:
    """The file offset of the bytes that are loaded at an address."""
    for kind, _, offset, start, _, size in segments:
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError(f"no segment holds {address:#x}")
