"""Measures one server with `headrace bench` and h2load in turn: python -m scripts.load_beside_h2load [--rounds=5].

Needs an otherwise idle machine, since it compares rates. h2load has no open loop with random times, so both load at a
constant rate. Exits with status 1 if the two differ by more than 5%.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headrace_client import request
from headrace_client.bench.points import Point
from headrace_client.bench.running import run
from headrace_client.bench.settings import Settings, Stage
from scripts.bench.process import running

CONNECTIONS = 4
STREAMS = 16
RATE = 5000
MOST_DIFFERENCE = 0.05

_DIGITS = Path(__file__).parents[1] / "models" / "digits"
_DONE = re.compile(r"finished in ([\d.]+)(m?s), ([\d.]+) req/s")
_REQUESTS = re.compile(r"(\d+) succeeded, (\d+) failed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a line for each load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, running(_command, Path(folder) / "log") as server:
        message = Path(folder) / "message"
        message.write_bytes(_framed())
        return _compared(server.address, message, told.rounds, told.seconds)


def _command(port: int) -> Sequence[str]:
    return [str(Path(sys.executable).with_name("headrace")), "serve", str(_DIGITS), f"--port={port}"]


def _framed() -> bytes:
    call = request.predict(request.model_spec("digits"), {"image": np.zeros((1, 64), np.float32)}, ())
    message = call.message()
    return b"\0" + len(message).to_bytes(4, "big") + message


def _compared(target: str, message: Path, rounds: int, seconds: int) -> int:
    settings = Settings(servers=(target,), models={"digits": 1.0}, seconds=seconds, warmup=0.5, connections=CONNECTIONS)
    worst = 0.0
    for stage in (Stage("closed", CONNECTIONS * STREAMS), Stage("constant", RATE)):
        ours: list[Point] = []
        theirs: list[float] = []
        for _ in range(rounds):
            ours += run(replace(settings, stages=(stage,)), lambda *_: None)
            theirs.append(_h2load(target, message, stage, int(ours[-1].rate * seconds)))
        own, other = statistics.median(point.rate for point in ours), statistics.median(theirs)
        cpu = statistics.median(point.cpu_per_call for point in ours) * 1e6
        worst = max(worst, abs(own / other - 1))
        print(f"{stage}: headrace bench {own:,.0f}/s at {cpu:.1f} us of CPU, h2load {other:,.0f}/s, {own / other:.3f}")
    return int(worst > MOST_DIFFERENCE)


def _h2load(target: str, message: Path, stage: Stage, count: int) -> float:
    """The calls per second of this many calls, all of which were answered."""
    shape = ["-c", str(CONNECTIONS), "-m", str(STREAMS), "-t", "1", "-d", str(message), "-n", str(count)]
    if stage.kind == "constant":
        shape.append(f"--rps={stage.value / CONNECTIONS:g}")
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    url = f"http://{target}/tensorflow.serving.PredictionService/Predict"
    said = subprocess.run(["h2load", *shape, *headers, url], capture_output=True, text=True, check=True).stdout
    done, requests = _DONE.search(said), _REQUESTS.search(said)
    if done is None or requests is None or int(requests[2]):
        raise SystemExit(f"h2load's output cannot be parsed:\n{said}")
    return float(done[3])


if __name__ == "__main__":
    sys.exit(main())
