"""gzip and deflate (zlib's format) for REST's infer requests and answers. Source: Triton's data_compressor.h."""

import gzip
import zlib
from collections.abc import Callable, Mapping

from headrace_server.errors import ServingError, invalid

MAX_INFLATED_BYTES = 64 << 20
"""The limit on an expanded body, in bytes: the default of Triton's --http-max-input-size."""

ACCEPTED = "gzip, deflate"

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "deflate": lambda data: zlib.compress(data, 1),
}


def is_known(encoding: str) -> bool:
    """Whether a Content-Encoding is supported."""
    return encoding in ("", "identity", *_WINDOWS)


def inflate(data: bytes | memoryview, encoding: str) -> bytes | memoryview:
    """Decompresses a body.

    Raises:
        ServingError: INVALID_ARGUMENT if it is not of that encoding, or expands too far.
    """
    if encoding not in _WINDOWS:
        return data
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = inflater.decompress(data, MAX_INFLATED_BYTES + 1)
    except zlib.error as error:
        raise _unreadable(encoding, str(error)) from error
    if len(plain) > MAX_INFLATED_BYTES:
        raise invalid(
            f"request JSON size of more than {MAX_INFLATED_BYTES} bytes exceeds the maximum allowed input size of "
            f"{MAX_INFLATED_BYTES} bytes. Use --http-max-input-size to increase the limit."
        )
    if not inflater.eof:
        raise _unreadable(encoding, "it is incomplete")
    return plain


def chosen(accepted: str) -> str:
    """The encoding of an answer, from an Accept-Encoding: the first with the highest weight; empty if there is none."""
    best, weight = "", 0.0
    for part in accepted.split(","):
        name, _, parameters = part.strip().partition(";")
        own = _weight(parameters)
        if name in (*_WINDOWS, "identity") and own > weight:
            best, weight = name, own
    return best if best in _WINDOWS else ""


def compress(data: bytes, encoding: str) -> bytes:
    """Compresses an answer's body in the chosen encoding."""
    return _COMPRESS[encoding](data)


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _unreadable(encoding: str, why: str) -> ServingError:
    return invalid(f"failed to decompress the request by {encoding}: {why}")
