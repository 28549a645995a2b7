"""Compares REST with a bare responder on the libraries that TensorFlow Serving uses: python -m scripts.bench.rest."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from .beside_bare import Sample, parser_of, table
from .cases import CASES
from .contenders import headrace_command
from .load import LoadError, h2load_version, post
from .process import Server, running

_SMALL = replace(CASES[0], max_batch_size=256)  # one body of the largest load may be a batch
_SOURCE = Path(__file__).with_name("evhttp_responder.cc")
_BUILD = Path(__file__).parents[2] / "build" / "bench"
_PATH = f"/v1/models/{_SMALL.name}:predict"

BARE = "evhttp + RapidJSON, no model"
NATIVE = "headrace, native"
UVICORN = "headrace, uvicorn"


@dataclass(frozen=True)
class Load:
    """Bodies of this many rows of 16 floats, over connections with one request in flight each."""

    rows: int
    connections: int

    def __str__(self) -> str:
        return f"{self.rows} x 16 floats, {self.connections} callers"


LOADS = (Load(1, 64), Load(1, 1), Load(256, 64))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table of medians, measured with the servers in turn; returns 2 if something that it needs is missing."""
    options = parser_of("rest", __doc__).parse_args(arguments)
    if h2load_version() is None or shutil.which("g++") is None:
        print("this needs h2load (nghttp2-client), g++, libevent-dev and rapidjson-dev", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(Path(folder))
        samples = {load: bench.measure(load, options.rounds, options.seconds) for load in LOADS}
    print("\n".join(table("load", samples.items(), BARE)))
    return 0


class _Bench:
    """The servers, and the folder with their model and the bodies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _SMALL.save(folder / "model")
        responder = _built()
        self._servers: dict[str, Callable[[int], Sequence[str]]] = {
            BARE: lambda port: [str(responder), str(port), str(_SMALL.outputs)],
            NATIVE: partial(self._headrace, "native"),
            UVICORN: partial(self._headrace, "grpcio"),
        }

    def measure(self, load: Load, rounds: int, seconds: float) -> dict[str, list[Sample]]:
        """Measures each server in turn, round after round."""
        body = self._folder / "body"
        body.write_text(json.dumps({"instances": _SMALL.rows(load.rows).tolist()}))
        samples: dict[str, list[Sample]] = {}
        for _ in range(rounds):
            for name, command in self._servers.items():
                with running(command, self._folder / "server.log") as server:
                    _check(server, body, load.rows)
                    samples.setdefault(name, []).append(_sample(server, body, load, seconds))
        return samples

    def _headrace(self, transport: str, port: int) -> Sequence[str]:
        command = headrace_command(transport, _SMALL, self._folder / "model", port)
        return [part.replace("--port=", "--rest_api_port=") for part in command] + ["--port=0"]


def _built() -> Path:
    _BUILD.mkdir(parents=True, exist_ok=True)
    executable = _BUILD / "evhttp_responder"
    if not executable.exists() or executable.stat().st_mtime < _SOURCE.stat().st_mtime:
        command = ["g++", "-std=c++17", "-O2", "-DNDEBUG", str(_SOURCE), "-o", str(executable), "-levent"]
        subprocess.run(command, check=True)
    return executable


def _check(server: Server, body: Path, rows: int) -> None:
    with urlopen(f"http://{server.address}{_PATH}", body.read_bytes(), timeout=10) as answer:
        predictions = np.array(json.load(answer)["predictions"])
    if predictions.shape != (rows, _SMALL.outputs):
        raise LoadError(f"the answer to {rows} rows has shape {predictions.shape}")


def _sample(server: Server, body: Path, load: Load, seconds: float) -> Sample:
    count = load.connections
    rate = _run(server, body, load, count)
    while count / rate < seconds / 4:
        count = round(min(10 * count, rate * seconds / 2))
        rate = _run(server, body, load, count)
    count = max(load.connections, round(rate * seconds))
    before = server.cpu_seconds()
    rate = _run(server, body, load, count)
    return Sample(rate, (server.cpu_seconds() - before) / count * 1e6)


def _run(server: Server, body: Path, load: Load, count: int) -> float:
    return post(f"http://{server.address}{_PATH}", body, load.connections, count)


if __name__ == "__main__":
    sys.exit(main())
