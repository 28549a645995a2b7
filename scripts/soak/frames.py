"""HTTP/2 frames as written by clients without a library, or by hostile ones."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
CANCEL = 8
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def opened(window: int = 65_535) -> bytes:
    """The start of a connection with an initial window of `window` bytes for each stream's answer."""
    return PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))


def headers(stream: int, **more: str) -> bytes:
    """The frame that begins a Predict."""
    return frame(HEADERS, END_HEADERS, stream, head(**more))


def head(**more: str) -> bytes:
    """A Predict's headers, neither indexed nor compressed."""
    named = {":method": "POST", ":scheme": "http", ":path": PREDICT, "content-type": "application/grpc"}
    named |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(literal(name, value) for name, value in named.items())


def literal(name: str, value: str) -> bytes:
    """A literal HPACK header; both texts are shorter than 127 bytes."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(stream: int, message: bytes, **more: str) -> bytes:
    """A whole Predict."""
    return headers(stream, **more) + frame(DATA, END_STREAM, stream, prefixed(message))


def prefixed(message: bytes) -> bytes:
    """A message after its gRPC prefix."""
    return b"\0" + struct.pack(">I", len(message)) + message


def hpack_bomb(stream: int, references: int) -> bytes:
    """A header of 4,000 bytes, put into HPACK's table and then referenced again and again, with one byte each."""
    value = b"x" * 3_900
    # An integer with a prefix of seven bits: 127, and the rest in two bytes.
    rest = len(value) - 127
    length = bytes([127, rest % 128 | 0x80, rest // 128])
    entry = b"\x40\x01a" + length + value
    # 62 is the newest entry of the table.
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, head() + entry + b"\xbe" * references)
