"""Measures what an API key costs a small Predict: python -m scripts.credential_costs [--groups=8] [--seconds=0.4].

gRPC's implementations send a header in two ways: those in Go and Java put it into HPACK's table once and refer to it
with each call; C core (Python, C++) sends its bytes each time. Calls of clients that compress these bytes cost more:
see docs/security.md. Here, one connection sends 64 calls at once, waits for their answers, and goes on, so that the
batches are the same in every turn.

Two processes of the same program differ by up to 3%, so there are groups of two new servers: one checks keys, and the
other does not. Their turns alternate, and each turn is compared with a call without a header in the turn before. The
result is the median over the groups.
"""

import argparse
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from headrace_server.security.keys import create_key
from scripts.bench.cases import CASES, Case
from scripts.bench.contenders import headrace_command
from scripts.bench.load import PREDICT
from scripts.bench.process import running
from scripts.bench.requests import request
from scripts.soak.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    literal,
    prefixed,
)

GROUPS, ROUNDS, SECONDS = 8, 4, 0.4
CALLS = 64
"""The number of calls that are sent at once."""

ACKNOWLEDGED = 1
FRAME_HEAD = 9
WAYS = ("", "as bytes", "by HPACK's table")
"""The ways of sending the authorization header; with the first one, it is not sent."""

_POST, _HTTP = b"\x83", b"\x86"


class Caller:
    """A connection that sends equal calls, many at once.

    Args:
        port: The server's port on loopback.
        message: The PredictRequest.
        key: The API key; empty for calls without a header.
        way: How the header is sent.
    """

    def __init__(self, port: int, message: bytes, key: str, way: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._body = prefixed(message)
        self._stream = 1
        self._left = b""
        wide = struct.pack(">I", (1 << 31) - (1 << 16))
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, wide))
        self._socket.sendall(frame(SETTINGS, ACKNOWLEDGED, 0))
        headers = [(":path", PREDICT), (":authority", "localhost"), ("content-type", "application/grpc")]
        headers += [("te", "trailers"), ("user-agent", "grpc-go/1.80.0"), ("grpc-timeout", "99999999u")]
        shown = ("authorization", f"Bearer {key}")
        if key and way == WAYS[2]:
            headers.append(shown)
        # 62 is the newest entry of the table.
        newest = 61 + len(headers)
        again = b"".join(_indexed(newest - place) for place in range(len(headers)))
        once = b"".join(_kept(name, value) for name, value in headers)
        more = literal(*shown) if key and way == WAYS[1] else b""
        self._call(1, _POST + _HTTP + once + more)
        self._call(CALLS, _POST + _HTTP + again + more)
        self._head = _POST + _HTTP + again + more

    def run(self, seconds: float) -> int:
        """Sends calls for about this many seconds, and returns how many were answered."""
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            self._call(CALLS, self._head)
            count += CALLS
        return count

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _call(self, count: int, head: bytes) -> None:
        """Makes calls at once, and waits for their answers."""
        call = frame(HEADERS, END_HEADERS, 0, head) + frame(DATA, END_STREAM, 0, self._body)
        sent = np.tile(np.frombuffer(call, np.uint8), (count, 1))
        numbers = (self._stream + 2 * np.arange(count)).astype(">u4").view(np.uint8).reshape(count, 4)
        for place in (5, FRAME_HEAD + len(head) + 5):
            sent[:, place : place + 4] = numbers
        self._stream += 2 * count
        self._socket.sendall(sent.tobytes())
        messages = ended = 0
        while ended < count:
            self._left += self._socket.recv(1 << 18) or _ended()
            while len(self._left) >= FRAME_HEAD:
                end = FRAME_HEAD + int.from_bytes(self._left[:3], "big")
                if len(self._left) < end:
                    break
                kind, flags = self._left[3], self._left[4]
                messages += kind == DATA
                ended += kind == HEADERS and bool(flags & END_STREAM)
                self._left = self._left[end:]
        if messages != count:
            raise SystemExit(f"{count - messages} of {count} calls failed")


def _ended() -> bytes:
    raise SystemExit("the server has closed the connection")


def _kept(name: str, value: str) -> bytes:
    """A header that is put into HPACK's table."""
    return b"\x40" + literal(name, value)[1:]


def _indexed(place: int) -> bytes:
    """A header that is the entry of HPACK's table at this place, which is below 127."""
    return bytes([0x80 | place])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table; returns 1 if a key costs a call more than half a microsecond."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=GROUPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("headrace")))
    options = parser.parse_args(arguments)
    differences: dict[tuple[str, str], list[float]] = {}
    plain: list[float] = []
    for _ in range(options.groups):
        costs = _group(options.program, options.rounds, options.seconds)
        plain.append(statistics.median(costs["sent", ""]))
        for kind, of_kind in costs.items():
            paired = zip(of_kind, costs["sent", ""], strict=True)
            differences.setdefault(kind, []).append(statistics.median(cost - base for cost, base in paired))
    print(f"a call without a header: {statistics.median(plain):.2f} us of CPU time")
    medians = {kind: statistics.median(of_kind) for kind, of_kind in differences.items()}
    for (check, way), more in medians.items():
        if way:
            error = 1.25 * statistics.stdev(differences[check, way]) / len(plain) ** 0.5 if len(plain) > 1 else 0.0
            print(f"a key {way}, {check}: {more:+.2f} us +- {error:.2f}")
    return int(any(more > 0.5 for (check, _), more in medians.items() if check == "checked"))


def _group(program: str, rounds: int, seconds: float) -> dict[tuple[str, str], list[float]]:
    """The microseconds of CPU time per call of two new servers, one that checks keys and one that does not."""
    case = CASES[0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        keys = Path(folder) / "keys.json"
        key = create_key(keys, "shop")
        kinds = {}
        for check, flags in (("sent", []), ("checked", [f"--auth_keys_file={keys}"])):
            base = Path(folder) / check / case.name
            base.parent.mkdir()
            case.save(base)
            command = _command(program, case, base, flags)
            server = stack.enter_context(running(command, Path(folder) / f"{check}.log"))
            for way in WAYS if check == "sent" else WAYS[1:]:
                caller = Caller(server.port, request(case, case.rows(1)), key if way else "", way)
                kinds[check, way] = server, stack.enter_context(closing(caller))
        costs: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
        for number in range(rounds + 1):
            for kind, (server, caller) in kinds.items() if number % 2 else reversed(kinds.items()):
                before = server.cpu_seconds()
                count = caller.run(seconds)
                if number:  # the first turn warms them up
                    costs[kind].append((server.cpu_seconds() - before) / count * 1e6)
    return costs


def _command(program: str, case: Case, base: Path, flags: Sequence[str]) -> Callable[[int], Sequence[str]]:
    def command(port: int) -> Sequence[str]:
        return [program, *list(headrace_command("native", case, base, port))[1:], *flags]

    return command


if __name__ == "__main__":
    sys.exit(main())
