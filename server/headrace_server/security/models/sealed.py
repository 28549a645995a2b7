r"""Sealed models: a version's files as one encrypted archive, which is opened only in memory.

The format, all numbers big-endian:

    16 bytes    "headrace-sealed\n"
    1 byte      1, the format's version
    8 bytes     the ID of the model key: the first bytes of SHA-256("headrace model key" + key)
    32 bytes    a random salt
    then chunks of 1,048,576 bytes, the last of 0 to 1,048,576, each encrypted by AES-256-GCM, with its tag of 16 bytes

The key of the chunks is HKDF-SHA256(model key, salt, info = the 25 bytes before the salt). The nonce of a chunk is its
number in 11 bytes, from 0, and a byte that is 1 for the last chunk and 0 for any other; the associated data are the 57
bytes before the first chunk. So a chunk cannot be changed, left out, repeated, moved, or taken from another archive,
and an archive cannot be cut short. The plain bytes are a tar archive of regular files.

A file of `age` is opened as well (age.py).
"""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from headrace_server.security.models.age import MAGIC as AGE_MAGIC
from headrace_server.security.models.age import open_age
from headrace_server.security.models.archive import BadSeal, read_archive, write_archive
from headrace_server.security.models.model_keys import ID_BYTES, KEY_BYTES, ModelKeys, key_id
from headrace_server.security.models.private_files import MemoryFile
from headrace_server.security.packages import needs

MAGIC = b"headrace-sealed\n\x01"
CHUNK = 1 << 20

_SALT_BYTES, _TAG_BYTES = 32, 16
HEADER_BYTES = len(MAGIC) + ID_BYTES + _SALT_BYTES


class _Cipher:
    """Encrypts or decrypts the chunks of one archive."""

    def __init__(self, key: bytes, header: bytes) -> None:
        with needs("signing"):
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives import hashes
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        salt, info = header[-_SALT_BYTES:], header[:-_SALT_BYTES]
        self._aead = AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, salt, info).derive(key))
        self._invalid = InvalidTag
        self._header = header
        self._number = 0

    def seal(self, chunk: bytes, *, last: bool) -> bytes:
        """Encrypts the next chunk."""
        return self._aead.encrypt(self._nonce(last=last), chunk, self._header)

    def open(self, chunk: bytes, *, last: bool) -> bytes:
        """Decrypts the next chunk.

        Raises:
            BadSeal: The chunk is not the one that was sealed.
        """
        number = self._number
        try:
            return self._aead.decrypt(self._nonce(last=last), chunk, self._header)
        except self._invalid as error:
            at = HEADER_BYTES + number * (CHUNK + _TAG_BYTES)
            raise BadSeal(f"it has been changed or truncated at or after byte {at}") from error

    def _nonce(self, *, last: bool) -> bytes:
        nonce = self._number.to_bytes(11, "big") + bytes([last])
        self._number += 1
        return nonce


class Sealing(io.RawIOBase):
    """A file for plain bytes, whose chunks are encrypted and written to another file.

    Args:
        key: A model key.
        out: The file that the chunks are written to.
    """

    def __init__(self, key: bytes, out: BinaryIO) -> None:
        super().__init__()
        header = MAGIC + key_id(key) + os.urandom(_SALT_BYTES)
        self._out = out
        self._cipher = _Cipher(key, header)
        self._waiting = bytearray()
        out.write(header)

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Any) -> int:
        """Writes plain bytes."""
        self._waiting += data
        while len(self._waiting) > CHUNK:  # the last chunk may be a full one
            self._out.write(self._cipher.seal(bytes(self._waiting[:CHUNK]), last=False))
            del self._waiting[:CHUNK]
        return len(data)

    def finish(self) -> None:
        """Writes the last chunk."""
        self._out.write(self._cipher.seal(bytes(self._waiting), last=True))
        self._waiting.clear()


def seal_files(files: Mapping[str, Path], key: bytes, out: BinaryIO) -> None:
    """Seals files, by their names within the version.

    Raises:
        OSError: A file cannot be read, or the archive cannot be written.
    """
    sealing = Sealing(key, out)
    write_archive(files, sealing)
    sealing.finish()


class _Opening(io.RawIOBase):
    """A file from which the plain bytes are read after they have been authenticated."""

    def __init__(self, file: BinaryIO, keys: Callable[[], ModelKeys]) -> None:
        super().__init__()
        header = file.read(HEADER_BYTES)
        if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
            raise BadSeal("it is not a sealed model")
        identity = header[len(MAGIC) : len(MAGIC) + ID_BYTES]
        key = keys().by_id.get(identity)
        if key is None:
            raise BadSeal(f"it is sealed with the key {identity.hex()}, which the server does not have")
        self._file = file
        self._cipher = _Cipher(key, header)
        self._next = file.read(CHUNK + _TAG_BYTES)
        self._ended = False
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, target: Any) -> int:
        """Reads into a buffer up to the end of the current chunk; returns 0 at the end of the file."""
        while not self._plain and not self._ended:
            chunk, self._next = self._next, self._file.read(CHUNK + _TAG_BYTES)
            self._ended = not self._next
            self._plain = memoryview(self._cipher.open(chunk, last=self._ended))
        count = min(len(target), len(self._plain))
        target[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count


def open_sealed(file: BinaryIO, keys: Callable[[], ModelKeys]) -> dict[str, MemoryFile]:
    """Opens a sealed model: returns its files, in memory, by their names within the version.

    Args:
        file: The archive, open for reading.
        keys: Returns the model keys.

    Raises:
        BadSeal: The archive was changed, or sealed with another key.
        ServingError: The keys cannot be read, or a package is missing.
    """
    if file.read(len(AGE_MAGIC)) == AGE_MAGIC:
        file.seek(0)
        return open_age(file, keys())
    file.seek(0)
    return read_archive(io.BufferedReader(_Opening(file, keys), CHUNK))
