"""TFRecord files: records of bytes, each with its length, and checksums of both."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from google_crc32c import value as crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CRC.size
_FRAME_BYTES = _HEADER_BYTES + _CRC.size


class CorruptRecordError(Exception):
    """A file is cut short, has been changed, or is not a TFRecord file. The text is TensorFlow's, with the offset."""


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """Yields the records of a file, in order, one in memory at a time.

    A header that is cut short ends the file, as in TensorFlow.

    Args:
        file: A seekable file, open at its start: no record may claim more bytes than exist.

    Raises:
        CorruptRecordError: A record differs from its checksums.
    """
    size = file.seek(0, 2)
    offset = file.seek(0)
    while len(header := file.read(_HEADER_BYTES)) == _HEADER_BYTES:
        yield _read_record(file, header, offset, size)
        offset = file.tell()


def _read_record(file: BinaryIO, header: bytes, offset: int, size: int) -> bytes:
    if not _is_intact(header, _LENGTH.size):
        hint = "" if offset else " (Is this even a TFRecord file?)"
        raise CorruptRecordError(f"corrupted record at {offset}{hint}")
    (length,) = _LENGTH.unpack_from(header)
    if offset + _FRAME_BYTES + length > size:
        raise CorruptRecordError(f"truncated record at {offset}' failed with Read less bytes than requested")
    data = file.read(length + _CRC.size)
    if not _is_intact(data, length):
        raise CorruptRecordError(f"corrupted record at {offset + _HEADER_BYTES}")
    return data[:length]


def frame(record: bytes) -> bytes:
    """A record in the format of a file; a file consists only of such records."""
    length = _LENGTH.pack(len(record))
    return b"".join((length, _checksum(length), record, _checksum(record)))


def _is_intact(data: bytes, length: int) -> bool:
    """Whether the checksum after `length` bytes matches them."""
    return data[length:] == _checksum(data[:length])


def _checksum(data: bytes) -> bytes:
    """The masked checksum of some bytes: a checksum over bytes that include an unmasked one would be weak."""
    crc = crc32c(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
